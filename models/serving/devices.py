"""TensorFlow in this process: how many threads, how much of a GPU, and on what it computes."""

import tensorflow as tf


def prepare_tensorflow(threads: int) -> None:
    """Bound TensorFlow's threads and let it take GPU memory as it needs it.

    Both can only be said before TensorFlow first runs anything in this process; a process that
    serves says it at its start, and later calls with the same number change nothing.
    """
    if tf.config.threading.get_intra_op_parallelism_threads() == threads:
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        # Operators of one of these networks follow one another: there is nothing to run beside.
        tf.config.threading.set_inter_op_parallelism_threads(1)
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError:
        return  # it has started already, in a test or a notebook, and keeps the number it had


def devices() -> tuple[str, ...]:
    """What TensorFlow computes on: the GPUs by name, or else the CPU."""
    gpus = [
        tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    return tuple(gpus) or ("CPU",)
