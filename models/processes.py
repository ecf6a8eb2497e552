"""A child process that outlives its parent works for nobody, and ends."""

import os
import threading
import time

_LOOK_SECONDS = 0.5


def end_when_orphaned() -> None:
    """From now on this process ends, whatever it does, once its parent is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
