"""The child process of `models.store.derived`, with the arguments KIND FOLDER OUTPUT BYTES.

The memory limit is set before TensorFlow is imported, so that it applies to all of it.
"""

import resource
import sys
from pathlib import Path

from models.processes import end_with_parent


def main(kind: str, folder: Path, output: Path, memory_bytes: int) -> None:
    """Convert the version in `folder` and write the result to `output`."""
    # Data, not address space: TensorFlow reserves far more address space than it uses.
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    convert = {
        "onnx": _to_onnx,
        "tflite": _to_tflite,
        "keras_h5": _to_keras_h5,
        "weights_h5": _to_weights_h5,
    }
    convert[kind](folder, output)


def _to_onnx(folder: Path, output: Path) -> None:
    from pydantic import TypeAdapter  # after the limit has been set

    from models.catalog import Preprocessing
    from models.export.onnx import write_onnx
    from models.networks.keras_files import read_whole
    from models.store.manifest import read_manifest

    kind: Preprocessing = TypeAdapter(Preprocessing).validate_python(
        read_manifest(folder).preprocessing
    )
    write_onnx(read_whole(folder / "model.keras"), kind, output)


def _to_tflite(folder: Path, output: Path) -> None:
    import tensorflow as tf  # after the limit has been set

    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(folder / "saved_model"), signature_keys=["serve"]
    )
    output.write_bytes(converter.convert())


def _to_keras_h5(folder: Path, output: Path) -> None:
    import h5py  # after the limit has been set
    from keras.src.legacy.saving import legacy_h5_format  # what `save` calls for a name in .h5

    from models.networks.keras_files import read_whole

    with h5py.File(output, "w") as file:
        legacy_h5_format.save_model_to_hdf5(
            read_whole(folder / "model.keras"), file, include_optimizer=False
        )


def _to_weights_h5(folder: Path, output: Path) -> None:
    from models.networks.keras_files import read_whole, write_tutorial_weights

    write_tutorial_weights(read_whole(folder / "model.keras"), output)


if __name__ == "__main__":
    end_with_parent()
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
