"""The benchmark of the presets tries every tutorial, and says how."""

from benchmarks.training.presets import RUNS, table
from models.training.presets import PRESETS, training_request

FOUND = {
    "images": 100, "tested": 50, "accuracy": 0.9, "low": 0.78, "high": 0.97,
    "training_accuracy": 0.95, "epochs": 8, "steps": 40, "seconds": 61.4, "runtime": "x",
}  # fmt: skip


def test_every_preset_of_a_tutorial_is_tried_with_a_valid_request() -> None:
    assert set(RUNS) == {name for name in PRESETS if f"{name}_tuned" in PRESETS} | {"mnist_small"}
    for name, run in RUNS.items():
        body = {"dataset_id": "ds_1", "model": name, "preset": name}
        assert training_request(body | run.changed).preset == name
        assert bool(run.changed or run.per_class) <= bool(run.note)


def test_table_has_a_row_for_each_with_what_was_changed() -> None:
    rows = table({"cifar10_vgg19_bn": FOUND})
    assert len(rows) == 2 + len(RUNS)
    row = next(row for row in rows if "cifar10_vgg19_bn" in row)
    assert "100 + 50" in row
    assert '{"epochs": {"scratch": 4}}' in row
    assert "90.0% (78.0% to 97.0%)" in row
    assert sum("not run" in row for row in rows) == len(RUNS) - 1
