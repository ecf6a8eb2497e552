"""Converts a version to ONNX, TFLite or HDF5 on request, once, in a child process.

A conversion may take gigabytes and, for a large network, more than the machine has. In a child
process with a memory limit and a deadline it can fail without taking the worker with it. The
result is stored in `derived/`.
"""

import errno
import logging
import os
import subprocess
from pathlib import Path
from typing import Literal, get_args

from contracts.errors import DeadlineExceeded, Unavailable, ValidationFailed
from contracts.files import flush_entries, require_room
from contracts.inference.manifest import Manifest
from models.processes import child_environment, module_command
from models.store.manifest import DERIVED
from models.store.store import Store

DerivedFormat = Literal["onnx", "tflite", "keras_h5", "weights_h5"]
DERIVED_FORMATS: tuple[DerivedFormat, ...] = get_args(DerivedFormat)

GIB = 1024**3
_LOG = logging.getLogger(__name__)


def derived_path(store: Store, model: str, version: int, kind: DerivedFormat) -> Path:
    """The path of the converted file, whether or not it exists yet.

    Raises:
        VersionNotFound: The model has no such version.
    """
    return store.path(model, version) / DERIVED / f"model.{kind}"


def check_convertible(manifest: Manifest, kind: DerivedFormat) -> None:
    """Check that a version has what a format needs.

    Raises:
        ValidationFailed: It has no classifier, which ONNX and TFLite files are made of.
    """
    if kind in {"onnx", "tflite"} and "serve" not in manifest.endpoints:
        raise ValidationFailed(
            f"'{manifest.model}' version {manifest.version} is a base without a classifier; "
            "download it as saved_model or keras."
        )


def convert(
    store: Store,
    model: str,
    version: int,
    kind: DerivedFormat,
    *,
    memory_bytes: int = 6 * GIB,
    kept_bytes: int = 0,
    timeout: float = 600.0,
) -> Path:
    """Return the converted file of a version, converting it first if necessary.

    Args:
        memory_bytes: Limit of the child process's data segment.
        kept_bytes: Of the disk, which the file leaves free.
        timeout: Seconds to wait, first for another process that converts the same version and
            then for this conversion.

    Raises:
        VersionNotFound: The model has no such version.
        ValidationFailed: The version has no classifier to convert.
        DeadlineExceeded: The conversion took too long.
        Unavailable: The conversion failed; the log says why.
        OSError: The disk is full or cannot be written to.
    """
    path = derived_path(store, model, version, kind)
    check_convertible(store.manifest(model, version), kind)
    if path.is_file():
        return path
    with store.lock(f"convert-{model}-{version}-{kind}", timeout=timeout):
        if not path.is_file():
            folder = path.parent.parent
            require_room(folder, (folder / "model.keras").stat().st_size, kept_bytes)
            path.parent.mkdir(exist_ok=True)
            draft = path.with_name(f".{path.name}")
            try:
                _run_child(kind, folder, draft, memory_bytes, timeout)
                flush_entries(draft)
                draft.replace(path)
            finally:
                draft.unlink(missing_ok=True)
    return path


def _run_child(
    kind: DerivedFormat, folder: Path, output: Path, memory: int, timeout: float
) -> None:
    arguments = [kind, str(folder), str(output), str(memory)]
    try:
        child = subprocess.run(  # noqa: S603  our own module, paths from the store
            module_command("models.export.conversion_child", *arguments),
            env=child_environment({"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}),
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
        if os.strerror(errno.ENOSPC) in last:
            raise OSError(errno.ENOSPC, f"the conversion to {kind}")
        _LOG.error("the conversion to %s ended with %d: %s", kind, child.returncode, last)
        raise Unavailable(
            f"The conversion to {kind} failed, with {memory / GIB:.1f} GiB of memory to use; "
            "the log says why. Other formats are not affected."
        )
