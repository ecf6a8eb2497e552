"""Every preset of a tutorial, trained on a small dataset of the same kind.

    python -m benchmarks.training.presets DATA results.json              # all that it lacks
    python -m benchmarks.training.presets DATA results.json faces mnist  # only these, again
    python -m benchmarks.training.presets DATA results.json --table      # only the table

DATA holds folders such as `cats-dogs/train/cats/1.jpg` or `att-faces/s01/1.png`. A preset trains
with all of its values, except where `RUNS` says otherwise: a processor takes hours or days for what
some of the tutorials do on a GPU, so those get fewer images or epochs. What an accuracy is worth is
said by its interval, in which the true one is with a probability of 95%.
"""

import argparse
import json
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import cores
from contracts.jobs import Progress
from contracts.settings import Settings
from contracts.training.training_result import TrainingResult
from models.datasets.store import DatasetStore
from models.evaluation.comparison import share_interval
from models.training.presets import training_request

SEED = 8


@dataclass(frozen=True, slots=True)
class Run:
    """How a preset is tried.

    Attributes:
        data: Folder of the dataset.
        theirs: The tutorial's own accuracy, and on what.
        per_class: Most training images of each class; None: all.
        held_out: The same for each of the other splits.
        changed: Fields of the training that are not the preset's.
        note: What the accuracy can and cannot say.
    """

    data: str
    theirs: str
    per_class: int | None = None
    held_out: int | None = None
    changed: dict[str, Any] = field(default_factory=dict)
    note: str = ""


RUNS: dict[str, Run] = {
    "mnist": Run("mnist", "above 96%; 60,000 digits"),
    "mnist_small": Run("mnist", "99.0%; 60,000 digits"),
    "fashion_mnist": Run("fashion-mnist", "82%; 60,000 images"),
    "cifar10": Run("cifar10", "65.8%; 50,000 images"),
    "cifar10_vgg19_bn": Run(
        "cifar10",
        "93 to 94.1%; 50,000 images, 200 epochs",
        30,
        20,
        {"epochs": {"scratch": 4}},
        "it runs; nothing else, as the first rate of 0.1 falls only after 80 epochs",
    ),
    "cats_dogs_scratch": Run("cats-dogs", "71.1%; 2,000 images"),
    "cats_dogs_frozen": Run(
        "cats-dogs",
        "93%; 2,000 images, newly drawn in each epoch",
        12,
        12,
        {"augmented_views": 1},
        "all 30 epochs, on the images and one cached view of each",
    ),
    "cats_dogs_finetuned": Run(
        "cats-dogs",
        "95%; 2,000 images, 30 epochs",
        12,
        12,
        {"epochs": {"finetune": 2}, "batch_size": 8},
        "6 steps of 8 images instead of 1,200 of 50",
    ),
    "fruits360": Run("fruits", "89 to 91%; 120 kinds", 6, 5, {}, "a sixth of the kinds"),
    "pets_dropout": Run(
        "cats-dogs",
        "about 90%; two breeds, 400 epochs",
        24,
        24,
        {"epochs": {"scratch": 3}},
        "it runs; nothing else, as it learns at 0.00001",
    ),
    "faces": Run(
        "att-faces",
        "above 90%; frames of a video of each person, 500 steps",
        None,
        None,
        {"classes": ["s03", "s04", "s06", "s08", "s12"]},
        "20 steps; five people, gray photos of heads instead of frames in color",
    ),
}


class SilentWork:
    """A `contracts.work.Work` that keeps only the time."""

    def __init__(self, name: str, request: dict[str, Any], folder: Path) -> None:
        self.job_id, self.attempt = f"job_{name}", 1
        self.request, self.folder = request, folder

    def progress(self, progress: Progress) -> None:
        """Ignore it."""

    def metrics(self, row: dict[str, Any]) -> None:
        """Show the epochs."""
        print("   ", row, flush=True)

    def artifact(self, name: str, media_type: str, content: bytes) -> None:
        """Keep it beside the checkpoints."""
        del media_type
        (self.folder / name).write_bytes(content)

    def check(self) -> None:
        """Never stop."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was measured."""

    images: int
    tested: int
    accuracy: float
    low: float
    high: float
    training_accuracy: float
    epochs: int
    steps: int
    seconds: float
    runtime: str


def main() -> None:
    """Train, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("presets", nargs="*", choices=[*RUNS, []])
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    results = _read(arguments.results)
    names = arguments.presets or [name for name in RUNS if name not in results]
    for name in [] if arguments.table else names:
        print(name, flush=True)
        outcome = trained(name, RUNS[name], arguments.data)
        results = _read(arguments.results) | {name: asdict(outcome)}
        arguments.results.write_text(json.dumps(results, indent=1))
    print("\n".join(table(results)))


def trained(name: str, run_: Run, data: Path) -> Outcome:
    """Train a preset in a home of its own."""
    from models.serving.devices import prepare_tensorflow  # loads TensorFlow, as the next one does
    from models.training.run import run

    prepare_tensorflow(cores())
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        settings = Settings(home=home)
        images = home / "images"
        _copy(data / run_.data, images, run_)
        DatasetStore.of(settings).create(run_.data, images, dataset_id="ds_preset")
        body = {"dataset_id": "ds_preset", "model": name, "preset": name, "seed": SEED}
        request = training_request(body | run_.changed)
        work = SilentWork(name, request.model_dump(mode="json"), home / "work")
        work.folder.mkdir()
        began = time.monotonic()
        result = TrainingResult.model_validate(run(work, settings))
        return _outcome(result, request.batch_size, time.monotonic() - began)


def _outcome(result: TrainingResult, batch_size: int, seconds: float) -> Outcome:
    test, train = result.metrics["test"], result.metrics["train"]
    interval = share_interval(round(test.accuracy * test.pictures), test.pictures)
    epochs = len(result.curves)
    return Outcome(
        images=train.pictures,
        tested=test.pictures,
        accuracy=test.accuracy,
        low=interval.low,
        high=interval.high,
        training_accuracy=train.accuracy,
        epochs=epochs,
        steps=epochs * -(-train.pictures // batch_size),
        seconds=seconds,
        runtime=result.served.runtime if result.served else "",
    )


def _copy(source: Path, target: Path, run_: Run) -> None:
    """Copy a dataset, with at most so many images of each class."""
    given = source / "train"
    for folder in sorted(path for path in source.rglob("*") if path.is_dir() and path != given):
        files = sorted(path for path in folder.iterdir() if path.is_file())
        limit = run_.per_class if given in folder.parents else run_.held_out
        for path in files[:limit]:
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def table(results: dict[str, dict[str, Any]]) -> list[str]:
    """The rows of the table in Markdown."""
    rows = [
        "| preset | dataset | images | epochs | seconds | test accuracy | the tutorial's | note |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, run_ in RUNS.items():
        if name not in results:
            rows.append(f"| `{name}` | {run_.data} | not run | | | | {run_.theirs} | |")
            continue
        found = Outcome(**results[name])
        changed = f"`{json.dumps(run_.changed)}`; " if run_.changed else ""
        rows.append(
            f"| `{name}` | {run_.data} | {found.images} + {found.tested} | {found.epochs} "
            f"| {found.seconds:.0f} | {found.accuracy:.1%} ({found.low:.1%} to {found.high:.1%}); "
            f"on the training images {found.training_accuracy:.1%} | {run_.theirs} "
            f"| {changed}{run_.note} |"
        )
    return rows


def _read(path: Path) -> dict[str, dict[str, Any]]:
    return json.loads(path.read_text()) if path.exists() else {}


if __name__ == "__main__":
    main()
