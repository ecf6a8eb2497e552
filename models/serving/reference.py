"""TensorFlow's float32 outputs on a few images, which every other runtime is compared with.

They are stored in a file with the version, so that a worker does not load TensorFlow to check
OpenVINO. They are published with the version; for a version without them, a child process computes
them once.

    python -m models.serving.reference FOLDER [SAMPLES]
"""

import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from contracts.inference.manifest import Endpoint
from contracts.queue.messages import Pixels
from models.export.check_images import check_images
from models.export.endpoints import OUTPUTS
from models.processes import child_environment, end_with_parent, module_command
from models.serving.batching import Outputs
from models.store.manifest import DERIVED, read_manifest

_LOG = logging.getLogger(__name__)

REFERENCE = "reference.npz"
VECTORS: tuple[Endpoint, ...] = ("serve", "features")
EXPLAINED: tuple[Endpoint, ...] = ("explain", "explain_hires")
_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Reference:
    """Images and a version's outputs for them.

    Attributes:
        images: uint8 (n, height, width, 3).
        outputs: By endpoint, float32: (n, k) of `serve` and `features`; (n, gh, gw) of the
            explaining endpoints, for each image's most probable class.
    """

    images: Pixels
    outputs: dict[Endpoint, Outputs]

    def write(self, file: Path) -> None:
        """Write the file atomically."""
        draft = file.with_name(f".{file.name}.{os.getpid()}")
        with draft.open("wb") as opened:
            np.savez(opened, allow_pickle=False, pictures=self.images, **self.outputs)
        draft.replace(file)

    @classmethod
    def read(cls, file: Path) -> "Reference | None":
        """The content of the file; None if there is none or it is unreadable."""
        try:
            with np.load(file, allow_pickle=False) as arrays:
                outputs = {name: arrays[name] for name in (*VECTORS, *EXPLAINED) if name in arrays}
                return cls(arrays["pictures"], outputs)
        except (OSError, ValueError, KeyError, BadZipFile):
            return None


def reference_of(
    folder: Path, samples: Path | None, endpoint: Endpoint = "features"
) -> Reference | None:
    """A version's reference, computed if it has none; None if that fails.

    Args:
        folder: The version's.
        samples: A folder of photos to compute it on.
        endpoint: An endpoint that it must include; older versions have no heatmaps in it.
    """
    made = folder / DERIVED / REFERENCE
    for file in (folder / REFERENCE, made):
        reference = Reference.read(file)
        if reference is not None and endpoint in reference.outputs:
            return reference
    # Without a message, half a minute of silence would look like a hang.
    _LOG.warning("reference_missing: TensorFlow answers once for %s", folder.parent.name)
    arguments = [str(folder), *([str(samples)] if samples else [])]
    # The worker uses the GPU; the child needs none.
    changes = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    try:
        subprocess.run(  # noqa: S603  our own module
            module_command("models.serving.reference", *arguments),
            env=child_environment(changes),
            stdin=subprocess.DEVNULL,
            timeout=_SECONDS,
            check=True,
        )
    except (subprocess.SubprocessError, OSError):
        return None
    return Reference.read(made)


def make_reference(folder: Path, images: Pixels) -> Reference:
    """Compute the reference by TensorFlow.

    Args:
        folder: The version's.
        images: uint8 (n, height, width, 3) of its input size.
    """
    from models.serving.runtime import RuntimeOptions
    from models.serving.tensorflow import TensorFlowRuntime  # TensorFlow

    runtime = TensorFlowRuntime(folder, RuntimeOptions())
    endpoints = read_manifest(folder).endpoints
    outputs = {name: runtime.run(name, images) for name in VECTORS if name in endpoints}
    for name in EXPLAINED:
        if name in endpoints:
            top = top_classes(outputs["serve"])
            outputs[name] = runtime.explain(name, images, top)[OUTPUTS[name]]
    return Reference(images, outputs)


def top_classes(probabilities: Outputs) -> npt.NDArray[np.int32]:
    """The most probable class of each image, which the reference's heatmaps explain: (n,)."""
    top: npt.NDArray[np.int32] = probabilities.argmax(axis=1).astype(np.int32)
    return top


def main(folder: Path, samples: Path) -> None:
    """Write the reference of a published version."""
    images = check_images(samples, read_manifest(folder))
    (folder / DERIVED).mkdir(exist_ok=True)
    make_reference(folder, images).write(folder / DERIVED / REFERENCE)


if __name__ == "__main__":
    end_with_parent()
    main(Path(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2:] else Path("samples"))
