"""Foreign text as a terminal can show it: labels, paths and what a server says."""

import re

# Control characters, and those that reorder the text around them.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_CONTROL_IN_LINES = re.compile(rf"(?![\n\t]){_CONTROL.pattern}")


def printable_line(text: str) -> str:
    r"""The text on one line: line ends, tabs and what a terminal would obey become escapes."""
    return _CONTROL.sub(_escaped, text)


def printable(text: str) -> str:
    r"""The text without what a terminal would obey rather than show, such as `\x1b[2J`."""
    return _CONTROL_IN_LINES.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")
