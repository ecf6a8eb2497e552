"""The table of all metrics in `docs/reference/metrics.md`; `scripts/metrics-table` prints it."""

import sys

from contracts.metrics.registry import all_labels
from contracts.metrics.table import FAMILIES, PREFIX


def rows() -> list[str]:
    """One row for each metric, as Markdown."""
    return [
        f"| `{PREFIX}{name}` | {family.kind} | {_labels(all_labels(family))} | {family.help} | "
        f"{family.elsewhere} |"
        for name, family in FAMILIES.items()
    ]


def _labels(labels: tuple[str, ...]) -> str:
    return ", ".join(f"`{label}`" for label in labels)


if __name__ == "__main__":
    sys.stdout.write("\n".join([*rows(), ""]))
