"""What the soak calls growth."""

import pytest

from tests.reliability.soak import FigureGrowth, Sample, growth_of_figures


@pytest.mark.parametrize(
    ("name", "early", "late", "is_flat"),
    [
        ("api: memory, MiB", 200, 209, True),
        ("api: memory, MiB", 200, 211, False),
        ("valkey: memory, MiB", 10.8, 11.9, True),  # the allocator's own grain
        ("valkey: memory, MiB", 10.8, 13.0, False),
        ("api: database connections", 3, 5, True),
        ("api: database connections", 3, 6, False),
        ("api: descriptors", 56, 63, True),
        ("api: descriptors", 56, 64, False),
        ("worker: traced graphs", 2, 3, False),
    ],
)
def test_a_figure_is_flat_if_it_grew_by_a_twentieth_or_by_little(
    name: str, early: float, late: float, is_flat: bool
) -> None:
    assert FigureGrowth(name, early, early, late, late).is_flat is is_flat


@pytest.mark.parametrize(("name", "is_flat"), [("jobs: descriptors", True), ("memory, MiB", False)])
def test_what_is_counted_may_stop_growing(name: str, is_flat: bool) -> None:
    samples = [Sample(done, {name: 22 if done > 30 else 18}) for done in range(100)]
    samples[:20] = []
    (figure,) = growth_of_figures([Sample(0, {name: 18})] * 20 + samples)
    assert (figure.early, figure.middle, figure.late) == (18, 22, 22)
    assert figure.is_flat is is_flat
    samples[-20:] = [Sample(100, {name: 27})] * 20
    (figure,) = growth_of_figures([Sample(0, {name: 18})] * 20 + samples)
    assert not figure.is_flat
