"""Python's collection of cyclic garbage, kept short.

A full collection looks at every object while it holds the interpreter lock. A process has some
200,000 from its imports, so one takes a tenth of a second, in the middle of requests, and several
times as much on a busy machine.
What lives as long as the process is therefore set aside once it has started; what is collected
afterwards are the objects of requests, which takes less than a millisecond.
"""

import ctypes
import gc
from contextlib import suppress

_NEW_OBJECTS = 2000


def collect_less_often() -> None:
    """Let more objects be made between two collections, for a process that answers many at a time.

    A dozen requests at once have Python's 700 objects, of which none is garbage: a request and what
    belongs to it are freed with its response.
    """
    gc.set_threshold(_NEW_OBJECTS, *gc.get_threshold()[1:])


def set_aside() -> None:
    """Collect now; what is left is no longer looked at. Call when everything has been loaded."""
    gc.collect()
    gc.freeze()


def collect_all() -> None:
    """Collect also what was set aside, when something large has been dropped; takes long."""
    gc.unfreeze()
    set_aside()


def release_freed() -> None:
    """Give memory that libraries have freed back to the system; reading a graph leaves megabytes.

    Does nothing unless the C library is glibc.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
