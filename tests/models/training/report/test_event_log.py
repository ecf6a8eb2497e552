import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.plugins.histogram.summary_v2 import histogram_pb

from models.training.report import event_log
from models.training.report.event_log import EventLog
from tests.models import keras_warnings

pytestmark = keras_warnings.ignored

RANDOM = np.random.default_rng(8).normal(size=(50, 40)).astype(np.float32)
VALUES = {
    "random": RANDOM,
    "equal": np.full((50, 40), 0.25, np.float32),
    "in a corner": np.where(np.arange(2000).reshape(50, 40) == 7, 1, -1).astype(np.float32),
}


def layer_of(kernel: np.ndarray) -> keras.Model:
    model = keras.Sequential([keras.Input(kernel.shape[:1]), keras.layers.Dense(kernel.shape[1])])
    model.layers[0].set_weights([kernel, np.zeros(kernel.shape[1], np.float32)])
    return model


def histograms(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    for path in folder.rglob("*tfevents*"):
        for record in tf.data.TFRecordDataset(str(path)):
            for value in tf.compat.v1.Event.FromString(record.numpy()).summary.value:
                if value.metadata.plugin_data.plugin_name == "histograms":
                    yield value.tag, tf.make_ndarray(value.tensor)


def tags(folder: Path) -> Counter[str]:
    return Counter(
        value.tag
        for path in folder.rglob("*tfevents*")
        for record in tf.data.TFRecordDataset(str(path))
        for value in tf.compat.v1.Event.FromString(record.numpy()).summary.value
    )


def test_a_long_training_has_a_bounded_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One point for each of the steps of two days were gigabytes."""
    for name, first, more in (("BATCHES", 40, 10), ("HISTOGRAMS", 5, 2)):
        monkeypatch.setattr(event_log, f"_FIRST_{name}", first)
        monkeypatch.setattr(event_log, f"_MORE_{name}", more)
    log, model = EventLog(tmp_path), layer_of(RANDOM)
    for step in range(1000):
        log.batch(step, 0.5, 0.5)
        if step % 10 == 0:
            log.row({"phase": "head", "epoch": step // 10, "loss": 0.5})
            log.weights(model)
    log.close()
    found = tags(tmp_path)
    assert found["loss"] == 100
    assert found["batch/loss"] == 40 + 10 * 5 + 5  # distances 2, 4, 8, 16, 32, and some of 64
    assert found[model.layers[0].kernel.path] == 5 + 2 * 4 + 1


def test_a_log_leaves_room_on_the_disk(tmp_path: Path) -> None:
    log = EventLog(tmp_path, kept_bytes=10**18)
    log.row({"phase": "head", "epoch": 1, "loss": 0.5})
    log.batch(1, 0.5, 0.5)
    log.weights(layer_of(RANDOM))
    log.close()
    assert tags(tmp_path) == {"loss": 1}


def test_on_a_full_disk_the_log_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the training goes on, as it does without a checkpoint."""

    def full(*_: object, **__: object) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "x.v2; No space left on device")

    log = EventLog(tmp_path)
    log.row({"phase": "head", "epoch": 1, "loss": 0.5})
    monkeypatch.setattr(tf.summary, "scalar", full)
    log.row({"phase": "head", "epoch": 2, "loss": 0.5})
    monkeypatch.setattr(tf.summary, "image", full)
    log.image("x", b"")
    assert log.close()
    assert tags(tmp_path) == {"loss": 1}
    log = EventLog(tmp_path)
    monkeypatch.setattr(
        tf.summary, "scalar", lambda *_: tf.constant([1, 2]) + tf.constant([1, 2, 3])
    )
    with pytest.raises(tf.errors.InvalidArgumentError):
        log.row({"phase": "head", "epoch": 1, "loss": 0.5})


@pytest.mark.parametrize("name", VALUES)
def test_histograms_of_weights_are_those_of_tensorboard(name: str, tmp_path: Path) -> None:
    log, model = EventLog(tmp_path), layer_of(VALUES[name])
    log.weights(model)
    log.close()
    logged = dict(histograms(tmp_path))
    kernel = model.layers[0].kernel
    assert list(logged) == [kernel.path, model.layers[0].bias.path]
    wanted = tf.make_ndarray(histogram_pb("kernel", VALUES[name]).value[0].tensor)
    np.testing.assert_allclose(logged[kernel.path][:, :2], wanted[:, :2], atol=1e-6)
    assert np.abs(logged[kernel.path][:, 2] - wanted[:, 2]).sum() <= 2  # one value on an edge
    assert logged[kernel.path][:, 2].sum() == 2000


def test_histograms_leave_out_what_is_not_finite(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.weights(layer_of(np.where(RANDOM > 0, RANDOM, np.nan)))
    log.weights(layer_of(np.full((50, 40), np.inf, np.float32)))
    log.close()
    first, _, second, _ = (counts[:, 2].sum() for _, counts in histograms(tmp_path))
    assert (first, second) == ((RANDOM > 0).sum(), 0)


def test_histograms_take_little_memory(tmp_path: Path) -> None:
    """`tf.summary.histogram` takes more than 2 GB for these 32 MB."""
    log, model = EventLog(tmp_path), layer_of(np.zeros((2000, 4000), np.float32))
    model.layers[0].kernel.assign(keras.random.normal((2000, 4000)))
    before = _reset_peak()
    log.weights(model)
    assert _peak() - before < 300 * 1024
    log.close()


def _reset_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    """The most memory since the reset, in KiB."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])
