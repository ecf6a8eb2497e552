"""What OpenVINO reads by our rules says what TensorFlow says, without the slow kernels."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from models.serving.openvino.frontend import converting_core, import_openvino
from tests.models import keras_warnings

pytestmark = keras_warnings.ignored


@pytest.mark.parametrize("axes", [[-1], [3], [1, 3], [0, 2]])
def test_reverse_becomes_a_gather(tmp_path: Path, axes: list[int]) -> None:
    module = tf.Module()
    pictures = tf.TensorSpec([None, 5, 4, 3], tf.uint8)
    module.turned = tf.function(
        lambda images: tf.reverse(tf.cast(images, tf.float32), axes) - (1.0, 2.0, 3.0), [pictures]
    )
    tf.saved_model.save(module, str(tmp_path), signatures=module.turned)
    images = np.random.default_rng(5).integers(0, 256, (2, 5, 4, 3), np.uint8)

    core = converting_core(import_openvino())
    read = core.read_model(tmp_path)

    kinds = {operation.get_type_name() for operation in read.get_ops()}
    assert not kinds & {"Reverse", "ReverseSequence"}
    actual = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([images])[0]
    np.testing.assert_array_equal(actual, module.turned(images))
