"""JSON with pictures in it, read without a Python object for each number.

A picture of 224 x 224 is 150,528 numbers. `json` makes a list of them and holds the interpreter
lock while it does, so that a thread would not help: every other request would wait. Here the long
arrays are cut out of the text first; what is left is small and goes to a strict parser, and the
arrays become uint8 by numpy, which lets go of the lock.
"""

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic_core import from_json

from contracts.errors import BadRequest, PayloadTooLarge, ValidationFailed
from contracts.queue.messages import Pixels

# "255, " and a share of the brackets are seven; more is indentation.
CHARACTERS_A_NUMBER = 8
_LONG = 512  # characters from which an array is cut out
_MOST_QUOTES = 40_000  # far above what 1024 images need
_MOST_LOOSE = 256 * 1024  # characters that are neither string nor long array
_MOST_BACKSLASHES = 64  # in one run; base64 has none or one
_BLOCK = 1 << 22
_ZERO = ord("0")
_SKELETON = b"0,[]"
_WHOLE_NUMBERS = "Pixels are whole numbers from 0 to 255."


@dataclass(frozen=True, slots=True)
class Numbers:
    """An array of JSON that is still text: digits, commas, brackets, or else it is refused."""

    text: bytes

    def read(self, *shapes: tuple[int, ...], most: int) -> Pixels:
        """The numbers in the first of `shapes` whose nesting they have.

        Args:
            shapes: Accepted shapes. A first size of -1 is whatever is sent, at least 1.
            most: Numbers there may be.

        Raises:
            ValidationFailed: They have none of the shapes, or are no whole numbers of 0 to 255.
            PayloadTooLarge: There are more than `most`, or too much white space.
        """
        if len(self.text) > CHARACTERS_A_NUMBER * max(most, _LONG):
            raise PayloadTooLarge(
                f"The array is too long for {most} numbers. Send fewer images, without "
                "indentation, or as binary tensors."
            )
        levels, skeleton = _levels_of(self.text)
        if skeleton.translate(None, _SKELETON):
            raise ValidationFailed(_WHOLE_NUMBERS)
        if levels.size > most:
            raise PayloadTooLarge(f"At most {most} numbers are taken; send fewer images.")
        for shape in shapes:
            whole = _whole(shape, levels.size)
            if whole and skeleton == _template(whole):
                return levels.reshape(whole)
        asked = " or ".join(str([*shape]) for shape in shapes)
        raise ValidationFailed(f"{levels.size} numbers were sent that do not form {asked}.")


def parse(text: bytes) -> Any:
    """A JSON document whose long arrays are `Numbers`; all else is as `json.loads` gives it.

    Raises:
        BadRequest: It is not JSON, or there is too much in it besides pixels and strings.
    """
    arrays: dict[str, Numbers] = {}
    mark = secrets.token_hex(16)  # nobody can send it
    kept: list[bytes] = []
    loose = 0
    for piece, is_string in _pieces(text):
        if is_string:
            kept.append(piece)
            continue
        rest = _cut(piece, arrays, mark)
        loose += len(rest)
        kept.append(rest)
    if loose > _MOST_LOOSE:
        raise BadRequest("The JSON holds too much besides images. Send the images alone.")
    try:
        value = from_json(b"".join(kept), allow_inf_nan=False)
    except ValueError as error:
        # Its words speak of lines and columns of the text that is left, so they are not shown.
        raise _malformed() from error
    return _restored(value, arrays)


def numbers_of(value: Any) -> Numbers | None:
    """The array that `value` is, long or short; None if it is none."""
    if isinstance(value, Numbers):
        return value
    if isinstance(value, list):
        return Numbers(json.dumps(value, default=_text_of).encode())
    return None


def _text_of(value: Any) -> str:
    """Long arrays within a short one: something that no pixel array has."""
    return type(value).__name__


def _pieces(text: bytes) -> Iterator[tuple[bytes, bool]]:
    """The text in turns of what is outside a string and what is a string, quotes included."""
    if text.count(b'"') > _MOST_QUOTES:
        raise BadRequest("The JSON holds too many strings. Send fewer images at a time.")
    at = 0
    while (start := text.find(b'"', at)) >= 0:
        yield text[at:start], False
        at = _string_end(text, start)
        yield text[start:at], True
    yield text[at:], False


