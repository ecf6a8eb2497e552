"""Many versions on one base in one worker: memory, loading, answers, and mixed traffic.

    opsin fetch squeezenet                     # the base's weights
    python -m benchmarks.serving.shared_base   # --versions 100 --network squeezenet --store FOLDER

One version is exported as a training would, with a head of random weights. The others differ from
it in the head: its weights are replaced in the files of the SavedModel, and the reference answers
are computed from the embeddings that they contain. All are published, verified and loaded as a
worker does. Then the answers are compared with those of undivided graphs, and batches that mix all
versions with batches of one. OPSIN_HOME is not touched.
"""

import argparse
import gc
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import psutil
from rich.console import Console
from rich.table import Table

from contracts.inference.manifest import Draft
from contracts.queue.messages import Pixels
from contracts.settings import Settings
from models.serving.openvino.runtime import OpenVinoRuntime
from models.serving.predictor import VersionPredictor
from models.serving.runtime import RuntimeOptions
from models.store.store import Store
from workers.inference.loaders import VersionLoader

Array = npt.NDArray[Any]

CLASSES = 10
MAX_BATCH = 16
EXPLAINED = 11
"""For so many versions, explanations are loaded too."""
MIB = 1024 * 1024


def publish_versions(store: Store, network: str, count: int) -> list[str]:
    """Publish so many models, whose heads differ; return their names."""
    names = [f"{network}-{number:03}" for number in range(count)]
    missing = [name for name in names if not store.versions(name)]
    if not missing:
        return names
    with store.staging() as template:
        draft, head = _export(template, network)
        options = RuntimeOptions("openvino", "float32")
        runtimes: list[OpenVinoRuntime] = []
        for number, name in enumerate(missing, 1):
            with store.staging() as folder:
                shutil.copytree(template, folder, dirs_exist_ok=True)
                other = _random_head(head, number)
                _replace_head(folder, head, other, explained=number <= EXPLAINED)
                # A training evaluates what will serve its version, and so keeps the head's file.
                runtimes = [*runtimes[:1], OpenVinoRuntime(folder, draft, "float32", options)]
                store.promote(name, store.publish(name, folder, draft))
    return names


def _random_head(shapes: list[Array], seed: int) -> list[Array]:
    """Weights of a dense layer of each of these, scaled so that outputs stay moderate."""
    rng = np.random.default_rng(seed)
    return [rng.normal(0, 1 / np.sqrt(len(old)), old.shape).astype(np.float32) for old in shapes]


def _export(folder: Path, network: str) -> tuple[Draft, list[Array]]:
    """Export a version as a training of a frozen base does; return its head's weights too."""
    from contracts.training.trainings import TrainingRequest
    from models.export.saved_model import export_version
    from models.store.labels import Label
    from models.training.loop.assembly import assemble
    from models.training.loop.network_defaults import blueprint_of, input_size_of
    from models.weights.catalog import Weights

    request = TrainingRequest.model_validate(
        {"dataset_id": "ds_none", "model": "template", "network": network}
    )
    model = assemble(request, CLASSES, Weights.of(Settings())).model
    dense = [model.get_layer(name) for name in ("head_fc1", "predictions")]
    head = _random_head([array for layer in dense for array in layer.get_weights()], 0)
    dense[0].set_weights(head[:2])
    dense[1].set_weights(head[2:])
    images = np.random.default_rng(0).integers(0, 256, (8, *input_size_of(request), 3), np.uint8)
    labels = [Label(f"n{number}", f"class {number}") for number in range(CLASSES)]
    draft = export_version(model, blueprint_of(request), folder, images=images, labels=labels)
    return draft, head


