"""No benchmark is left behind when what it measures changes its names."""

from importlib import import_module
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MODULES = [
    ".".join(file.relative_to(BENCHMARKS.parent).with_suffix("").parts)
    for file in sorted(BENCHMARKS.rglob("*.py"))
    if "peers" not in file.parts  # these run in an environment of their own
]


@pytest.mark.parametrize("module", MODULES)
def test_it_can_be_imported(module: str) -> None:
    import_module(module)
