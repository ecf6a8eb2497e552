"""Graphs are traced once and shared, and a step is short enough for others to go first."""

from pathlib import Path

import numpy as np
import pytest

from contracts.inference.explanation import FAST, METHODS, Method
from models.catalog import CATALOG
from models.explain.explainer import Explainer
from models.explain.instrumented_model import InstrumentedModel, step_size, work_of
from models.explain.layer_graph import LayerGraph
from models.networks.architecture import build
from tests.models import keras_warnings
from tests.models.explain.versions import pictures, published, tiny

pytestmark = keras_warnings.ignored


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(tmp_path_factory.mktemp("store"), tiny())


@pytest.fixture
def probe() -> InstrumentedModel:
    return InstrumentedModel(tiny(), "unit", max_batch_size=4)


def test_the_fast_methods_share_the_graph_of_a_layer(probe: InstrumentedModel) -> None:
    images, classes = pictures(2).astype(np.float32), np.array([0, 2], np.int32)
    found = {method: probe.grids(method, images, classes, "conv1") for method in FAST}
    assert probe.traces == 1
    assert len({grids.tobytes() for grids in found.values()}) == len(FAST)
    probe.grids("grad_cam", images, classes, "conv2")
    assert probe.traces == 2


def test_every_step_is_told(probe: InstrumentedModel) -> None:
    images, classes = pictures(9).astype(np.float32), np.zeros(9, np.int32)
    for told, run in (
        ([], lambda tell: probe.grids("layer_cam", images, classes, "conv2", tell)),
        ([], lambda tell: probe.probabilities(images, tell)),
        ([], lambda tell: probe.maps(images, "conv2", tell)),
    ):
        assert len(run(told.append)) == 9
        assert told == pytest.approx([4 / 9, 8 / 9, 1])


@pytest.mark.parametrize("method", [*METHODS, None])
@pytest.mark.parametrize("layer", [None, "conv1"])
def test_what_was_rehearsed_traces_nothing_more(
    method: Method | None, layer: str | None, folder: Path
) -> None:
    explainer = Explainer(folder, max_batch_size=4)
    assert not explainer.is_warm(method, layer)
    explainer.warm_up(method, layer)
    assert explainer.is_warm(method, layer)
    before = explainer.traces
    if method is None:
        explainer.activations(pictures(1), layer or "conv2")
    else:
        explainer.probabilities(pictures(1))
        explainer.heatmaps(method, pictures(1), np.array([1], np.int32), layer)
    assert explainer.traces == before > 0


def test_a_step_is_as_large_as_the_network_is_light() -> None:
    tiny_graph = LayerGraph.of(tiny())
    assert step_size(tiny_graph, 16) == 16
    assert step_size(tiny_graph, 6) == 4
    squeezenet = LayerGraph.of(build(CATALOG["squeezenet"]))
    assert work_of(squeezenet) == pytest.approx(0.352e9, rel=0.02)
    assert step_size(squeezenet, 16) == 4
    vgg16 = LayerGraph.of(build(CATALOG["vgg16"]))
    assert work_of(vgg16) == pytest.approx(15.4e9, rel=0.02), "the paper's, less the classifier"
    assert step_size(vgg16, 16) == 1
