"""What a misspelt field or value was probably meant to be."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel

MAX_ERRORS = 100
"""Of a request's errors, so many are explained."""
MAX_COMPARED = 10
"""Of these, so many are compared with all names that there are."""
_MAX_NAME = 64

_NAME = "lowercase letters, digits, - and _, at most 64, with a letter or digit first"
_ALLOWED = {
    r"^[a-z0-9][a-z0-9_-]{0,63}$": f"Use {_NAME}: my-pets.",
    r"^[a-z][a-z0-9_-]{0,63}$": f"Use {_NAME.replace('letter or digit', 'letter')}: champion.",
    r"^[A-Za-z0-9_.-]{1,64}$": "Give a version's number or an alias: 2, champion.",
}
_ID = re.compile(r"\^((?:ds|sub|job|key|file)_)\[")
"""How the pattern of an identifier begins."""


def similar(name: str, known: Iterable[str]) -> str:
    """A question that names the most similar known names; empty if none is similar."""
    if len(name) > _MAX_NAME:
        return ""  # nobody has misspelt that, and comparing a megabyte takes seconds
    found = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(found)}?" if found else ""


def explained(error: Mapping[str, Any], model: type[BaseModel] | None, number: int = 0) -> str:
    """The message of one of pydantic's errors, with a suggestion if a name looks misspelt.

    Args:
        error: One item of `ValidationError.errors()`.
        model: What was validated; None if unknown.
        number: How many errors come before it. Only the first few have suggestions: each is a
            comparison with all names.
    """
    message, where = str(error["msg"]), tuple(error["loc"])
    compares = number < MAX_COMPARED
    if error["type"] == "extra_forbidden" and where and model is not None:
        meant = similar(str(where[-1]), _fields(model, where[:-1])) if compares else ""
        return f"There is no such field.{meant}"
    if error["type"] == "literal_error" and isinstance(error.get("input"), str) and compares:
        expected = str(error.get("ctx", {}).get("expected", ""))
        return message + similar(error["input"], _quoted(expected)).replace(" Did", ". Did")
    if error["type"] == "string_pattern_mismatch":
        return _in_words(str(error.get("ctx", {}).get("pattern", ""))) or message
    return message


def _in_words(pattern: str) -> str:
    """A description of what fits the pattern; empty if it has none."""
    if pattern in _ALLOWED:
        return _ALLOWED[pattern]
    prefix = _ID.match(pattern)
    return f"An id begins with {prefix[1]}, as lists show it." if prefix is not None else ""


def _quoted(expected: str) -> list[str]:
    """The values in pydantic's list of what it expected: 'a', 'b' or 'c'."""
    return expected.split("'")[1::2]


def _fields(model: type[BaseModel] | None, where: Sequence[str | int]) -> list[str]:
    """The names of the fields at a place in a model."""
    for name in where:
        if model is None:
            return []
        if isinstance(name, int):
            continue
        field = next((f for key, f in model.model_fields.items() if name in {key, f.alias}), None)
        model = _model_in(field.annotation) if field is not None else None
    return list(model.model_fields) if model is not None else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The first model in a type such as `list[Model] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in get_args(annotation):
        if (found := _model_in(part)) is not None:
            return found
    return None
