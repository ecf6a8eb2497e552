"""Python's collection of cyclic garbage, kept short.

A full collection looks at every object while it holds the interpreter lock. A process has some
200,000 from its imports, so one takes a tenth of a second, in the middle of requests, and several
times as much on a busy machine.
What lives as long as the process is therefore set aside once it has started; what is collected
afterwards are the objects of requests, which takes less than a millisecond.
"""

import gc


def set_aside() -> None:
    """Collect now; what is left is no longer looked at. Call when everything has been loaded."""
    gc.collect()
    gc.freeze()


def collect_all() -> None:
    """Collect also what was set aside, when something large has been dropped; takes long."""
    gc.unfreeze()
    set_aside()