def _replace_head(folder: Path, old: list[Array], new: list[Array], *, explained: bool) -> None:
    """Give a SavedModel another head, and its reference the answers of that.

    Heatmaps only if they are to be `explained`, since TensorFlow has to compute those.
    """
    import tensorflow as tf

    prefix = str(folder / "saved_model" / "variables" / "variables")
    reader = tf.train.load_checkpoint(prefix)
    tensors = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    replaced = 0
    for before, after in zip(old, new, strict=True):
        for name, tensor in tensors.items():
            if np.array_equal(tensor, before):
                tensors[name] = after
                replaced += 1
    if replaced != len(old):
        raise ValueError(f"{replaced} of {len(old)} arrays of the head are in the files")
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=[tf.constant(tensor) for tensor in tensors.values()],
    )
    with np.load(folder / "reference.npz") as arrays:
        contents = dict(arrays)
    hidden = np.maximum(contents["features"] @ new[0] + new[1], 0)
    logits = hidden @ new[2] + new[3]
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    contents["serve"] = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    if explained:
        functions = tf.saved_model.load(str(folder / "saved_model")).signatures
        classes = contents["serve"].argmax(axis=1).astype(np.int32)
        for name in ("explain", "explain_hires"):
            outputs = functions[name](
                images=tf.constant(contents["pictures"]), class_index=tf.constant(classes)
            )
            contents[name] = outputs["grid"].numpy()
    np.savez(folder / "reference.npz", allow_pickle=False, **contents)


def load_all(
    store: Store, names: list[str], threads: int, console: Console
) -> list[VersionPredictor]:
    """Load all versions as a worker does; print what each costs."""
    load = VersionLoader(store, MAX_BATCH, RuntimeOptions("openvino", "auto", threads))
    predictors: list[VersionPredictor] = []
    seconds, memory = [], [_memory()]
    for name in names:
        began = time.perf_counter()
        predictor = load(name, 1)
        assert isinstance(predictor, VersionPredictor)
        predictors.append(predictor)
        seconds.append(time.perf_counter() - began)
        memory.append(_memory())
    bases = {id(predictor.base) for predictor in predictors}
    table = Table("", "first", "each further one", "all further ones", title="loading")
    further = seconds[1:] or [0.0]
    table.add_row(
        "seconds",
        f"{seconds[0]:.2f}",
        f"{statistics.median(further):.3f} (at most {max(further):.3f})",
        f"{sum(further):.1f}",
    )
    grown = [after - before for before, after in pairwise(memory)]
    table.add_row(
        "MiB",
        f"{grown[0]:.0f}",
        f"{statistics.median(grown[1:] or [0]):.2f}",
        f"{memory[-1] - memory[1]:.0f}",
    )
    console.print(table)
    console.print(f"{len(names)} versions, {len(bases)} base(s), runtime {predictors[0].runtime}")
    return predictors


def load_explanations(predictors: list[VersionPredictor], console: Console) -> None:
    """Load what heatmaps need for some versions; print what that costs."""
    seconds, memory = [], [_memory()]
    for predictor in predictors:
        began = time.perf_counter()
        predictor.load_explain()
        seconds.append(time.perf_counter() - began)
        memory.append(_memory())
    grown = [after - before for before, after in pairwise(memory)]
    console.print(
        f"explanations ({predictors[0].explain_runtime}): first {seconds[0]:.2f} s and "
        f"{grown[0]:.0f} MiB, each further one {statistics.median(seconds[1:]):.2f} s and "
        f"{statistics.mean(grown[1:]):.2f} MiB"
    )


def compare(
    store: Store, names: list[str], predictors: list[VersionPredictor], threads: int
) -> float:
    """The largest difference of any probability from that of the undivided graphs."""
    images = _images(predictors[0], 8)
    largest = 0.0
    options = RuntimeOptions("openvino", "auto", threads)
    with patch("models.serving.openvino.runtime.share", lambda *_: None):
        for name, predictor in list(zip(names, predictors, strict=True))[:5]:
            undivided = VersionPredictor(store.path(name, 1), max_batch_size=16, options=options)
            for operation in ("classify", "embed"):
                expected = undivided.run(operation, images)
                difference = np.abs(expected - predictor.run(operation, images)).max()
                largest = max(largest, float(difference / max(1, np.abs(expected).max())))
    return largest


