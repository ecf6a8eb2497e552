"""A version in a format that is made on request: ONNX or TFLite, once, in a process of its own.

A conversion may take gigabytes and, for a large network, more than there is. In a child with a
bound on its memory and a deadline it can fail alone. What comes out is kept in `derived/`.
"""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

from contracts.errors import DeadlineExceeded, Unavailable, ValidationFailed
from models.store.manifest import DERIVED
from models.store.staging import flush_entries
from models.store.store import Store

Derived = Literal["onnx", "tflite"]

GIB = 1024**3
_LOG = logging.getLogger(__name__)
_ROOT = Path(__file__).resolve().parents[2]


def derived_path(store: Store, model: str, version: int, kind: Derived) -> Path:
    """Where the converted file lies once it has been made.

    Raises:
        VersionNotFound: The model has no such version.
    """
    return store.path(model, version) / DERIVED / f"model.{kind}"


def convert(
    store: Store,
    model: str,
    version: int,
    kind: Derived,
    *,
    memory_bytes: int = 6 * GIB,
    timeout: float = 600.0,
) -> Path:
    """The version as a file of that kind, made now if it has not been made before.

    Args:
        store: Where the version is.
        model: Its model.
        version: Its number.
        kind: What to make of `serve`.
        memory_bytes: Most memory the child may take for data.
        timeout: Seconds to wait, for another's conversion of the same and then for this one.

    Raises:
        VersionNotFound: The model has no such version.
        ValidationFailed: It has no classifier to convert.
        DeadlineExceeded: It took too long.
        Unavailable: The conversion failed; the log says why.
    """
    path = derived_path(store, model, version, kind)
    if "serve" not in store.manifest(model, version).endpoints:
        raise ValidationFailed(
            f"'{model}' version {version} is a base without a classifier; "
            "download it as saved_model or keras."
        )
    if path.is_file():
        return path
    with store.alone(f"convert-{model}-{version}-{kind}", timeout=timeout):
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            draft = path.with_name(f".{path.name}")
            try:
                _run_child(kind, path.parent.parent, draft, memory_bytes, timeout)
                flush_entries(draft)
                draft.replace(path)
            finally:
                draft.unlink(missing_ok=True)
    return path


def _run_child(kind: Derived, folder: Path, output: Path, memory: int, timeout: float) -> None:
    command = [
        sys.executable,
        "-m",
        "models.export.conversion_child",
        kind,
        str(folder),
        str(output),
    ]
    try:
        child = subprocess.run(  # noqa: S603  our own module, paths from the store
            [*command, str(memory)],
            cwd=_ROOT,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DeadlineExceeded(
            f"The conversion to {kind} took more than {timeout:.0f} seconds and was stopped."
        ) from None
    if child.returncode != 0:
        last = child.stderr.decode(errors="replace")[-2000:]
        _LOG.error("the conversion to %s ended with %d: %s", kind, child.returncode, last)
        raise Unavailable(
            f"The conversion to {kind} failed, with {memory / GIB:.1f} GiB of memory to use; "
            "the log says why. Other formats are not affected."
        )
