"""Runs the frozen part of a network once over each picture, or takes what is remembered of it.

By one compiled function in batches of one size: `predict` would pay for its machinery, and a last,
shorter batch for kernels of its own. The batches are whole shards of the cache, in the order of
the dataset, so that an attempt after a crash computes the rest in the same batches, to the bit.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from contracts.training.trainings import Augmentation
from models.datasets.dataset import Example
from models.export.signatures import Blueprint
from models.networks.precision import Precision, in_precision
from models.networks.preprocessing import preprocess
from models.training.data.augmentation import Variations, apply, draw
from models.training.data.feature_cache import FeatureCache, Features
from models.training.data.image_loader import Pictures
from models.training.loop.freezing import Cut

BATCH = 32
_SHARD_BYTES = 16 * 1024**2
_MEMORY_BYTES = 512 * 1024**2  # more than this is kept in a file and paged in


@dataclass(frozen=True, slots=True)
class Extractor:
    """The frozen part of a network, ready to run over pictures.

    Attributes:
        cut: Where the network is cut.
        blueprint: Of the network.
        cache: Where features are remembered.
        augmentation: How views are made.
        forward: The trunk, compiled once for all splits; see `compiled`.
        views: How many views of each picture there are besides the picture itself.
        precision: In which `forward` computes.
    """

    cut: Cut
    blueprint: Blueprint
    cache: FeatureCache
    augmentation: Augmentation
    forward: Callable[..., Any]
    views: int = 0
    precision: Precision = "float32"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one picture's features."""
        return tuple(self.cut.trunk.outputs[0].shape[1:])

    def size(self, pictures: int) -> int:
        """Bytes that the features of so many pictures take, all views counted."""
        return 4 * int(np.prod(self.shape)) * pictures * (1 + self.views)

    def run(
        self, pictures: Pictures, scratch: Path, told: Callable[[int], None]
    ) -> tuple[Features, ...]:
        """The features of all pictures: as they are, and then of each view.

        Args:
            pictures: Which.
            scratch: A folder for what does not fit into memory.
            told: Called with the number of pictures that have just been done; may raise.
        """
        run = self.forward
        space = _space(self.cut, self.blueprint, self.precision)
        done = []
        for view in range(1 + self.views):
            into = _room((len(pictures), *self.shape), scratch / f"{space}-{view}.npy")
            self._fill(pictures, view, space, run, into=into, told=told)
            done.append(into)
        return tuple(done)

    def _fill(
        self,
        pictures: Pictures,
        view: int,
        space: str,
        run: Callable[..., Any],
        *,
        into: Features,
        told: Callable[[int], None],
    ) -> None:
        keys = [_key(example, view, self.augmentation) for example in pictures.examples]
        found = self.cache.read(space, keys, into)
        told(int(found.sum()))
        first: dict[bytes, int] = {}
        for place in np.flatnonzero(~found).tolist():
            first.setdefault(keys[place], place)
        missing = np.array(list(first.values()), np.int64)
        batch_bytes = 4 * int(np.prod(self.shape)) * BATCH
        shard = BATCH * max(1, _SHARD_BYTES // batch_bytes)
        batches = [missing[i : i + BATCH] for i in range(0, len(missing), BATCH)]
        pending: list[int] = []
        for places, pixels in zip(batches, pictures.batches(batches), strict=True):
            variations = self._variations([keys[place] for place in places], view, pictures)
            into[places] = _padded(run, pixels, variations)
            pending += places.tolist()
            if len(pending) >= shard or places is batches[-1]:
                self.cache.write(space, [keys[place] for place in pending], into[pending])
                pending = []
            told(len(places))
        doubles = [
            place for place in np.flatnonzero(~found).tolist() if first[keys[place]] != place
        ]
        for place in doubles:
            into[place] = into[first[keys[place]]]
        told(len(doubles))

    def _variations(self, keys: list[bytes], view: int, pictures: Pictures) -> Variations | None:
        """A view is drawn from its key, so that every training sees, and finds, the same."""
        if view == 0:
            return None
        drawn = [
            draw(self.augmentation, 1, pictures.input_size, np.random.default_rng(list(key)))
            for key in keys
        ]
        return Variations(
            np.concatenate([one.maps for one in drawn]),
            np.concatenate([one.brightness for one in drawn]),
        )


def _padded(run: Callable[..., Any], pixels: Any, variations: Variations | None) -> Features:
    """Run a batch at its full size; what fills it up is cut off the answer."""
    count = len(pixels)
    fill = [(0, BATCH - count)]
    pixels = np.pad(pixels, [*fill, (0, 0), (0, 0), (0, 0)])
    if variations is None:
        answer = run(pixels)
    else:
        maps = np.pad(variations.maps, [*fill, (0, 0)])
        answer = run(pixels, maps, np.pad(variations.brightness, fill))
    features: Features = answer.numpy()[:count]
    return features


def compiled(
    trunk: keras.Model, blueprint: Blueprint, fill_mode: str, precision: Precision = "float32"
) -> Callable[..., Any]:
    """From uint8 pictures, and how to vary them if they are to be, to float32 features.

    Args:
        trunk: The frozen part.
        blueprint: Of the network.
        fill_mode: What shows where a varied picture moved away.
        precision: In which the trunk computes; what it answers is float32 either way.
    """
    kind = blueprint.preprocessing
    trunk = in_precision(trunk, precision)

    def run(pixels: Any, maps: Any = None, brightness: Any = None) -> Any:
        if maps is not None:
            pixels = apply(pixels, maps, brightness, fill_mode)
        return tf.cast(trunk(preprocess(kind, pixels), training=False), tf.float32)

    graph = tf.function(run, reduce_retracing=True)

    def called(*arrays: Any) -> Any:
        return graph(*(tf.constant(array) for array in arrays))

    return called


def _space(cut: Cut, blueprint: Blueprint, precision: Precision) -> str:
    """The digest of all that the features of a picture depend on, the picture left out."""
    trunk = cut.trunk
    said = {
        "precision": precision,
        "input": trunk.inputs[0].shape[1:],
        "preprocessing": blueprint.preprocessing,
        "short_side": blueprint.short_side,
        "layers": list(_layers(trunk)),
    }
    digest = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode())
    for layer in trunk.layers:
        for weight in layer.get_weights():
            digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()


def _layers(trunk: keras.Model) -> Iterator[dict[str, Any]]:
    """What the layers do; neither what they are called nor whether they would learn."""
    for layer in trunk.layers:
        config = layer.get_config()
        yield {
            "class": type(layer).__name__,
            **{key: value for key, value in config.items() if key not in {"name", "trainable"}},
        }


def _key(example: Example, view: int, augmentation: Augmentation) -> bytes:
    picture = bytes.fromhex(example.sha256)
    if view == 0:
        return picture
    return hashlib.sha256(picture + f"{view}{augmentation.model_dump_json()}".encode()).digest()


def _room(shape: tuple[int, ...], path: Path) -> Features:
    """An array to fill; in a file, which the kernel pages, if it is large."""
    if 4 * int(np.prod(shape)) <= _MEMORY_BYTES:
        return np.empty(shape, np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    room = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    # Now, while a full disk is an error one can tell of; later it would be a SIGBUS.
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return room
