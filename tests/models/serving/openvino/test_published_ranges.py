"""The ranges that come with Opsin, on the networks that they are for."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.catalog import CATALOG
from models.export.catalog_import import import_network
from models.images.decode import decode
from models.serving.openvino.frontend import converting_core, import_openvino
from models.serving.openvino.ranges import published_ranges, quantize
from models.serving.openvino.runtime import OpenVinoRuntime
from models.serving.runtime import RuntimeOptions
from models.serving.selection import choose_runtime
from models.serving.signature_view import signature_view
from models.store.store import Store
from models.weights.catalog import Weights, WeightsMissing
from tests.models import keras_warnings

pytestmark = [keras_warnings.ignored, pytest.mark.shared]

OPTIONS = RuntimeOptions("openvino", "int8", 2)


def photos(shared: Path, network: Any, count: int) -> tuple[Any, Any]:
    folder = shared / "data/imagenet-samples"
    with (folder / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[:count]
    files = [(folder / row["file"]).read_bytes() for row in rows]
    images = [decode(data, network=network, max_pixels=10**7) for data in files]
    return np.stack([image.pixels for image in images]), [int(row["class_index"]) for row in rows]


def imported(name: str, shared: Path, fetched: Path, home: Path) -> tuple[Store, Any]:
    weights = Weights(fetched / "weights", shared / "weights", offline=True)
    store = Store(home)
    images, _ = photos(shared, CATALOG[name], 3)
    try:
        import_network(CATALOG[name], weights, store, images)
    except WeightsMissing as missing:
        pytest.skip(str(missing))
    return store, store.manifest(name, 1)


def layers_in_int8(folder: Path, endpoint: str) -> int:
    openvino = import_openvino()
    with signature_view(folder / "saved_model", endpoint) as view:
        graph = converting_core(openvino).read_model(view)
    return quantize(openvino, graph, published_ranges())


def test_squeezenet_in_int8_recognizes_what_it_recognizes_in_float32(
    shared: Path, fetched: Path, tmp_path: Path
) -> None:
    store, manifest = imported("squeezenet", shared, fetched, tmp_path)
    folder = store.path("squeezenet", 1)
    assert (layers_in_int8(folder, "serve"), layers_in_int8(folder, "features")) == (26, 25)
    choice = choose_runtime(folder, manifest, OPTIONS)
    assert (choice.runtime.name, choice.reason) == ("openvino-int8", None)
    images, truth = photos(shared, CATALOG["squeezenet"], 100)
    exact = OpenVinoRuntime(folder, manifest, "float32", OPTIONS)
    expected, actual = exact.run("serve", images), choice.runtime.run("serve", images)
    right = [int((output.argmax(axis=1) == truth).sum()) for output in (expected, actual)]
    assert right[1] >= right[0] - 4
    assert (expected.argmax(axis=1) == actual.argmax(axis=1)).mean() >= 0.88
    assert np.abs(expected - actual).max() < 0.4


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layers"), [("vgg16", 13)])
def test_other_networks_pass_the_gate_in_int8(
    name: str, layers: int, shared: Path, fetched: Path, tmp_path: Path
) -> None:
    store, manifest = imported(name, shared, fetched, tmp_path)
    folder = store.path(name, 1)
    assert layers_in_int8(folder, "features") == layers
    choice = choose_runtime(folder, manifest, OPTIONS)
    assert (choice.runtime.name, choice.reason) == ("openvino-int8", None)
