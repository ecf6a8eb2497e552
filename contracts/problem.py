"""The shape of every error answer (RFC 9457)."""

from pydantic import BaseModel


class FieldError(BaseModel):
    """One value that did not pass."""

    loc: list[str | int]
    msg: str


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
        """All of it, for people to read."""
        reasons = "".join(f" {fault.loc[-1]}: {fault.msg}." for fault in self.errors or ())
        return f"{self.title}. {self.detail}{reasons}"


class PlainError(BaseModel):
    """An error at the addresses of the standard protocols."""

    error: str
