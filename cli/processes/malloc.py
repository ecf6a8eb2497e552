"""How the API process uses threads and memory; set before it loads anything."""

import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
_MIB = 2**20
_MAPPED_MIB = 1
_KEPT_MIB = 4


def configure_malloc() -> None:
    """Use one thread for matrix products, and keep memory from one image to the next.

    Products in the API are small: a second BLAS thread waits longer than it helps. The number is
    read when numpy is first imported.

    Drawing on an image of 500 pixels takes a few megabytes, which are freed at its end. By default
    glibc returns them to the system each time and gets them again page by page, which takes half
    as long as the drawing; or, after a large image, keeps up to 64 MB in each thread. So both are
    bounded: blocks of 1 MiB or more are mapped and returned, and 4 MiB of the rest are kept.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # no other C library has it
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_MIB * _MIB)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_MIB * _MIB)
