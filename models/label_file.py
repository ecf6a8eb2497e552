"""`labels.json` of a version: what its outputs are called, in their order."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from models.labels import Label

LABELS = "labels.json"


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: str
    label: str


_ROWS = TypeAdapter(list[_Row])


def write_labels(folder: Path, labels: Sequence[Label]) -> None:
    """Write the names of a version's classes; a base alone has none."""
    rows = [_Row(id=label.id, label=label.text) for label in labels]
    (folder / LABELS).write_bytes(_ROWS.dump_json(rows, indent=1))


def read_labels(folder: Path) -> tuple[Label, ...]:
    """The names of the classes of the version in `folder`.

    Raises:
        OSError: There is no such file.
        pydantic.ValidationError: It is broken.
    """
    rows = _ROWS.validate_json((folder / LABELS).read_bytes())
    return tuple(Label(row.id, row.label) for row in rows)
