"""Ties a process to the one that started it: when the supervisor dies, even by SIGKILL, so do we.

On Linux the kernel does it (``PR_SET_PDEATHSIG``), set here before the real program replaces us:
``python -m cli.processes.parent_death valkey-server …``. That setting survives ``exec``, needs no
code in the program, and no ``preexec_fn``, which is unsafe beside threads. Other systems have
nothing like it, so our own processes also look, twice a second, whether their parent is still the
same.
"""

import ctypes
import os
import signal
import sys
import threading
import time

PARENT = "OPSIN_PARENT_PID"
_PR_SET_PDEATHSIG = 1
_LOOK_SECONDS = 0.5


def watch_parent(grace_seconds: float) -> None:
    """Ends this process once the one that `OPSIN_PARENT_PID` names is no longer its parent.

    Does nothing where that variable is not set. First SIGTERM, as the supervisor would have
    sent; what is left of the process group after `grace_seconds` is killed.
    """
    parent = os.environ.pop(PARENT, "")
    if not parent.isdecimal():
        return
    threading.Thread(
        target=_end_with, args=(int(parent), grace_seconds), name="parent-watch", daemon=True
    ).start()


def _end_with(parent: int, grace_seconds: float) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace_seconds)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


def _die_with_parent() -> None:
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def main(command: list[str]) -> None:
    """Becomes `command`, unless the parent is already gone."""
    _die_with_parent()
    # The parent may have died before the kernel was told.
    if os.environ.get(PARENT, str(os.getppid())) != str(os.getppid()):
        sys.exit(1)
    try:
        os.execvp(command[0], command)  # noqa: S606 (the supervisor's own command line)
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
