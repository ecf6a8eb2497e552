r"""Filters whose steps share gradients, against one gradient for each step as before.

    python -m benchmarks.explain.filters --out sheets \
        --models vgg16:block3_conv1,squeezenet:fire4_concat

Both ways run alternately on the same compiled function. The table shows the best processor time,
which other processes hardly change, and the mean activation that the patterns reach in proportion
to that of the earlier way. `--out` keeps the patterns, earlier ones above, to look at.
"""

import argparse
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
from PIL import Image
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from contracts.settings import Settings
from models.catalog import Preprocessing
from models.explain.filters import Ascent, Filters, Patterns
from models.export.saved_model import KERAS_MODEL
from models.networks.keras_files import read_whole
from models.networks.precision import fastest_precision
from models.serving.devices import prepare_tensorflow
from models.store.store import Store


def main() -> None:
    """Print seconds of both ways, their ratio, and how much the patterns excite."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="vgg16:block3_conv1,squeezenet:fire4_concat")
    parser.add_argument("--filters", type=int, default=9)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a folder for the patterns")
    arguments = parser.parse_args()
    settings = Settings()
    prepare_tensorflow(settings.worker_threads)
    console = Console(width=100)
    table = Table("model, layer", "before, s", "now, s", "ratio", "activation", "lowest")
    ascent = Ascent(steps=arguments.steps, image_size=arguments.size)
    for each in arguments.models.split(","):
        name, _, layer = each.partition(":")
        filters = _filters(settings, name, layer)
        numbers = list(range(min(arguments.filters, filters.count)))
        filters.patterns(numbers[:1], Ascent(steps=1, image_size=arguments.size))  # traces
        (before, old), (now, new) = _compare(filters, numbers, ascent, arguments.rounds)
        excited = old.activations > 0
        reached = new.activations[excited] / old.activations[excited]
        table.add_row(
            f"{name}, {layer}",
            *(f"{before:.1f}", f"{now:.1f}", f"{before / now:.1f}"),
            *(f"{np.median(reached):.0%}", f"{reached.min():.0%}"),
        )
        if arguments.out:
            arguments.out.mkdir(parents=True, exist_ok=True)
            rows = [np.concatenate(list(one.images), axis=1) for one in (old, new)]
            Image.fromarray(np.concatenate(rows)).save(arguments.out / f"{name}-{layer}.png")
    console.print(table)


def _filters(settings: Settings, name: str, layer: str) -> Filters:
    store = Store(settings.store_home)
    version = store.resolve(name)
    manifest = store.manifest(name, version)
    model = read_whole(store.path(name, version) / KERAS_MODEL)
    preprocessing: Preprocessing = TypeAdapter(Preprocessing).validate_python(
        manifest.preprocessing
    )
    return Filters(model, preprocessing, layer, fastest_precision())


def _compare(
    filters: Filters, numbers: list[int], ascent: Ascent, rounds: int
) -> list[tuple[float, Patterns]]:
    """The best processor time and the patterns: one gradient for each step, and as it is now."""
    results: dict[bool, tuple[float, Patterns]] = {}
    for _ in range(rounds):
        for shares in (False, True):
            began = time.process_time()
            if shares:
                patterns = filters.patterns(numbers, ascent)
            else:
                with patch("models.explain.filters.shared_steps", lambda *_: 1):
                    patterns = filters.patterns(numbers, ascent)
            seconds = time.process_time() - began
            if shares not in results or seconds < results[shares][0]:
                results[shares] = (seconds, patterns)
    return [results[False], results[True]]


if __name__ == "__main__":
    main()
