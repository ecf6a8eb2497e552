from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from contracts.errors import LayerNotFound, ValidationFailed
from contracts.inference.explanation import FAST, METHODS, Method
from contracts.inference.inference import VectorOperation
from contracts.queue.explain_messages import ExplainReply, ExplainRequest
from contracts.queue.messages import Pixels
from models.explain.answer import ExplainReplyBuilder
from models.explain.explainer import Explainer
from models.explain.layers import LAYERS
from models.explain.sampling import _legible
from models.export.saved_model import export_version
from models.networks.cnn import cnn
from models.networks.keras_files import read_whole
from models.serving.batching import Outputs
from models.serving.predictor import VersionPredictor
from models.store.store import Store
from tests.models import keras_warnings
from tests.models.explain.versions import BLUEPRINT, SIDE, published, sample_images, tiny

pytestmark = keras_warnings.ignored


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(tmp_path_factory.mktemp("store"), tiny())


@pytest.fixture(scope="module")
def explainer(folder: Path) -> Explainer:
    return Explainer(folder, max_batch_size=4)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_returns_a_grid_for_each_image(method: Method, explainer: Explainer) -> None:
    images, classes = sample_images(3), np.array([2, 0, 1], np.int32)
    fractions: list[float] = []
    grids = explainer.heatmaps(method, images, classes, progress=fractions.append, seed=8)
    assert grids.dtype == np.float32
    assert grids.ndim == 3
    assert len(grids) == 3
    assert np.isfinite(grids).all()
    assert grids.min() >= 0
    assert set(grids.max(axis=(1, 2))) <= {0.0, 1.0}
    assert grids.any()
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    alone = explainer.heatmaps(method, images[1:2], classes[1:2], seed=8)
    np.testing.assert_allclose(alone[0], grids[1], atol=1e-4)


@pytest.mark.parametrize("method", ["grad_cam", "hires_cam"])
def test_saved_model_and_keras_file_agree(method: Method, explainer: Explainer) -> None:
    images, classes = sample_images(3), np.array([2, 0, 1], np.int32)
    served = explainer.heatmaps(method, images, classes)
    from_keras = explainer._keras().grids(method, images.astype(np.float32), classes, "conv2")
    np.testing.assert_allclose(served, from_keras, atol=1e-5)


@pytest.mark.parametrize("method", sorted(FAST))
def test_requests_for_mixed_classes_trace_nothing_new(method: Method, explainer: Explainer) -> None:
    random = np.random.default_rng(8)
    explainer.heatmaps(method, sample_images(1), np.array([0], np.int32), "conv1")
    before = explainer.traces
    for _ in range(100):
        count = int(random.integers(1, 6))
        classes = random.integers(0, 3, count).astype(np.int32)
        explainer.heatmaps(method, sample_images(count), classes, "conv1")
    assert explainer.traces == before
    assert before > 0


def test_any_layer_with_maps_can_be_explained(explainer: Explainer) -> None:
    one, classes = sample_images(1), np.array([0], np.int32)
    for layer in explainer.layers:
        if layer.explainable:
            grid = explainer.heatmaps("layer_cam", one, classes, layer.name)[0]
            assert list(grid.shape) == layer.output_shape[:2]
            maps = explainer.activations(one, layer.name)
            assert list(maps.shape[1:]) == layer.output_shape


def test_activations_equal_the_layers_output(explainer: Explainer, folder: Path) -> None:
    model = read_whole(folder / "model.keras")
    part = keras.Model(model.inputs[0], model.get_layer("conv2").output)
    np.testing.assert_allclose(
        explainer.activations(sample_images(3), "conv2"), part(sample_images(3) / 255), atol=1e-4
    )


def test_probabilities_equal_the_networks(explainer: Explainer, folder: Path) -> None:
    model = read_whole(folder / "model.keras")
    np.testing.assert_allclose(
        explainer.probabilities(sample_images(5)), model(sample_images(5) / 255), atol=1e-5
    )


def test_probabilities_are_those_of_the_runtime_that_serves(folder: Path) -> None:
    """One image has one probability, whichever method explains it."""

    class Rounding(VersionPredictor):
        def run(self, operation: VectorOperation, images: Pixels) -> Outputs:
            return np.round(super().run(operation, images), 1)

    served = Rounding(folder, max_batch_size=4)
    explainer = Explainer(folder, max_batch_size=4, predictor=served)
    builder = ExplainReplyBuilder(explainer, "conv2", lambda: None)
    image, fractions = sample_images(9), list[float]()
    expected = served.run("classify", image)
    np.testing.assert_array_equal(explainer.probabilities(image, fractions.append), expected)
    assert fractions == [4 / 9, 8 / 9, 1]
    for method in set(METHODS) - {"grad_cam", "hires_cam"}:
        ((_, note),) = builder.build(
            ExplainRequest(method=method), image[:1], np.array([-1], np.int32)
        )
        reply = ExplainReply.model_validate_json(note)
        assert reply.target == expected[0].argmax()
        assert reply.probability == expected[0].max()


