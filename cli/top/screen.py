"""The tables of `opsin top`."""

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cli.output import clock_time
from cli.streams import shown

Row = dict[str, Any]

_WIDE = 110
"""Columns of a terminal from which on every figure has room; a narrower one shows fewer."""


def screen(seen: Row, url: str, width: int) -> RenderableType:
    """Everything that is seen, as tables one below the other, for a terminal of that width."""
    http = seen["http"]
    head = Text.assemble(
        ("Opsin ", "bold"),
        f"{seen['release'] or '?'} at {url}  ",
        ("ready", "green") if seen["ready"] else ("not ready", "red"),
        f"  {http['requests_per_second']:g} requests/s, {http['in_progress'] or 0} in progress",
        f", {http['refused_per_second']:g}/s refused" if http["refused_per_second"] else "",
    )
    parts: list[RenderableType] = [head, Text()]
    tables = (
        _models(seen["models"], wide=width >= _WIDE),
        _queues(seen["queues"]),
        _jobs(seen["jobs"]),
        _processes(
            seen["processes"],
            {worker["id"]: worker for worker in seen["workers"]},
            wide=width >= _WIDE,
        ),
    )
    for table in tables:
        if table.row_count:
            parts += [table, Text()]
    return Group(*parts)


def _table(title: str, *headings: str) -> Table:
    """A heading that begins with `>` is one of numbers, one with `~` of texts that give way."""
    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
    for heading in headings:
        is_number = heading.startswith(">")
        table.add_column(
            heading.lstrip(">~"),
            justify="right" if is_number else "left",
            no_wrap=not heading.startswith("~"),
            overflow="fold",
            header_style="dim",
        )
    return table


def _models(rows: Sequence[Row], *, wide: bool) -> Table:
    parts = (">queue", ">compute", ">batch") if wide else ()
    table = _table(
        "Models",
        *("~model", "operation", ">req/s", ">fail/s", ">images/s", ">p50", ">p95", *parts),
    )
    for row in rows:
        table.add_row(
            escape(f"{shown(row['model'])}:{row['version']}"),
            row["operation"],
            f"{row['requests_per_second']:g}",
            Text(f"{row['failures_per_second']:g}", "red" if row["failures_per_second"] else ""),
            f"{row['images_per_second']:g}",
            *(_duration(row[name]) for name in ("seconds_p50", "seconds_p95")),
            *(_parts(row) if wide else ()),
        )
    return table


def _parts(row: Row) -> tuple[str, ...]:
    """Where the time of a request goes, and how many images are computed at once."""
    batch = "-" if row["batch_images"] is None else f"{row['batch_images']:.1f}"
    return _duration(row["queue_seconds"]), _duration(row["compute_seconds"]), batch


def _queues(rows: Sequence[Row]) -> Table:
    table = _table("Queues of images", "model", "operation", ">waiting", ">images/s of a worker")
    for row in rows:
        rate = row["drained_images_per_second"]
        table.add_row(
            escape(f"{shown(row['model'])}:{row['version']}"),
            row["operation"],
            str(row["waiting"]),
            "-" if rate is None else f"{rate:.1f}",
        )
    return table


def _jobs(jobs: Row) -> Table:
    table = _table("Jobs", "kind", "id", "phase", ">done", ">left")
    for row in jobs["queues"]:
        oldest = row["oldest_seconds"]
        wait = "" if not row["queued"] or oldest is None else clock_time(oldest)
        table.add_row(
            Text(f"queue {row['queue']}", "dim"),
            f"{row['queued']} queued, {row['running']} running",
            f"oldest {wait}" if wait else "",
        )
    for row in jobs["running"]:
        eta = row["eta_seconds"]
        table.add_row(
            row["kind"],
            row["id"],
            escape(shown(row["phase"] or "")),
            f"{100 * (row['fraction'] or 0):.0f}%",
            "" if eta is None else clock_time(eta),
        )
    return table


def _processes(rows: Sequence[Row], workers: dict[str, Row], *, wide: bool) -> Table:
    details = (">threads", ">files", ">lag") if wide else ()
    table = _table(
        "Processes",
        *("process", "~host", "id", ">cores", ">memory", *details, "~has loaded"),
    )
    for row in rows:
        table.add_row(
            row["process"],
            escape(shown(row["host"])),
            row["id"][:12],
            f"{row['cores']:.2f}",
            f"{row['memory_bytes'] / 2**20:,.0f} MB",
            *(_details(row) if wide else ()),
            escape(shown(" ".join(workers.get(row["id"], {}).get("models", ())))),
        )
    return table


def _details(row: Row) -> tuple[str, ...]:
    lag = row["event_loop_lag_seconds"]
    return (
        "" if row["threads"] is None else str(row["threads"]),
        "" if row["open_files"] is None else str(row["open_files"]),
        "" if lag is None else _duration(lag),
    )


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
