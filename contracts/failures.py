"""What to tell the client of a job that ended with an unexpected exception, without details."""

import errno
import os
from pathlib import Path

from contracts.errors import DiskUnusable, InternalError, NeedsOperator, NotFound, OpsinError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_READ_ONLY = {errno.EROFS}
_FORBIDDEN = {errno.EACCES, errno.EPERM}


def client_error(error: Exception, kind: str) -> OpsinError:
    """The error for the client.

    Args:
        error: Not an `OpsinError`.
        kind: Of the job.
    """
    if isinstance(error, FileNotFoundError):
        name = Path(str(error.filename or "")).name
        return NotFound(
            f"A file that this job needs has been deleted{f': {name}' if name else ''}. Check the "
            "dataset and the model that it uses, then send the request again."
        )
    if (unusable := disk_error(error)) is not None:
        return unusable
    if is_out_of_memory(error):
        return InternalError("Out of memory. Use a smaller batch, image or network.")
    if isinstance(error, ImportError):
        return InternalError(
            f"This worker cannot do '{kind}'. `opsin doctor` may say what is missing."
        )
    return InternalError("The work failed; the job worker's log says why.")


def disk_error(error: Exception) -> OpsinError | None:
    """What to tell the client of an error in writing; None if the disk is not the reason."""
    numbers = _numbers(error)
    if numbers & _FULL:
        return DiskUnusable(
            "The disk of the worker is full. Once its operator has made room, send the "
            "request again."
        )
    if numbers & _READ_ONLY:
        return DiskUnusable(
            "The disk of the worker is read-only. Once its operator has mended that, send the "
            "request again."
        )
    if numbers & _FORBIDDEN:
        return NeedsOperator(
            "The job worker may not write to a file or folder of OPSIN_HOME. Its operator has to "
            "correct the owner or the permissions; the job worker's log names it."
        )
    return None


def _numbers(error: Exception) -> set[int]:
    """The `errno`; of TensorFlow and `shutil.copytree`, which have none, what their texts say."""
    if isinstance(error, OSError) and error.errno is not None:
        return {error.errno}
    text = str(error)
    return {number for number in _FULL | _READ_ONLY if os.strerror(number) in text}


def is_out_of_memory(error: Exception) -> bool:
    """Whether that is what Python, NumPy, OpenVINO or TensorFlow report."""
    return (
        isinstance(error, MemoryError)
        or "bad_alloc" in str(error)
        or type(error).__name__ == "ResourceExhaustedError"
    )
