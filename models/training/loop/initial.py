"""Reads the weights that a training starts from, and puts them into its network."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import keras
import numpy as np
import numpy.typing as npt
from keras import layers

from contracts.errors import ValidationFailed
from contracts.inference.manifest import ParentRecord, WeightsRecord
from contracts.training.training_options import VersionRef
from contracts.training.trainings import TrainingRequest
from models.export.saved_model import KERAS_MODEL
from models.networks.architecture import ARCHITECTURES
from models.networks.keras_files import read_whole
from models.networks.loading import Arrays, read_arrays
from models.store.labels import read_labels
from models.store.manifest import sha256_of
from models.store.store import Store
from models.training.loop.assembly import Assembly, ChannelStatistics
from models.training.parent import WEIGHT_NETWORKS
from models.weights.catalog import Weights
from models.weights.sources import weight_entries

_OUTPUTS = (layers.Dense, layers.Conv2D)


@dataclass(frozen=True, slots=True)
class InitialWeights:
    """The weights that a training starts from.

    Attributes:
        record: For the manifest; it counts no layers yet.
        arrays: Of each layer, in Keras's order.
        labels: Ids of the classes in the order of the outputs; empty for a published file.
        statistics: What the version centers its input with.
        base: The published weights that the version's base once started from.
    """

    record: ParentRecord
    arrays: Arrays
    labels: tuple[str, ...] = ()
    statistics: ChannelStatistics | None = None
    base: WeightsRecord | None = None


def read_initial_weights(
    request: TrainingRequest, store: Store | None, weights: Weights
) -> InitialWeights | None:
    """Read what a request starts from; None if that is nothing but the usual.

    Raises:
        ValueError: It names a version, and there is no store.
        VersionNotFound: The version was deleted.
        WeightsMissing: The published weights are not on this machine.
    """
    source = request.parent or request.initial_weights
    if source is None:
        return None
    if isinstance(source, str):
        return _read_file(source, weights)
    if store is None:
        raise ValueError("a training that starts from a version needs the store")
    return _read_version(source, store, is_parent=request.parent is not None)


def _read_file(name: str, weights: Weights) -> InitialWeights:
    file = weights.find(name)
    licence = weight_entries()[name].licence
    record = WeightsRecord(name=name, sha256=sha256_of(file.path), licence=licence)
    arrays = read_arrays(WEIGHT_NETWORKS[name], file.path, file.format)
    return InitialWeights(ParentRecord(use="initial_weights", weights=record, layers=0), arrays)


def _read_version(source: VersionRef, store: Store, *, is_parent: bool) -> InitialWeights:
    number = store.resolve(source.model, source.version)
    manifest, folder = store.manifest(source.model, number), store.path(source.model, number)
    model = read_whole(folder / KERAS_MODEL)
    record = ParentRecord(
        use="from_version" if is_parent else "initial_weights",
        model=source.model,
        version=number,
        layers=0,
    )
    return InitialWeights(
        record,
        {layer.name: layer.get_weights() for layer in model.layers if layer.weights},
        labels=tuple(label.id for label in read_labels(folder)),
        statistics=_statistics(model) if is_parent else None,
        base=manifest.provenance.weights if is_parent else None,
    )


def _statistics(model: keras.Model) -> ChannelStatistics | None:
    for layer in model.layers:
        if isinstance(layer, layers.Normalization):
            mean, variance = (np.ravel(layer.get_config()[name]) for name in ("mean", "variance"))
            return ChannelStatistics(tuple(map(float, mean)), tuple(map(float, variance)))
    return None


def go_on_from(
    request: TrainingRequest, model: keras.Model, initial: InitialWeights, classes: Sequence[str]
) -> Assembly:
    """Continue a version: all layers are taken over; new classes get new outputs.

    Args:
        request: The training.
        model: Built for the classes, with random weights.
        initial: The version.
        classes: In the order of the outputs.

    Raises:
        ValidationFailed: A layer does not fit; nothing was changed.
    """
    weighted = [layer for layer in model.layers if layer.weights]
    first_output = max(i for i, layer in enumerate(weighted) if isinstance(layer, _OUTPUTS))
    arrays: Arrays = {}
    for index, layer in enumerate(weighted):
        found = initial.arrays.get(layer.name)
        if found is not None and index >= first_output:
            found = _with_classes(layer, found, initial.labels, classes)
        if found is None or not _fits(layer, found):
            raise _misfit(layer, found)
        arrays[layer.name] = found
    for layer in weighted:
        layer.set_weights(arrays[layer.name])
    new = tuple(name for name in classes if name not in initial.labels)
    record = initial.record.model_copy(update={"layers": len(arrays), "new_classes": new})
    base = frozenset() if request.strategy == "from_scratch" else _base_layers(request, model)
    return Assembly(model, base, initial.base, record)


def start_from(assembly: Assembly, network: str, initial: InitialWeights) -> Assembly:
    """Load weights by layer name into a network that is trained from scratch.

    A layer of the base that has the name but not the shape is an error; one of the classifier,
    which depends on the classes and on the size of the image, stays random.

    Raises:
        ValidationFailed: A layer of the base does not fit, or none does.
    """
    base = _base_names(assembly.model, ARCHITECTURES[network].base_output)
    loaded, skipped = [], []
    for layer in assembly.model.layers:
        found = initial.arrays.get(layer.name)
        if not layer.weights or found is None:
            continue
        if _fits(layer, found):
            loaded.append(layer)
        elif layer.name in base:
            raise _misfit(layer, found)
        else:
            skipped.append(layer.name)
    if not any(layer.name in base for layer in loaded):
        raise ValidationFailed(
            f"initial_weights: no layer of {network} has the name of a layer in the weights."
        )
    for layer in loaded:
        layer.set_weights(initial.arrays[layer.name])
    counts = {"layers": len(loaded), "skipped": tuple(skipped)}
    return replace(assembly, parent=initial.record.model_copy(update=counts))


def _with_classes(
    layer: keras.Layer,
    arrays: Sequence[npt.NDArray[np.float32]],
    before: Sequence[str],
    classes: Sequence[str],
) -> list[npt.NDArray[np.float32]]:
    """The arrays of an output layer for other classes: known ones by name, new ones random."""
    if list(before) == list(classes) or arrays[0].shape[-1] != len(before):
        return list(arrays)
    known = [(classes.index(name), i) for i, name in enumerate(before) if name in classes]
    new, old = ([pair[side] for pair in known] for side in (0, 1))
    grown = []
    for fresh, array in zip(layer.get_weights(), arrays, strict=True):
        fresh[..., new] = array[..., old]
        grown.append(fresh)
    return grown


def _fits(layer: keras.Layer, arrays: Sequence[npt.NDArray[np.float32]]) -> bool:
    return [tuple(weight.shape) for weight in layer.weights] == [array.shape for array in arrays]


def _misfit(
    layer: keras.Layer, arrays: Sequence[npt.NDArray[np.float32]] | None
) -> ValidationFailed:
    if arrays is None:
        return ValidationFailed(f"The weights have no layer {layer.name}.")
    ours = [tuple(weight.shape) for weight in layer.weights]
    return ValidationFailed(
        f"The layer {layer.name} takes {ours}, the weights have "
        f"{[tuple(array.shape) for array in arrays]}."
    )


def _base_layers(request: TrainingRequest, model: keras.Model) -> frozenset[str]:
    return _base_names(model, ARCHITECTURES[request.network].base_output)


def _base_names(model: keras.Model, output: str) -> frozenset[str]:
    base = keras.Model(model.inputs[0], model.get_layer(output).output)
    return frozenset(layer.name for layer in base.layers)
