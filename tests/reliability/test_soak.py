"""What the soak calls growth."""

import pytest

from tests.reliability.soak import FigureGrowth


@pytest.mark.parametrize(
    ("name", "early", "late", "is_flat"),
    [
        ("api: memory, MiB", 200, 209, True),
        ("api: memory, MiB", 200, 211, False),
        ("valkey: memory, MiB", 10.8, 11.9, True),  # the allocator's own grain
        ("valkey: memory, MiB", 10.8, 13.0, False),
        ("api: database connections", 3, 5, True),
        ("api: database connections", 3, 6, False),
        ("worker: traced graphs", 2, 3, False),
    ],
)
def test_a_figure_is_flat_if_it_grew_by_a_twentieth_or_by_little(
    name: str, early: float, late: float, is_flat: bool
) -> None:
    assert FigureGrowth(name, early, late, late).is_flat is is_flat
