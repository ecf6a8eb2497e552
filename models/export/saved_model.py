"""Exports a Keras model to the files of a version and checks them against the model.

An export whose outputs differ from those of the model that was trained and measured is worse than
none. Therefore the SavedModel is loaded again and compared with the model on real images.
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
from models.explain.layer_graph import LayerGraph, is_nested, layers_of
from models.explain.layers import write_layers
from models.explain.sanity import sanity
from models.export.endpoints import OUTPUTS
from models.export.parity import parity
from models.export.signatures import Blueprint, EndpointFunction, is_base, signatures
from models.serving.batching import Outputs
from models.serving.reference import EXPLAINED, REFERENCE, VECTORS, Reference, top_classes
from models.store.labels import Label, write_labels

SAVED_MODEL = "saved_model"
KERAS_MODEL = "model.keras"
REFERENCE_IMAGES = 8
"""Each one takes 150 kB on the disk, and time whenever the version is loaded."""


def export_version(
    model: keras.Model,
    blueprint: Blueprint,
    folder: Path,
    *,
    images: Pixels,
    stored_images: Pixels | None = None,
    labels: Sequence[Label] = (),
    provenance: Provenance | None = None,
    metrics: dict[str, float] | None = None,
) -> Draft:
    """Write the SavedModel, `model.keras`, labels, layers and reference answers, and check them.

    Args:
        model: Its output is probabilities, or feature maps for a base without a classifier. A
            single sigmoid is served as two classes. If the model has other models as layers, it is
            flattened, and layers with the same name are numbered.
        folder: An empty folder, from `Store.staging`.
        images: Real images to compare with, uint8 (n, height, width, 3), at least one.
        stored_images: Images that may be stored in the version, for the comparison with other
            runtimes; by default the first of `images`.
        labels: One for each class, in the order of the outputs.
        provenance: The versions of the libraries are added.
        metrics: What was measured for the model.

    Returns:
        The draft for `Store.publish`.

    Raises:
        ParityError: The files give different outputs than the model.
        OpaqueModelError: The layers of the model are not accessible.
        NoProbabilitiesError: The model's outputs are not probabilities.
        ValueError: There are no images, or not as many labels as classes.
    """
    graph = LayerGraph.of(model)
    if is_nested(model):
        model = graph.model
    classes = None if is_base(graph, blueprint.base_output) else head_of(graph).classes
    if len(images) == 0 or len(labels) != (classes or 0):
        raise ValueError(f"{len(images)} images, {len(labels)} labels, {classes} classes")
    endpoints = signatures(model, blueprint)
    _write_saved_model(endpoints, folder / SAVED_MODEL)
    model.save(folder / KERAS_MODEL)
    write_labels(folder, labels)
    write_layers(folder, layers_of(graph))

    loaded = tf.saved_model.load(str(folder / SAVED_MODEL))
    differences = parity(endpoints, loaded, images)
    stored_images = images if stored_images is None else stored_images
    _reference(endpoints, stored_images[:REFERENCE_IMAGES]).write(folder / REFERENCE)
    height, width = model.inputs[0].shape[1:3]
    return Draft(
        network=blueprint.network,
        classes=classes,
        input_size=(height, width),
        short_side=blueprint.short_side,
        geometry=blueprint.geometry,
        preprocessing=blueprint.preprocessing,
        endpoints=tuple(endpoints),
        features=int(graph.nodes[blueprint.base_output].output.shape[-1]),
        explain_layer=blueprint.explain_layer,
        parity=differences,
        provenance=(provenance or Provenance()).model_copy(update={"libraries": _libraries()}),
        metrics=metrics or {},
        sanity=sanity(model, loaded, blueprint.explain_layer, images) if classes else None,
    )


def _write_saved_model(endpoints: dict[Endpoint, EndpointFunction], folder: Path) -> None:
    archive = keras.export.ExportArchive()
    # `track` would write every variable twice: add_endpoint finds those its function uses.
    for name, endpoint in endpoints.items():
        archive.add_endpoint(name, endpoint.run, input_signature=list(endpoint.inputs))
    archive.write_out(str(folder), verbose=False)


def _reference(endpoints: dict[Endpoint, EndpointFunction], images: Pixels) -> Reference:
    """The outputs with which other runtimes are compared whenever the version is loaded."""

    def run(name: Endpoint, *arguments: Any) -> Outputs:
        output: Outputs = endpoints[name].run(images, *arguments)[OUTPUTS[name]].numpy()
        return output

    outputs = {name: run(name) for name in VECTORS if name in endpoints}
    for name in EXPLAINED:
        if name in endpoints:
            outputs[name] = run(name, tf.constant(top_classes(outputs["serve"])))
    return Reference(images, outputs)


def _libraries() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("keras", "numpy", "tensorflow")}
