"""Lists: a table on a terminal, one line of tab-separated fields for each row elsewhere.

On a narrow terminal, texts are shortened and then columns are left out; identifiers are always
printed in full, since a part of one is of no use.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from rich.cells import cell_len
from rich.console import Console, OverflowMethod
from rich.text import Text

from cli.output import answers, print_fields
from cli.streams import shown

_GAP = "  "
_NARROWEST = 8
_DATE = 10  # of "2026-11-29 17:02"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a list.

    Attributes:
        heading: Printed above it.
        kind: id: never shortened or left out; number: right-aligned and never shortened; time: a
            date and a time of day, shortened to the date, and the first to be left out; text:
            gives way on a narrow terminal.
    """

    heading: str
    kind: Literal["id", "number", "time", "text"] = "text"


def print_list(
    columns: Sequence[Column],
    rows: Iterable[Sequence[str | Text]],
    console: Console | None = None,
) -> None:
    """Print a list.

    Args:
        columns: Their order is that of the cells.
        rows: Plain texts, which are not markup, or styled ones.
        console: Standard output if None.
    """
    console = console or answers()
    cells = [[_cell(cell) for cell in row] for row in rows]
    headings = [Text(column.heading, "bold") for column in columns]
    if not console.is_terminal:
        for line in (headings, *cells):
            print_fields(console, *(cell.plain for cell in line))
        return
    widths = _widths(columns, [headings, *cells], console.width)
    for line in (headings, *cells):
        console.print(_line(columns, line, widths), no_wrap=True, crop=False, overflow="ignore")


def local_time(moment: datetime | str) -> str:
    """A date and a time of day in this machine's time zone.

    Args:
        moment: With its time zone; a text is one of the API's.
    """
    found = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return f"{found.astimezone():%Y-%m-%d %H:%M}"


def _cell(cell: str | Text) -> Text:
    if isinstance(cell, Text):
        return Text(shown(cell.plain), cell.style)
    return Text(shown(cell))


def _widths(
    columns: Sequence[Column], lines: Sequence[Sequence[Text]], width: int
) -> list[int | None]:
    """The width of each column; None for those that are left out."""
    natural = [
        max(cell_len(line[i].plain) for line in lines if i < len(line)) for i in range(len(columns))
    ]
    widths: list[int | None] = list(natural)
    for i, column in enumerate(columns):
        if column.kind == "time" and _total(widths) > width:
            widths[i] = min(natural[i], _DATE)
    while (excess := _total(widths) - width) > 0:
        flexible = [
            (size, i)
            for i, size in enumerate(widths)
            if size is not None and size > _NARROWEST and columns[i].kind == "text"
        ]
        if flexible:
            flexible.sort()
            size, i = flexible[-1]
            second = flexible[-2][0] if len(flexible) > 1 else _NARROWEST
            widths[i] = max(size - excess, min(second, size - 1), _NARROWEST)
            continue
        droppable = [
            i for i, size in enumerate(widths) if size is not None and columns[i].kind != "id"
        ]
        if not droppable:
            break
        times = [i for i in droppable if columns[i].kind == "time"]
        widths[(times or droppable)[-1]] = None
    return widths


def _total(widths: Sequence[int | None]) -> int:
    present = [size for size in widths if size is not None]
    return sum(present) + len(_GAP) * (len(present) - 1)


def _line(columns: Sequence[Column], cells: Sequence[Text], widths: Sequence[int | None]) -> Text:
    parts = []
    for column, cell, width in zip(columns, cells, widths, strict=False):
        if width is None:
            continue
        part = cell.copy()
        if column.kind == "number":
            part.pad_left(max(0, width - cell_len(part.plain)))
        else:
            overflow: OverflowMethod = "crop" if column.kind == "time" else "ellipsis"
            part.truncate(width, overflow=overflow, pad=True)
        parts.append(part)
    line = Text(_GAP).join(parts)
    line.rstrip()
    return line