def _string_end(text: bytes, start: int) -> int:
    """Where the string that begins at `start` is over."""
    end = start
    while (end := text.find(b'"', end + 1)) >= 0:
        slashes = 0
        while text[end - 1 - slashes] == ord("\\"):
            slashes += 1
            if slashes > _MOST_BACKSLASHES:
                raise _malformed()
        if slashes % 2 == 0:
            return end + 1
    raise _malformed()


def _cut(piece: bytes, arrays: dict[str, Numbers], mark: str) -> bytes:
    """`piece` with its long array, if it has one, in `arrays` and a mark in its place."""
    if len(piece) < _LONG:
        return piece
    start = piece.find(b"[")
    if start < 0:
        return piece
    ends = [at for at in (piece.find(b"{", start), piece.find(b"}", start)) if at >= 0]
    end = piece.rfind(b"]", start, min(ends, default=len(piece))) + 1
    if end - start < _LONG:
        return piece
    name = f"{mark}{len(arrays)}"
    arrays[name] = Numbers(piece[start:end])
    return piece[:start] + f'"{name}"'.encode() + piece[end:]


def _restored(value: Any, arrays: dict[str, Numbers]) -> Any:
    """`value` with the arrays back in it; it is at most 200 deep, by the parser's own limit."""
    if isinstance(value, str):
        return arrays.get(value, value)
    if isinstance(value, list):
        return [_restored(one, arrays) for one in value]
    if isinstance(value, dict):
        return {key: _restored(one, arrays) for key, one in value.items()}
    return value


def _levels_of(text: bytes) -> tuple[Pixels, bytes]:
    """The numbers of an array, and its text with a 0 for each number and without white space."""
    levels, skeletons = [], []
    for block in _blocks(text):
        # Three more, so that to look at a number's next digits never leads beyond the end.
        raw = np.frombuffer(block + b"   ", np.uint8)
        digit = (raw - _ZERO) < 10  # wraps around below "0"
        first = digit.copy()
        first[1:] &= ~digit[:-1]
        levels.append(_read_numbers(raw, digit, np.flatnonzero(first)))
        blank = (raw == 32) | (raw == 10) | (raw == 13) | (raw == 9)
        keep = first | ~(digit | blank)
        skeletons.append(np.where(first, np.uint8(_ZERO), raw)[keep].tobytes())
    return np.concatenate(levels), b"".join(skeletons)


def _blocks(text: bytes) -> Iterator[bytes]:
    """The text in pieces that end with a comma, so that no number lies in two of them."""
    at = 0
    while len(text) - at > _BLOCK:
        end = text.rfind(b",", at, at + _BLOCK) + 1
        if not end:
            raise ValidationFailed(_WHOLE_NUMBERS)
        yield text[at:end]
        at = end
    yield text[at:]


def _read_numbers(
    raw: npt.NDArray[np.uint8], digit: npt.NDArray[np.bool_], starts: npt.NDArray[np.intp]
) -> Pixels:
    values = (raw[starts] - _ZERO).astype(np.uint16)
    longer = digit[starts + 1]
    if np.any(longer & (values == 0)):
        raise ValidationFailed(f"{_WHOLE_NUMBERS} None begins with a zero.")
    for place in (1, 2):
        values = np.where(longer, values * 10 + (raw[starts + place] - _ZERO), values)
        longer = longer & digit[starts + place + 1]
    if np.any(longer) or np.any(values > 255):
        raise ValidationFailed(_WHOLE_NUMBERS)
    return values.astype(np.uint8)


def _whole(shape: tuple[int, ...], size: int) -> tuple[int, ...] | None:
    """`shape` with its -1 worked out, None if so many numbers do not fill it."""
    rest = int(np.prod(shape[1:], dtype=np.int64))
    first = size // rest if shape[0] == -1 else shape[0]
    return (first, *shape[1:]) if first > 0 and first * rest == size else None


def _template(shape: tuple[int, ...]) -> bytes:
    """What an array of that shape looks like with a 0 for each number."""
    text = b"0"
    for size in reversed(shape):
        text = b"[" + b",".join([text] * size) + b"]"
    return text


def _malformed() -> BadRequest:
    return BadRequest("The body is not JSON in UTF-8. Let a JSON library write it.")