def undivided(store: Store, name: str, threads: int) -> VersionPredictor:
    """A version with a graph for each endpoint, as it was before."""
    options = RuntimeOptions("openvino", "auto", threads)
    with patch("models.serving.openvino.runtime.share", lambda *_: None):
        predictor = VersionPredictor(store.path(name, 1), max_batch_size=MAX_BATCH, options=options)
        predictor.warm()
    return predictor


def measure(
    whole: VersionPredictor, predictors: list[VersionPredictor], rounds: int, console: Console
) -> None:
    """Print what an image costs in each way, in turns, so that other load affects all of them."""
    one, base = predictors[0], predictors[0].base
    assert base is not None
    table = Table("batch", "undivided", "one version", "all mixed", "ratios", title="core-ms")
    for size in (1, 4, MAX_BATCH):
        images = _images(one, size)
        chosen = [predictors[number % len(predictors)] for number in range(size)]

        def mixed() -> None:
            rows = base.run(images)  # noqa: B023
            for row, predictor in enumerate(chosen):  # noqa: B023
                predictor.finish("classify", rows[row : row + 1])

        ways: list[Callable[[], object]] = [
            lambda: whole.run("classify", images),  # noqa: B023
            lambda: one.run("classify", images),  # noqa: B023
            mixed,
        ]
        times: list[list[float]] = [[] for _ in ways]
        for number in range(rounds + 1):
            for way, each in zip(ways, times, strict=True):
                taken = _core_seconds(way, MAX_BATCH // size) / size
                if number:  # the first one warms up
                    each.append(taken * 1000)
        ratios = [
            statistics.median(a / b for a, b in zip(each, times[0], strict=True)) for each in times
        ]
        table.add_row(
            str(size),
            *(f"{statistics.median(each):.2f}" for each in times),
            " ".join(f"{ratio:.3f}" for ratio in ratios),
        )
    console.print(table)


def _core_seconds(run: Callable[[], object], times: int) -> float:
    """Processor time of all threads in one of so many runs."""
    began = time.process_time()
    for _ in range(times):
        run()
    return (time.process_time() - began) / times


def _images(predictor: VersionPredictor, count: int) -> Pixels:
    size = predictor.manifest.input_size
    return np.random.default_rng(2).integers(0, 256, (count, *size, 3), np.uint8)


def _memory() -> float:
    gc.collect()
    return psutil.Process().memory_full_info().uss / MIB


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--versions", type=int, default=101)
    parser.add_argument("--network", default="squeezenet")
    parser.add_argument("--store", type=Path, help="kept for another run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--publish-only", action="store_true")
    arguments = parser.parse_args()
    console = Console(width=100)
    with tempfile.TemporaryDirectory() as temporary:
        home = arguments.store or Path(temporary) / "store"
        store = Store(home)
        if arguments.publish_only:
            publish_versions(store, arguments.network, arguments.versions)
            return
        # Publishing needs TensorFlow, which a worker does not load.
        given = ["--network", arguments.network, "--versions", str(arguments.versions)]
        module = [sys.executable, "-m", "benchmarks.serving.shared_base", "--publish-only", *given]
        subprocess.run([*module, "--store", str(home)], check=True)
        names = store.models()
        # In pieces, whatever this machine says today: both ways have to run alike.
        with patch("models.serving.openvino.graph._MIN_SPEEDUP", 0.0):
            predictors = load_all(store, names, arguments.threads, console)
            whole = undivided(store, names[0], arguments.threads)
        largest = compare(store, names, predictors, arguments.threads)
        console.print(f"largest difference from undivided graphs: {largest:.2g}")
        measure(whole, predictors, arguments.rounds, console)
        if len(predictors) > 1:
            load_explanations(predictors[:EXPLAINED], console)


if __name__ == "__main__":
    main()
