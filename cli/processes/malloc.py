"""What the API's process is told before it loads anything: how it computes and keeps memory."""

import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
_MIB = 2**20
_MAPPED_MIB = 1
_KEPT_MIB = 4


def tune() -> None:
    """One thread for products of matrices, and memory that is not given back after each picture.

    Products in the API are small: a second thread of BLAS waits longer than it helps. The number
    is read when numpy is first imported.

    What drawing on a photo of 500 pixels takes is some megabytes that are freed at its end. glibc
    would hand them back to the system each time and get them again page by page, which takes as
    long as half the drawing; or, once it saw a large one, keep up to 64 MB in each thread. So both
    are bounded: what has 1 MiB or more is mapped and given back, and 4 MiB of the rest are kept.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # no other C library has it
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_MIB * _MIB)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_MIB * _MIB)
