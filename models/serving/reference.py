"""How TensorFlow answered in float32 on a few pictures: what every other runtime is held to.

The answers are kept in a file beside the version, so that a worker need not load TensorFlow to
judge OpenVINO. They are published with the version; for one that was published without them, a
child process makes them once.

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
from models.export.check_images import check_pictures
from models.export.signatures import OUTPUTS
from models.processes import end_when_orphaned
from models.serving.batching import Outputs
from models.store.manifest import DERIVED, read_manifest

_LOG = logging.getLogger(__name__)

REFERENCE = "reference.npz"
VECTORS: tuple[Endpoint, ...] = ("serve", "features")
EXPLAINED: tuple[Endpoint, ...] = ("explain", "explain_hires")
_ROOT = Path(__file__).resolve().parents[2]
_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Reference:
    """Pictures, and what the version says of them.

    Attributes:
        pictures: uint8 (n, height, width, 3).
        outputs: By endpoint, float32: (n, k) of `serve` and `features`, and of those that
            explain (n, gh, gw), each picture's most probable class.
    """

    pictures: Pixels
    outputs: dict[Endpoint, Outputs]

    def write(self, file: Path) -> None:
        """Write it, whole or not at all."""
        draft = file.with_name(f".{file.name}.{os.getpid()}")
        with draft.open("wb") as opened:
            np.savez(opened, allow_pickle=False, pictures=self.pictures, **self.outputs)
        draft.replace(file)

    @classmethod
    def read(cls, file: Path) -> "Reference | None":
        """What lies there; None if nothing readable does."""
        try:
            with np.load(file, allow_pickle=False) as arrays:
                outputs = {name: arrays[name] for name in (*VECTORS, *EXPLAINED) if name in arrays}
                return cls(arrays["pictures"], outputs)
        except (OSError, ValueError, KeyError, BadZipFile):
            return None


def reference_of(
    folder: Path, samples: Path | None, wanted: Endpoint = "features"
) -> Reference | None:
    """A version's reference, made if it has none; None if that fails.

    Args:
        folder: The version's.
        samples: A folder of photos to make it on.
        wanted: What it must tell of; earlier versions were published without heatmaps in it.
    """
    made = folder / DERIVED / REFERENCE
    for file in (folder / REFERENCE, made):
        found = Reference.read(file)
        if found is not None and wanted in found.outputs:
            return found
    # Half a minute of silence would look like a hang.
    _LOG.warning("reference_missing: TensorFlow answers once for %s", folder.parent.name)
    command = [sys.executable, "-m", "models.serving.reference", str(folder)]
    # The GPU is the worker's, and this needs none.
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    try:
        subprocess.run(  # noqa: S603  our own module
            [*command, *([str(samples)] if samples else [])],
            cwd=_ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            timeout=_SECONDS,
            check=True,
        )
    except (subprocess.SubprocessError, OSError):
        return None
    return Reference.read(made)


def make_reference(folder: Path, pictures: Pixels) -> Reference:
    """Ask TensorFlow.

    Args:
        folder: The version's.
        pictures: uint8 (n, height, width, 3) of its input size.
    """
    from models.serving.runtime import RuntimeOptions
    from models.serving.tensorflow import TensorFlowRuntime  # TensorFlow

    runtime = TensorFlowRuntime(folder, RuntimeOptions())
    endpoints = read_manifest(folder).endpoints
    outputs = {name: runtime.run(name, pictures) for name in VECTORS if name in endpoints}
    for name in EXPLAINED:
        if name in endpoints:
            top = top_classes(outputs["serve"])
            outputs[name] = runtime.explain(name, pictures, top)[OUTPUTS[name]]
    return Reference(pictures, outputs)


def top_classes(probabilities: Outputs) -> npt.NDArray[np.int32]:
    """Those that the maps of a reference explain, (n,)."""
    top: npt.NDArray[np.int32] = probabilities.argmax(axis=1).astype(np.int32)
    return top


def main(folder: Path, samples: Path) -> None:
    """Make the reference of a published version."""
    pictures = check_pictures(samples, read_manifest(folder))
    (folder / DERIVED).mkdir(exist_ok=True)
    make_reference(folder, pictures).write(folder / DERIVED / REFERENCE)


if __name__ == "__main__":
    end_when_orphaned()
    main(Path(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2:] else Path("samples"))
