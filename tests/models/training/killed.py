"""A training that is killed repeatedly: `python -m …killed FOLDER STRATEGY KILLS`.

TensorFlow is imported once and the attempts are forked before it has started any threads, so that a
kill costs one second and not ten. Prints the results of an undisturbed and of the killed training,
and how many kills hit a running training.
"""

import json
import math
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

from models.datasets.dataset import Dataset
from models.training.data.feature_cache import FeatureCache
from models.training.loop.trainer import TrainingEnvironment, train
from models.weights.catalog import Weights
from tests.models.training.samples import RecordingWork, colors, small_request, weight_entry

STRATEGIES = {
    "scratch": {
        "epochs": {"scratch": 4},
        "network": "cnn_pets",  # has dropout
        "augmentation": {"rotation": 20, "horizontal_flip": True},
        "filters_every": 5,
        "early_stopping_patience": 2,
    },
    "tuned": {
        "network": "squeezenet",
        "strategy": "fine_tuning",
        "image_size": 64,
        "epochs": {"head": 5, "finetune": 3},
        "learning_rate": {"finetune": 1e-3},
    },
}


def attempt(home: Path, dataset: Dataset, strategy: str, weights: Weights) -> None:
    """In a child process: train and write the result."""
    work = RecordingWork(home / "job")
    environment = TrainingEnvironment(
        weights, FeatureCache(home / "cache"), threads=2, checkpoint_seconds=0.0
    )
    trained = train(small_request(**STRATEGIES[strategy]), dataset, work, environment)
    result = {
        "history": trained.history,
        "best_epochs": dict(trained.best_epochs),
        "probabilities": [split.probabilities.tolist() for split in trained.evaluations.values()],
        "weights": [float(np.abs(w).sum(dtype=np.float64)) for w in trained.model.get_weights()],
        "frames": [[frame.step, float(frame.kernels.sum())] for frame in trained.filters],
    }
    (home / "result.tmp").write_text(json.dumps(result))
    (home / "result.tmp").rename(home / "result.json")


def forked(home: Path, *arguments: object, writes: int | None = None, delay: float = 0.0) -> bool:
    """Run an attempt and kill it `delay` s after `writes` checkpoints; True if it ended first."""
    home.mkdir(exist_ok=True)
    child = os.fork()
    if child == 0:
        try:
            attempt(home, *arguments)  # type: ignore[arg-type]
            os._exit(0)
        except BaseException as error:  # noqa: BLE001  the child must not become a second parent
            sys.stderr.write(f"{error!r}\n")
            os._exit(1)
    until = time.monotonic() + 200
    seen, kill_at = stamp(home), math.inf
    written = 0
    while time.monotonic() < min(until, kill_at):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            if status:
                raise SystemExit(f"the attempt ended with {status}")
            return True
        if stamp(home) != seen:
            seen, written = stamp(home), written + 1
        if writes is not None and written >= writes and kill_at == math.inf:
            kill_at = time.monotonic() + delay
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def stamp(home: Path) -> int:
    """Time of the last checkpoint in nanoseconds; 0 before the first."""
    try:
        return (home / "job" / "checkpoint.npz").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def main(folder: Path, strategy: str, kills: int) -> None:
    pictures = folder / "pictures"
    pictures.mkdir()
    dataset = colors(pictures)
    file = next(folder.glob("squeezenet.npz"), None)
    digest = (folder / "digest").read_text() if file else "0" * 64
    entries = {"squeezenet": weight_entry("squeezenet.npz", digest)}
    arguments = (dataset, strategy, Weights(folder / "home", folder, True, entries=entries))

    began = time.monotonic()
    assert forked(folder / "undisturbed", *arguments)
    duration = time.monotonic() - began
    rng = random.Random(8)
    hits = resumed = 0
    while hits < kills:
        had_checkpoint = stamp(folder / "killed") > 0
        # Some are killed before the first checkpoint, most just before, during or after one.
        writes = rng.choice((0, 1, 1, 2))
        delay = rng.uniform(0, 0.03 if writes else duration)
        if forked(folder / "killed", *arguments, writes=writes, delay=delay):
            break
        hits += 1
        resumed += had_checkpoint
    else:
        assert forked(folder / "killed", *arguments)
    results = [json.loads((folder / name / "result.json").read_text())
               for name in ("undisturbed", "killed")]  # fmt: skip
    left = sorted(path.name for path in (folder / "killed" / "job").rglob("*.tmp"))
    json.dump({"hits": hits, "resumed": resumed, "results": results, "left": left}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
