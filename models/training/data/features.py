"""Runs the frozen part of a network once over each image, or reads the features from the cache.

The trunk is one compiled function that is called with batches of one size: `predict` has too much
overhead, and a shorter last batch would be compiled separately. Batches follow the order of the
dataset and make up whole shards of the cache, so that an attempt after a crash computes the rest in
the same batches, with bit-identical results.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

import keras
import numpy as np
import PIL
import tensorflow as tf

from contracts.files import require_room
from contracts.training.training_options import Augmentation
from models.datasets.dataset import Example
from models.export.signatures import Blueprint
from models.images import decode
from models.networks.precision import Precision, with_precision
from models.training.data.augmentation import ImageTransforms, draw_transforms
from models.training.data.feature_cache import FeatureCache, Features
from models.training.data.image_loader import ImageLoader
from models.training.data.sources import augment_and_preprocess
from models.training.loop.freezing import Cut

BATCH = 32
_SHARD_BYTES = 16 * 1024**2
MEMORY_BYTES = 512 * 1024**2  # of all arrays of a training; larger ones are memory-mapped files


@dataclass(frozen=True, slots=True)
class FeatureExtractor:
    """The frozen part of a network, ready to run.

    Attributes:
        cut: Where the network is cut.
        blueprint: The network's preprocessing.
        cache: Stores the features.
        augmentation: How views are drawn.
        forward: The compiled trunk; see `compile_trunk`.
        views: Number of augmented views of each image, besides the image itself.
        precision: What `forward` computes in.
        in_files: Whether all arrays are files, because together they are too large for memory.
    """

    cut: Cut
    blueprint: Blueprint
    cache: FeatureCache
    augmentation: Augmentation
    forward: Callable[..., Any]
    views: int = 0
    precision: Precision = "float32"
    in_files: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image's features."""
        return tuple(self.cut.trunk.outputs[0].shape[1:])

    def size(self, images: int) -> int:
        """Bytes that the features of that many images take, including all views."""
        return 4 * int(np.prod(self.shape)) * images * (1 + self.views)

    def extract(
        self,
        images: ImageLoader,
        scratch: Path,
        on_progress: Callable[[int], None],
        on_cached: Callable[[int], None] = lambda _count: None,
    ) -> tuple[Features, ...]:
        """The features of all images: first of the originals, then of each view.

        Args:
            images: The images.
            scratch: A folder for arrays that do not fit into memory.
            on_progress: Called with the number of images finished since the last call; may raise.
            on_cached: Called with the number of those that needed no computation, before that.

        Raises:
            OSError: The disk has no room for the arrays besides what is kept free.
        """
        namespace = _namespace(self.cut, self.blueprint, self.precision)
        views = []
        for view in range(1 + self.views):
            path = scratch / f"{namespace}-{view}.npy"
            shape = len(images), *self.shape
            if self.in_files:
                features = _mapped(shape, path, self.cache.kept_bytes)
            else:
                features = np.empty(shape, np.float32)
            self._fill(
                features, images, view, namespace, on_progress=on_progress, on_cached=on_cached
            )
            views.append(features)
        return tuple(views)

    def _fill(
        self,
        features: Features,
        images: ImageLoader,
        view: int,
        namespace: str,
        *,
        on_progress: Callable[[int], None],
        on_cached: Callable[[int], None],
    ) -> None:
        keys = [_key(example, view, self.augmentation) for example in images.examples]
        hits = self.cache.read(namespace, keys, features)
        on_cached(int(hits.sum()))
        on_progress(int(hits.sum()))
        misses = np.flatnonzero(~hits).tolist()
        first: dict[bytes, int] = {}  # images with equal content are computed once
        for index in misses:
            first.setdefault(keys[index], index)
        missing = np.array(list(first.values()), np.int64)
        batch_bytes = 4 * int(np.prod(self.shape)) * BATCH
        shard = BATCH * max(1, _SHARD_BYTES // batch_bytes)
        batches = [missing[i : i + BATCH] for i in range(0, len(missing), BATCH)]
        unsaved: list[int] = []
        for indices, pixels in zip(batches, images.batches(batches), strict=True):
            transforms = self._transforms([keys[index] for index in indices], view, images)
            features[indices] = _run_padded(self.forward, pixels, transforms)
            unsaved += indices.tolist()
            if len(unsaved) >= shard or indices is batches[-1]:
                self.cache.write(namespace, [keys[index] for index in unsaved], features[unsaved])
                unsaved = []
            on_progress(len(indices))
        duplicates = [index for index in misses if first[keys[index]] != index]
        for index in duplicates:
            features[index] = features[first[keys[index]]]
        on_progress(len(duplicates))

    def _transforms(
        self, keys: list[bytes], view: int, images: ImageLoader
    ) -> ImageTransforms | None:
        """A view's transform is seeded by its key, so that all trainings share its features."""
        if view == 0:
            return None
        size = images.spec.input_size
        drawn = [
            draw_transforms(self.augmentation, 1, size, np.random.default_rng(list(key)))
            for key in keys
        ]
        return ImageTransforms(
            np.concatenate([transform.affine for transform in drawn]),
            np.concatenate([transform.brightness for transform in drawn]),
            np.concatenate([transform.offset for transform in drawn]),
        )


def _run_padded(
    forward: Callable[..., Any], pixels: Any, transforms: ImageTransforms | None
) -> Features:
    """Run a batch, padded to `BATCH` rows."""
    count = len(pixels)
    padding = [(0, BATCH - count)]
    pixels = np.pad(pixels, [*padding, (0, 0), (0, 0), (0, 0)])
    if transforms is None:
        output = forward(pixels)
    else:
        affine, gain, offset = transforms.rows(np.arange(count))
        output = forward(
            pixels,
            np.pad(affine, [*padding, (0, 0)]),
            np.pad(gain, padding),
            np.pad(offset, [*padding, (0, 0)]),
        )
    features: Features = output.numpy()[:count]
    return features


def compile_trunk(
    trunk: keras.Model,
    blueprint: Blueprint,
    options: Augmentation,
    precision: Precision = "float32",
) -> Callable[..., Any]:
    """Compile a function from uint8 images, and optional transforms, to float32 features.

    Args:
        trunk: The frozen part.
        blueprint: The network's preprocessing.
        options: How pixels outside a transformed image are filled.
        precision: What the trunk computes in; its output is float32 in any case.
    """
    kind = blueprint.preprocessing
    trunk = with_precision(trunk, precision)

    augmented = augment_and_preprocess(kind, options)

    def run(pixels: Any, affine: Any = None, gain: Any = None, offset: Any = None) -> Any:
        return tf.cast(trunk(augmented(pixels, affine, gain, offset), training=False), tf.float32)

    graph = tf.function(run, reduce_retracing=True)

    def forward(*arrays: Any) -> Any:
        return graph(*(tf.constant(array) for array in arrays))

    return forward


def _namespace(cut: Cut, blueprint: Blueprint, precision: Precision) -> str:
    """The digest of everything that features depend on, except the image."""
    trunk = cut.trunk
    computation = {
        "precision": precision,
        "decoder": decoder_digest(Path(decode.__file__).parent),
        "input": trunk.inputs[0].shape[1:],
        "preprocessing": blueprint.preprocessing,
        "short_side": blueprint.short_side,
        "geometry": blueprint.geometry,
        "layers": list(_layer_configs(trunk)),
    }
    digest = hashlib.sha256(json.dumps(computation, sort_keys=True, default=str).encode())
    for layer in trunk.layers:
        for weight in layer.get_weights():
            digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()


def decoder_digest(folder: Path) -> str:
    """What images are decoded by: the sources in a folder, and the libraries that they use.

    Otherwise a training would go on with features of another decoding after an upgrade, and its
    version would be served with the new one.
    """
    digest = hashlib.sha256(f"{PIL.__version__} {version('simplejpeg')}".encode())
    for path in sorted(folder.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _layer_configs(trunk: keras.Model) -> Iterator[dict[str, Any]]:
    """What the layers compute, without their names and whether they are trainable."""
    for layer in trunk.layers:
        config = layer.get_config()
        yield {
            "class": type(layer).__name__,
            **{key: value for key, value in config.items() if key not in {"name", "trainable"}},
        }


def _key(example: Example, view: int, augmentation: Augmentation) -> bytes:
    image = bytes.fromhex(example.sha256)
    if view == 0:
        return image
    return hashlib.sha256(image + f"{view}{augmentation.model_dump_json()}".encode()).digest()


def _mapped(shape: tuple[int, ...], path: Path, kept: int) -> Features:
    """An uninitialized array that is backed by a file."""
    if not prod(shape):
        return np.empty(shape, np.float32)
    require_room(path.parent, 4 * prod(shape), kept)
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    # Reserve the blocks now, when a full disk raises an error; later it would be a SIGBUS.
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array
