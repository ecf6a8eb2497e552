"""Takes something out of a running installation and puts it back, to measure what it costs.

Two installations of the same code differ by more than what is measured here: in where their memory
lies, for example. So the processes of one installation change while they run, as a file says.
Imports little: it is run at the start of each process of the installation.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

VARIABLE = "BENCHMARK_VARIANT"
SECONDS = 0.1
"""How often a process looks at the file."""

COUNTING = "without counting"
CALLS = "without tracing's calls"
SHIPPED = "as shipped"
TRACED = "10% traced"

SITE = """
import os
try:
    from benchmarks.observability.taken_out import follow
except ImportError:  # a Python that is not the installation's
    pass
else:
    follow(os.environ["BENCHMARK_VARIANT"])
"""
"""The content of `sitecustomize.py`, which Python runs when it starts."""


class _Switch:
    """What is taken out at present."""

    variant = SHIPPED


def follow(path: str) -> None:
    """Do as the file at `path` says, from now on; before anything else is imported."""
    from threading import Thread

    _make_counting_removable()
    _make_calls_removable()
    Thread(target=_watch, args=(path,), daemon=True).start()


def _watch(path: str) -> None:
    import time
    from contextlib import suppress

    from contracts.tracing import spans

    exporter = None
    while True:
        with suppress(OSError):  # the end
            _Switch.variant = Path(path).read_text()
        exporter = exporter or spans._exporter
        spans._exporter = exporter if _Switch.variant == TRACED else None
        time.sleep(SECONDS)


def _make_counting_removable() -> None:
    from contracts.metrics.publisher import MetricsPublisher
    from contracts.metrics.registry import Metrics

    for owner, name in (
        *((Metrics, name) for name in ("inc", "observe", "set")),
        (MetricsPublisher, "_publish"),
    ):
        setattr(owner, name, _removable(getattr(owner, name), COUNTING))
    # The snapshot of an API process is then empty, and costs next to nothing.
    nothing: dict[str, dict[str, object]] = {"c": {}, "g": {}, "p": {}}
    read = _removable(Metrics.read, COUNTING, lambda _: nothing)
    setattr(Metrics, "read", read)  # noqa: B010


def _make_calls_removable() -> None:
    from contextlib import nullcontext

    from contracts.tracing import origin, spans

    empty = nullcontext()
    spans.span = _removable(spans.span, CALLS, lambda *_, **__: empty)
    origin.set_origin = _removable(origin.set_origin, CALLS)
    origin.with_origin = _removable(origin.with_origin, CALLS, lambda note, _: note)
    origin.split_origin = _removable(
        origin.split_origin, CALLS, lambda note: (note, origin.NO_ORIGIN)
    )


def _removable(
    call: Callable[..., Any], variant: str, instead: Callable[..., Any] = lambda *_, **__: None
) -> Any:
    """The call, or something else while the variant is without it."""

    def either(*arguments: object, **options: object) -> object:
        chosen = instead if _Switch.variant == variant else call
        return chosen(*arguments, **options)

    return either


def choose(path: str, variant: str) -> None:
    """Let the processes that follow `path` change to a variant."""
    new = Path(f"{path}.new")
    new.write_text(variant)
    new.replace(path)
