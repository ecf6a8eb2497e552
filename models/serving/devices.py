"""TensorFlow's threads, GPU memory and devices in this process."""

import tensorflow as tf


def prepare_tensorflow(threads: int) -> None:
    """Limit TensorFlow's threads and let it allocate GPU memory as needed.

    Both must be set before TensorFlow runs anything in this process. A serving process does so when
    it starts; later calls with the same number change nothing.
    """
    if tf.config.threading.get_intra_op_parallelism_threads() == threads:
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        # The operators of these networks run one after another, so there is nothing to parallelise.
        tf.config.threading.set_inter_op_parallelism_threads(1)
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError:
        return  # it has started already, in a test or a notebook, and keeps its number


def devices() -> tuple[str, ...]:
    """The devices that TensorFlow computes on: the GPUs by name, otherwise the CPU."""
    gpus = [
        tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    return tuple(gpus) or ("CPU",)
