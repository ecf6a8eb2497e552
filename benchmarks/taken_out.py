"""Takes something out of an installation, so that its costs can be measured.

Imports nothing: it is run at the start of each process of the installation.
"""

VARIABLE = "BENCHMARK_WITHOUT"

SITE = """
import os
try:
    from benchmarks.taken_out import patch
except ImportError:  # a Python that is not the installation's
    pass
else:
    patch(os.environ["BENCHMARK_WITHOUT"])
"""
"""The content of `sitecustomize.py`, which Python runs when it starts."""


def patch(without: str) -> None:
    """Take something out of this process, before anything else is imported."""
    if without == "counting":
        from contracts.metrics.publisher import MetricsPublisher
        from contracts.metrics.registry import Metrics

        for name in ("inc", "observe", "set"):
            setattr(Metrics, name, lambda *_, **__: None)
        for name in ("start", "stop"):
            setattr(MetricsPublisher, name, lambda _: None)
    if without == "tracing":
        from contextlib import nullcontext

        from contracts.tracing import origin, spans

        nothing = nullcontext()
        spans.span = lambda *_, **__: nothing  # type: ignore[assignment]
        origin.set_origin = lambda _: None
        origin.with_origin = lambda note, _: note
        origin.split_origin = lambda note: (note, origin.NO_ORIGIN)
