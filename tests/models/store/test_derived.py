import errno
import io
import json
import subprocess
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from onnx.reference import ReferenceEvaluator

from contracts.errors import DeadlineExceeded, NotFound, Unavailable, ValidationFailed
from models.export.saved_model import export_version
from models.export.signatures import Blueprint
from models.networks.cnn import cnn
from models.networks.preprocessing import prepare
from models.serving.predictor import load_version
from models.store.derived import DERIVED_FORMATS, GIB, _run_child, convert, derived_path
from models.store.downloads import DownloadFormat, download
from models.store.labels import Label
from models.store.store import Store
from tests.models import keras_warnings

pytestmark = keras_warnings.ignored

PICTURES = np.random.default_rng(8).integers(0, 256, (3, 28, 28, 3), np.uint8)
BLUEPRINT = Blueprint("cnn_small", 28, "cover", "unit", "pool2", "conv2")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """`digits` 1 is a whole network in gray, `digits` 2 its base alone."""
    store = Store(tmp_path_factory.mktemp("store"))
    keras.utils.set_random_seed(8)
    for whole in (True, False):
        model = cnn("cnn_small", input_shape=(28, 28, 1), classes=10, include_top=whole)
        labels = [Label(str(i), str(i)) for i in range(10)] if whole else []
        with store.staging() as folder:
            draft = export_version(model, BLUEPRINT, folder, images=PICTURES, labels=labels)
            store.publish("digits", folder, draft)
    return store


@pytest.fixture(scope="module")
def expected(store: Store) -> np.ndarray:
    return load_version(store, "digits", 1, max_batch_size=4).run("classify", PICTURES)


def test_onnx_gives_the_same_output_and_is_converted_once(
    store: Store, expected: np.ndarray
) -> None:
    with pytest.raises(NotFound, match="not been converted"):
        download(store, "digits", 1, "onnx")
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: convert(store, "digits", 1, "onnx"), range(2))
    made = one.stat().st_mtime_ns
    assert one == other == convert(store, "digits", 1, "onnx")
    assert one.stat().st_mtime_ns == made
    (found,) = ReferenceEvaluator(onnx.load(one)).run(None, {"images": PICTURES})
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert store.verify("digits", 1) == []
    sent = b"".join(download(store, "digits", 1, "onnx").chunks)
    assert sent == one.read_bytes()


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning")
def test_tflite_gives_the_same_output(store: Store, expected: np.ndarray) -> None:
    interpreter = tf.lite.Interpreter(str(convert(store, "digits", 1, "tflite")))
    found = interpreter.get_signature_runner("serve")(images=PICTURES)["probabilities"]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_base_has_nothing_to_convert(store: Store) -> None:
    with pytest.raises(ValidationFailed, match="without a classifier"):
        convert(store, "digits", 2, "onnx")


@pytest.mark.slow
def test_hdf5_holds_the_same_network(store: Store, expected: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "model.h5").write_bytes(b"".join(download_of(store, "keras_h5")))
    whole = keras.saving.load_model(tmp_path / "model.h5", compile=False)
    gray = prepare("unit", PICTURES, 1)
    np.testing.assert_allclose(whole(gray, training=False), expected, atol=1e-5)


def test_architecture_and_weights_make_the_network_again(
    store: Store, expected: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "model.json").write_bytes(b"".join(download_of(store, "architecture")))
    content = b"".join(download_of(store, "weights_h5"))
    path = tmp_path / download(store, "digits", 1, "weights_h5").filename
    path.write_bytes(content)
    for load in (keras.Model.load_weights, partial(keras.Model.load_weights, by_name=True)):
        network = keras.models.model_from_json((tmp_path / "model.json").read_text())
        load(network, path)
        found = network(prepare("unit", PICTURES, 1), training=False)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def download_of(store: Store, kind: DownloadFormat) -> Iterator[bytes]:
    if kind in DERIVED_FORMATS:
        convert(store, "digits", 1, kind)
    return download(store, "digits", 1, kind).chunks


@pytest.mark.parametrize(
    ("bounds", "error"),
    [
        ({"memory_bytes": GIB // 16}, Unavailable),
        ({"timeout": 0.2}, DeadlineExceeded),
    ],
)
def test_failed_conversion_leaves_nothing(
    tmp_path: Path, bounds: dict[str, float], error: type[Exception]
) -> None:
    store = Store(tmp_path)
    with store.staging() as folder:
        model = cnn("cnn_small", input_shape=(28, 28, 1), classes=2)
        labels = [Label("a", "a"), Label("b", "b")]
        draft = export_version(model, BLUEPRINT, folder, images=PICTURES, labels=labels)
        store.publish("digits", folder, draft)
    with pytest.raises(error):
        convert(store, "digits", 1, "onnx", **bounds)  # type: ignore[arg-type]
    assert list(derived_path(store, "digits", 1, "onnx").parent.iterdir()) == []


def test_a_full_disk_is_no_lack_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = b"OSError: [Errno 28] No space left on device: 'x'"
    failed = subprocess.CompletedProcess((), 1, b"", said)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(OSError, match="onnx") as caught:
        _run_child("onnx", tmp_path, tmp_path / "draft", GIB, 60)
    assert caught.value.errno == errno.ENOSPC


def test_a_conversion_leaves_room_on_the_disk(store: Store) -> None:
    derived_path(store, "digits", 1, "tflite").unlink(missing_ok=True)
    with pytest.raises(OSError, match="No space left"):
        convert(store, "digits", 1, "tflite", kept_bytes=10**18)


def test_saved_model_is_downloaded_as_a_zip(
    store: Store, expected: np.ndarray, tmp_path: Path
) -> None:
    sent = download(store, "digits", 1, "saved_model")
    chunks = list(sent.chunks)
    assert len(chunks) > 3, "must be streamed"
    assert b"".join(download(store, "digits", 1, "saved_model").chunks) == b"".join(chunks)
    with zipfile.ZipFile(io.BytesIO(b"".join(chunks))) as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path)
    assert sent.filename == "digits-1.zip"
    loaded = tf.saved_model.load(str(tmp_path / "digits-1"))
    found = loaded.signatures["serving_default"](images=tf.constant(PICTURES))["probabilities"]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_labels_and_keras_model_are_downloaded_unchanged(store: Store) -> None:
    labels = download(store, "digits", 1, "labels")
    content = b"".join(labels.chunks)
    assert labels.size == len(content)
    assert json.loads(content)[3] == {"id": "3", "label": "3"}
    kept = download(store, "digits", 1, "keras")
    assert b"".join(kept.chunks) == (store.path("digits", 1) / "model.keras").read_bytes()
