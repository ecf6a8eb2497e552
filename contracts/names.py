"""Names that people give: of datasets, classes, subjects and keys.

Two spellings of one name that look the same are the same: both are composed (Unicode's NFC), as
macOS decomposes what it stores. What joins letters or emoji and spaces of other scripts are part of
names; other invisible characters, and those that reverse the direction of text, are not.
"""

import unicodedata

_MAX_COMPOSED = 2048  # characters, of a name or a path
_JOINERS = frozenset("\u200c\u200d")  # in Persian and Indic words, and in emoji


def composed(name: str) -> str:
    """The name in Unicode's composed form; unchanged if it is too long for a name.

    To order the accents of one letter takes quadratic time, for a megabyte of them many minutes, in
    which no other thread runs. So a length has to be checked after it, or before.
    """
    return unicodedata.normalize("NFC", name) if len(name) <= _MAX_COMPOSED else name


def is_printable(name: str) -> bool:
    """Whether a name has something to see and nothing that hides or reverses text."""
    visible = [c for c in name if not (c in _JOINERS or c.isspace())]
    return bool(visible) and all(_is_allowed(c) for c in name)


def _is_allowed(character: str) -> bool:
    return (
        character.isprintable()
        or character in _JOINERS
        or unicodedata.category(character) == "Zs"  # spaces, such as the ideographic one
    )


def printable_part(name: str) -> str:
    """A name without the characters that no name may have."""
    return composed("".join(c for c in name if _is_allowed(c)))