def test_smooth_grad_noise_depends_on_the_seed_only(explainer: Explainer) -> None:
    one, classes = sample_images(1), np.array([0], np.int32)
    first, again, other = (
        explainer.heatmaps("smooth_grad", one, classes, seed=seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_invalid_requests_are_refused(explainer: Explainer) -> None:
    one, classes = sample_images(1), np.array([0], np.int32)
    with pytest.raises(LayerNotFound, match=r"conv1, .*conv2"):
        explainer.heatmaps("layer_cam", one, classes, "conv9")
    with pytest.raises(ValidationFailed, match="no maps"):
        explainer.activations(one, "predictions")
    for index in (-1, 3):
        with pytest.raises(ValidationFailed, match="0 to 2"):
            explainer.heatmaps("grad_cam", one, np.array([index], np.int32))
    with pytest.raises(ValueError, match="uint8"):
        explainer.heatmaps("grad_cam", one.astype(np.float32), classes)


def test_every_method_returns_zeros_without_evidence(tmp_path: Path) -> None:
    model = tiny()
    last = model.get_layer("predictions")
    last.set_weights([np.zeros(w.shape) for w in last.get_weights()])
    explainer = Explainer(published(tmp_path, model), max_batch_size=8)
    for method in METHODS:
        if method == "score_cam":  # weighs by a softmax of scores: the maps themselves remain
            continue
        assert not explainer.heatmaps(method, sample_images(1), np.array([1], np.int32)).any(), (
            method
        )


def test_constant_image_gives_finite_grids(explainer: Explainer) -> None:
    for level in (0, 255):
        one = np.full((1, SIDE, SIDE, 3), level, np.uint8)
        for method in METHODS:
            assert np.isfinite(explainer.heatmaps(method, one, np.array([1], np.int32))).all()


def test_base_without_layer_list_has_activations(tmp_path: Path) -> None:
    base = cnn("cnn_small", input_shape=(SIDE, SIDE, 3), include_top=False)
    folder = published_base(tmp_path, base)
    listed = Explainer(folder, max_batch_size=2).layers
    (folder / LAYERS).unlink()
    explainer = Explainer(folder, max_batch_size=2)
    assert explainer.layers == listed
    assert explainer.activations(sample_images(1), "conv2").any()
    with pytest.raises(ValidationFailed, match="base without a classifier"):
        explainer.heatmaps("grad_cam", sample_images(1), np.array([0], np.int32))


def published_base(root: Path, base: keras.Model) -> Path:
    store = Store(root)
    with store.staging() as folder:
        draft = export_version(base, BLUEPRINT, folder, images=sample_images(2))
        return store.path("base", store.publish("base", folder, draft))


def test_sigmoid_version_has_two_classes(tmp_path: Path) -> None:
    x = image = keras.Input((SIDE, SIDE, 3))
    for layer in (
        layers.Conv2D(4, 3, activation="relu", name="conv2"),
        layers.MaxPooling2D(name="pool2"),
        layers.Flatten(),
        layers.Dense(1, activation="sigmoid"),
    ):
        x = layer(x)
    explainer = Explainer(published(tmp_path, keras.Model(image, x)), max_batch_size=2)
    probabilities = explainer.probabilities(sample_images(2))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    for method in ("hires_cam", "layer_cam"):
        grids = explainer.heatmaps(method, sample_images(2), np.array([0, 1], np.int32))
        assert np.isfinite(grids).all()
    with pytest.raises(ValidationFailed, match="0 to 1"):
        explainer.heatmaps("hires_cam", sample_images(1), np.array([2], np.int32))


def test_extreme_points_do_not_set_the_scale_of_integrated_gradients() -> None:
    """A broad area stays visible beside one point that is a hundred times as strong."""
    evidence = np.zeros((56, 56), np.float32)
    evidence[10:30, 10:30] = np.where(np.indices((20, 20)).sum(axis=0) % 2, 3.0, -1.0)
    evidence[45, 45] = 300.0
    legible = _legible(evidence)
    scale = legible.max()
    assert legible[14:26, 14:26].min() > 0.1 * scale
    assert legible[14:26, 14:26].std() < 0.1 * scale, "neighbors of opposite sign are averaged"
    assert (evidence / evidence.max())[10:30, 10:30].max() < 0.02
    assert not _legible(np.zeros((5, 1), np.float32)).any()
