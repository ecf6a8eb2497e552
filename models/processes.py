"""Child processes: how they are started, and how they end when their parent dies.

A child that outlives its parent does work that nothing waits for, so none may. All of Opsin's own
children watch their parent (`end_with_parent`); that works on every system. A foreign program
cannot, so the kernel ends it (Linux's `PR_SET_PDEATHSIG`), set by this module before the program
replaces it: ``python -m models.processes valkey-server …``. The setting survives `exec` and needs
no `preexec_fn`, which is unsafe with threads. It must be started from the main thread: Linux takes
the death of the starting *thread* for the parent's.

A child limits its own memory before it loads anything (`models.export.conversion_child`,
`models.faces.liveness.video_child`).
"""

import ctypes
import os
import signal
import site
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

PARENT = "OPSIN_PARENT_PID"
"""The variable that names the parent; a process without it depends on no parent."""

_ROOT = str(Path(__file__).resolve().parents[1])
_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.2
_AUTOGROUP = Path("/proc/self/autogroup")


def module_command(module: str, *arguments: str) -> list[str]:
    """The command line that runs one of Opsin's own modules in this interpreter."""
    # -P: a folder named `cli` or `models` in the working directory must not be taken for ours.
    return [sys.executable, "-P", "-m", module, *arguments]


def child_environment(
    changes: Mapping[str, str] | None = None, *, base: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The environment for a child: it can import Opsin and knows its parent.

    Args:
        changes: Variables to add.
        base: What to start from; this process's environment if not given.
    """
    environment = {**(os.environ if base is None else base), **(changes or {})}
    environment[PARENT] = str(os.getpid())
    if _ROOT not in site.getsitepackages():  # a checkout that is not installed
        paths = [_ROOT, *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    return environment


def lower_priority(niceness: int) -> None:
    """Let other processes run first; called before any thread starts, as each has its own.

    Args:
        niceness: From 0 (normal priority) to 19 (lowest).
    """
    os.nice(niceness)
    # Linux may schedule whole sessions (autogroups) first, and this process may have its own.
    with suppress(OSError):
        _AUTOGROUP.write_text(str(niceness))


def end_with_parent(grace_seconds: float = 0.0) -> None:
    """End this process once its parent has died; does nothing without `OPSIN_PARENT_PID`.

    What is left of the process group is killed, if the group is this process's own.

    Args:
        grace_seconds: How long the process may take to finish after a SIGTERM to itself; 0 for
            none.
    """
    parent = os.environ.pop(PARENT, "")
    if parent.isdecimal():
        threading.Thread(
            target=_watch, args=(int(parent), grace_seconds), name="parent-watch", daemon=True
        ).start()


def _watch(parent: int, grace_seconds: float) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    if grace_seconds:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace_seconds)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


def main(command: list[str]) -> None:
    """Become `command`, which the kernel ends with the parent; end if the parent is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    # The parent may have died before the kernel was asked.
    if os.environ.get(PARENT, str(os.getppid())) != str(os.getppid()):
        sys.exit(1)
    try:
        os.execvp(command[0], command)  # noqa: S606 (the supervisor's own command line)
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
