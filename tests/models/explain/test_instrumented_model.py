"""Graphs are traced once and shared, and a step is short enough for others to go first."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from contracts.inference.explanation import FAST, METHODS, Method
from models.catalog import CATALOG
from models.explain.explainer import Explainer
from models.explain.instrumented_model import InstrumentedModel, step_size, work_of
from models.explain.layer_graph import LayerGraph
from models.networks.architecture import build
from models.serving.openvino.function import RowFunction
from models.serving.runtime import RuntimeOptions, RuntimeUnavailableError
from tests.models import keras_warnings
from tests.models.explain.versions import published, sample_images, tiny

pytestmark = keras_warnings.ignored


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(tmp_path_factory.mktemp("store"), tiny())


@pytest.fixture
def model() -> InstrumentedModel:
    return InstrumentedModel(tiny(), "unit", max_batch_size=4)


def test_fast_methods_share_one_function_of_a_layer(model: InstrumentedModel) -> None:
    images, classes = sample_images(2).astype(np.float32), np.array([0, 2], np.int32)
    grids = {method: model.grids(method, images, classes, "conv1") for method in FAST}
    assert model.traces == 1
    assert len({grids.tobytes() for grids in grids.values()}) == len(FAST)
    model.grids("grad_cam", images, classes, "conv2")
    assert model.traces == 2


def test_progress_is_reported_after_each_step(model: InstrumentedModel) -> None:
    images, classes = sample_images(9).astype(np.float32), np.zeros(9, np.int32)
    for fractions, run in (
        ([], lambda progress: model.grids("layer_cam", images, classes, "conv2", progress)),
        ([], lambda progress: model.maps(images, "conv2", progress)),
    ):
        assert len(run(fractions.append)) == 9
        assert fractions == pytest.approx([4 / 9, 8 / 9, 1])


@pytest.mark.parametrize("method", [*METHODS, None])
@pytest.mark.parametrize("layer", [None, "conv1"])
def test_warmed_up_method_traces_nothing(
    method: Method | None, layer: str | None, folder: Path
) -> None:
    explainer = Explainer(folder, max_batch_size=4)
    assert not explainer.is_warm(method, layer)
    explainer.warm_up(method, layer)
    assert explainer.is_warm(method, layer)
    before = explainer.traces
    if method is None:
        explainer.activations(sample_images(1), layer or "conv2")
    else:
        explainer.probabilities(sample_images(1))
        explainer.heatmaps(method, sample_images(1), np.array([1], np.int32), layer)
    assert explainer.traces == before
    served = layer is None and method in {"grad_cam", "hires_cam"}
    assert served == (before == 0), "their graph comes traced"


def test_step_size_shrinks_with_the_networks_work() -> None:
    tiny_graph = LayerGraph.of(tiny())
    assert step_size(tiny_graph, 16) == 16
    assert step_size(tiny_graph, 6) == 4
    squeezenet = LayerGraph.of(build(CATALOG["squeezenet"]))
    assert work_of(squeezenet) == pytest.approx(0.352e9, rel=0.02)
    assert step_size(squeezenet, 16) == 4
    vgg16 = LayerGraph.of(build(CATALOG["vgg16"]))
    assert work_of(vgg16) == pytest.approx(15.4e9, rel=0.02), "the paper's, less the classifier"
    assert step_size(vgg16, 16) == 1


@pytest.mark.parametrize("method", ["score_cam", "occlusion"])
def test_openvino_and_tensorflow_explain_alike(method: Method, folder: Path) -> None:
    images, classes = sample_images(2), np.array([1, 2], np.int32)
    expected = Explainer(folder, max_batch_size=4).heatmaps(method, images, classes)
    options = RuntimeOptions("openvino", threads=2)
    explainer = Explainer(folder, max_batch_size=4, options=options)
    actual = explainer.heatmaps(method, images, classes)
    np.testing.assert_allclose(actual, expected, atol=1e-4)
    assert isinstance(explainer._keras()._scores, RowFunction)


def test_function_that_openvino_cannot_read_runs_in_tensorflow(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, classes = sample_images(1), np.array([1], np.int32)
    expected = Explainer(folder, max_batch_size=4).heatmaps("occlusion", images, classes)
    options = RuntimeOptions("openvino", threads=2)
    for unusable in (
        {"name": "agrees", "value": lambda *_: False},
        {"name": "__init__", "value": _unavailable},
    ):
        monkeypatch.setattr(RowFunction, **unusable)
        explainer = Explainer(folder, max_batch_size=4, options=options)
        actual = explainer.heatmaps("occlusion", images, classes)
        np.testing.assert_array_equal(actual, expected)
        assert not isinstance(explainer._keras()._scores, RowFunction)


def _unavailable(*_: object, **__: object) -> None:
    raise RuntimeUnavailableError("no converter")


def test_score_cam_weighs_the_strongest_maps(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, classes = sample_images(1), np.array([1], np.int32)
    asked: list[int] = []
    explainer = Explainer(folder, max_batch_size=4)
    model = explainer._keras()
    whole = model.masked_scores

    def counted(image: np.ndarray, masks: np.ndarray, index: int) -> Iterator[np.ndarray]:
        asked.append(len(masks))
        return whole(image, masks, index)

    monkeypatch.setattr(model, "masked_scores", counted)
    every = explainer.heatmaps("score_cam", images, classes)
    monkeypatch.setattr("models.explain.sampling.MAX_MASKS", asked[0] - 1)
    but_one = explainer.heatmaps("score_cam", images, classes)
    assert asked[1] == asked[0] - 1
    np.testing.assert_allclose(but_one, every, atol=0.1)
