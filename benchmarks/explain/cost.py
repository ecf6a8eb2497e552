"""The cost of explaining compared with classifying, and of 25 filters at once or one by one.

    python -m benchmarks.explain.cost   # --rounds 10 --batch 4

The rows of a table are measured alternately in one run, so that other load slows all of them.

- Grad-CAM with the SavedModel's `explain` against classification with its `serve`: the same
  network, precision and batch. VGG16 gets a classifier of full size with random weights, which
  takes as long as the published one.
- Gradient ascent of 25 filters in one batch, against one filter at a time as in the Keras tutorial
  (a function that is traced again for each filter, in float32), and against one at a time with the
  function that Opsin compiles once, in the same precision.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from contracts.settings import Settings
from models.catalog import CATALOG
from models.explain.filters import Ascent, Filters
from models.export.check_images import check_images
from models.export.signatures import Blueprint, signatures
from models.networks.architecture import build
from models.networks.keras_files import read_whole
from models.networks.precision import fastest_precision
from models.networks.preprocessing import preprocess
from models.serving.devices import prepare_tensorflow
from models.store.store import Store

GOAL_COST, GOAL_SPEED = 1.3, 5.0
FILTERS = 25


def medians(
    first: Callable[[], object], second: Callable[[], object], rounds: int
) -> tuple[float, float]:
    """Median seconds of each, run in turn, after one warm-up round."""
    seconds: list[tuple[float, float]] = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        first()
        middle = time.perf_counter()
        second()
        seconds.append((middle - start, time.perf_counter() - middle))
    medians = np.median(seconds[1:], axis=0)
    return float(medians[0]), float(medians[1])


def heatmap_cost(name: str, batch: int, rounds: int) -> tuple[float, float]:
    """Seconds to classify a batch and to explain the same batch, both with a SavedModel."""
    network = CATALOG[name]
    model = build(network)
    samples = check_images(Settings().home / "samples", network)
    images = tf.constant(np.resize(samples, (batch, *samples.shape[1:])))
    classes = tf.range(batch)
    with tempfile.TemporaryDirectory() as folder:
        archive = keras.export.ExportArchive()
        for endpoint in ("serve", "explain"):
            signature = signatures(model, Blueprint.of(network))[endpoint]
            inputs = list(signature.inputs)
            archive.add_endpoint(endpoint, signature.run, input_signature=inputs)
        archive.write_out(folder, verbose=False)
        loaded = tf.saved_model.load(folder)
        serve, explain = (loaded.signatures[name] for name in ("serve", "explain"))
        return medians(
            lambda: serve(images=images),
            lambda: explain(images=images, class_index=classes),
            rounds,
        )


def one_by_one_as_in_the_tutorial(model: keras.Model, layer: str, ascent: Ascent) -> None:
    """As in https://keras.io/examples/vision/visualizing_what_convnets_learn."""
    part = keras.Model(model.inputs[0], model.get_layer(layer).output)
    part = keras.models.clone_model(
        part,
        input_tensors=keras.tree.pack_sequence_as(part.input, [keras.Input((None, None, 3))]),
        clone_function=lambda layer: layer,
    )

    @tf.function  # type: ignore[untyped-decorator]
    def step(image: tf.Tensor, number: int) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(image)
            loss = tf.reduce_mean(part(preprocess("caffe", image))[..., number])
        gradient = tape.gradient(loss, image)
        return image + ascent.step_size * gradient / (tf.sqrt(tf.reduce_mean(gradient**2)) + 1e-5)

    for number in range(FILTERS):
        image = tf.random.uniform((1, ascent.image_size, ascent.image_size, 3)) * 20 + 118
        for _ in range(ascent.steps):
            image = step(image, number)


def filter_speeds(layer: str, ascent: Ascent) -> tuple[float, float, float]:
    """Seconds of 25 filters: at once, one by one as in the tutorial, one by one compiled once."""
    store = Store(Settings().store_home)
    model = read_whole(store.path("squeezenet", store.resolve("squeezenet")) / "model.keras")

    def at_once() -> None:
        Filters(model, "caffe", layer, fastest_precision()).patterns(range(FILTERS), ascent)

    def compiled() -> None:
        filters = Filters(model, "caffe", layer, fastest_precision())
        for number in range(FILTERS):
            filters.patterns([number], ascent)

    seconds = []
    for run in (at_once, lambda: one_by_one_as_in_the_tutorial(model, layer, ascent), compiled):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds[0], seconds[1], seconds[2]


def main() -> int:
    """Print both tables; the exit code is 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--layer", default="fire9_concat")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--size", type=int, default=128)
    arguments = parser.parse_args()
    prepare_tensorflow(Settings().worker_threads)
    console, passed = Console(width=100), True
    table = Table("network", "classify", "Grad-CAM", "ratio", f"goal: {GOAL_COST}")
    for name in ("squeezenet", "vgg16"):
        classify, explain = heatmap_cost(name, arguments.batch, arguments.rounds)
        good = explain / classify <= GOAL_COST
        passed = passed and good
        table.add_row(
            name,
            f"{classify * 1000:.0f} ms",
            f"{explain * 1000:.0f} ms",
            f"{explain / classify:.2f}",
            "met" if good else "MISSED",
        )
    console.print(table)
    ascent = Ascent(steps=arguments.steps, image_size=arguments.size)
    at_once, tutorial, compiled = filter_speeds(arguments.layer, ascent)
    table = Table("25 filters", "seconds", "speedup at once", f"goal: {GOAL_SPEED:.0f}")
    good = tutorial / at_once >= GOAL_SPEED
    table.add_row("at once", f"{at_once:.1f}", "", "")
    table.add_row(
        "one by one, as in the tutorial",
        f"{tutorial:.1f}",
        f"{tutorial / at_once:.1f}",
        "met" if good else "MISSED",
    )
    table.add_row("one by one, compiled once", f"{compiled:.1f}", f"{compiled / at_once:.1f}", "")
    console.print(table)
    return 0 if passed and good else 1


if __name__ == "__main__":
    sys.exit(main())
