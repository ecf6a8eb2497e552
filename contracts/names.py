"""Names that people give: of datasets, classes, subjects and keys; and ids that clients choose.

Two spellings of one name that look the same are the same: both are composed (Unicode's NFC), as
macOS decomposes what it stores. What joins letters or emoji and spaces of other scripts are part of
names; other invisible characters, and those that reverse the direction of text, are not.

Ids of devices, external ids of people and versions of consents mean something to the client alone.
They are compared as a whole, so they hold nothing that cannot be seen.
"""

import unicodedata
from functools import partial
from typing import Annotated

from pydantic import AfterValidator, Field

_MAX_COMPOSED = 2048  # characters, of a name or a path
_JOINERS = frozenset("\u200c\u200d")  # in Persian and Indic words, and in emoji
# Letters and marks that show nothing: fillers, variation selectors, the Braille pattern without
# dots. Unicode's Default_Ignorable_Code_Point has them, less what `isprintable` knows to be none.
_BLANK = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
).union(map(chr, [*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)]))


def composed(name: str) -> str:
    """The name in Unicode's composed form; unchanged if it is too long for a name.

    To order the accents of one letter takes quadratic time, for a megabyte of them many minutes, in
    which no other thread runs. So a length has to be checked after it, or before.
    """
    return unicodedata.normalize("NFC", name) if len(name) <= _MAX_COMPOSED else name


def is_printable(name: str) -> bool:
    """Whether a name has something to see and nothing that hides or reverses text."""
    is_allowed = name.isprintable() or all(map(_is_allowed, name))
    return is_allowed and any(map(_is_visible, name))


def printable_name(name: str, most: int) -> str:
    """A name or a remark of people, in Unicode's composed form.

    Args:
        name: As it was sent.
        most: Characters that it may have.

    Raises:
        ValueError: It shows nothing, hides or reverses text, begins or ends with a space, or is too
            long.
    """
    if not is_printable(name) or name != name.strip():
        raise ValueError("use printable characters only, without spaces at the ends")
    name = composed(name)  # which can be longer
    if len(name) > most:
        raise ValueError(f"use at most {most} characters in Unicode's composed form")
    return name


def opaque_id(text: str, most: int) -> str:
    """An id that a client has chosen, in Unicode's composed form.

    Args:
        text: As it was sent.
        most: Characters that it may have.

    Raises:
        ValueError: It holds what cannot be seen, begins or ends with a space, or is too long.
    """
    text = composed(text)
    if text != text.strip() or not all(c == " " or _is_visible(c) for c in text):
        raise ValueError("use visible characters only, without spaces at the ends")
    if not 0 < len(text) <= most:
        raise ValueError(f"use 1 to {most} characters")
    return text


MAX_ID_LENGTH = 200
OpaqueId = Annotated[
    str,
    Field(min_length=1, max_length=MAX_ID_LENGTH),
    AfterValidator(partial(opaque_id, most=MAX_ID_LENGTH)),
]
"""An id or a version that means something to the client alone."""


def _is_visible(character: str) -> bool:
    return character.isprintable() and character not in _BLANK and character != " "


def _is_allowed(character: str) -> bool:
    return (
        character.isprintable()
        or character in _JOINERS
        or unicodedata.category(character) == "Zs"  # spaces, such as the ideographic one
    )


def printable_part(name: str) -> str:
    """A name without the characters that no name may have."""
    return composed("".join(c for c in name if _is_allowed(c)))
