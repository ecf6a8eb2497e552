"""From a Keras model to the files of a version, refused unless the copy equals the original.

The gate is there because an export that answers differently from what was trained and measured
is worse than none: the SavedModel is loaded again and compared on real pictures.
"""

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from contracts.inference.manifest import Draft, Endpoint, Provenance
from contracts.queue.messages import Pixels
from models.explain.head import head_of
from models.explain.layer_graph import Flat, is_nested, layers_of
from models.explain.layers import write_layers
from models.explain.sanity import sanity
from models.export.parity import parity
from models.export.signatures import OUTPUTS, Blueprint, Signature, is_base, signatures
from models.serving.batching import Outputs
from models.serving.reference import EXPLAINED, REFERENCE, VECTORS, Reference, top_classes
from models.store.labels import Label, write_labels

SAVED_MODEL = "saved_model"
KERAS_MODEL = "model.keras"
# Each costs 150 kB on the disk, and its time whenever the version is loaded.
_REFERENCE_PICTURES = 8


def export_version(
    model: keras.Model,
    blueprint: Blueprint,
    folder: Path,
    *,
    pictures: Pixels,
    kept: Pixels | None = None,
    labels: Sequence[Label] = (),
    provenance: Provenance | None = None,
    metrics: dict[str, float] | None = None,
) -> Draft:
    """Write the SavedModel, `model.keras`, labels, layers and reference answers, and check them.

    Args:
        model: With its weights; ends in probabilities, or in maps if it is a base alone. One
            sigmoid is served as two classes. A network that holds others as layers is exported
            as one row of their layers, which get a number where two have one name.
        blueprint: What has to be known of it.
        folder: An empty one, from `Store.staging`.
        pictures: Real ones to compare on, uint8 (n, height, width, 3), at least one.
        kept: Pictures that may lie in the version, for other runtimes to be compared on; left out,
            the first of `pictures`.
        labels: A name for each class, in the order of the outputs.
        provenance: Where it comes from; the libraries' versions are added.
        metrics: What it was measured to reach.

    Returns:
        The draft for `Store.publish`.

    Raises:
        ParityError: The files answer differently from the model.
        OpaqueModelError: The layers of the model cannot be seen.
        NoProbabilitiesError: It is a regression.
        ValueError: There are no pictures, or not as many labels as classes.
    """
    flat = Flat.of(model)
    if is_nested(model):
        model = flat.model
    classes = None if is_base(flat, blueprint.base_output) else head_of(flat).classes
    if len(pictures) == 0 or len(labels) != (classes or 0):
        raise ValueError(f"{len(pictures)} pictures, {len(labels)} labels, {classes} classes")
    endpoints = signatures(model, blueprint)
    _write_saved_model(endpoints, folder / SAVED_MODEL)
    model.save(folder / KERAS_MODEL)
    write_labels(folder, labels)
    write_layers(folder, layers_of(flat))

    loaded = tf.saved_model.load(str(folder / SAVED_MODEL))
    equality = parity(endpoints, loaded, pictures)
    kept = pictures if kept is None else kept
    _reference(endpoints, kept[:_REFERENCE_PICTURES]).write(folder / REFERENCE)
    height, width = model.inputs[0].shape[1:3]
    return Draft(
        network=blueprint.network,
        classes=classes,
        input_size=(height, width),
        short_side=blueprint.short_side,
        preprocessing=blueprint.preprocessing,
        endpoints=tuple(endpoints),
        features=int(flat.steps[blueprint.base_output].output.shape[-1]),
        explain_layer=blueprint.explain_layer,
        parity=equality,
        provenance=(provenance or Provenance()).model_copy(update={"libraries": _libraries()}),
        metrics=metrics or {},
        sanity=sanity(model, loaded, blueprint.explain_layer, pictures) if classes else None,
    )


def _write_saved_model(endpoints: dict[Endpoint, Signature], folder: Path) -> None:
    archive = keras.export.ExportArchive()
    # `track` would write every variable twice: add_endpoint finds those its function uses.
    for name, endpoint in endpoints.items():
        archive.add_endpoint(name, endpoint.run, input_signature=list(endpoint.inputs))
    archive.write_out(str(folder), verbose=False)


def _reference(endpoints: dict[Endpoint, Signature], pictures: Pixels) -> Reference:
    """What other runtimes are compared with whenever the version is loaded."""

    def told(name: Endpoint, *given: Any) -> Outputs:
        answer: Outputs = endpoints[name].run(pictures, *given)[OUTPUTS[name]].numpy()
        return answer

    outputs = {name: told(name) for name in VECTORS if name in endpoints}
    for name in EXPLAINED:
        if name in endpoints:
            outputs[name] = told(name, tf.constant(top_classes(outputs["serve"])))
    return Reference(pictures, outputs)


def _libraries() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("keras", "numpy", "tensorflow")}
