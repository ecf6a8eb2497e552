"""The shape of every error response (RFC 9457)."""

from pydantic import BaseModel


class FieldError(BaseModel):
    """One invalid value."""

    loc: list[str | int]
    msg: str


def _ended(text: str) -> str:
    """The text as a sentence."""
    return text if text.endswith((".", "?", "!")) else f"{text}."


class Problem(BaseModel):
    """`application/problem+json`."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[FieldError] | None = None

    @property
    def sentence(self) -> str:
        """The whole problem in one line of text, nothing of it twice; a detail needs no title."""
        reasons = "".join(
            f" {error.loc[-1] if error.loc else 'value'}: {_ended(error.msg)}"
            for error in self.errors or ()
            if error.msg.rstrip(".") not in self.detail
        )
        return f"{self.detail or f'{self.title}.'}{reasons}"


class PlainError(BaseModel):
    """An error on the paths of the standard protocols."""

    error: str
