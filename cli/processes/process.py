"""One supervised process: its command, its log, its end."""

import contextlib
import os
import signal
import site
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cli.processes.parent_death import PARENT

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Program:
    """What to run.

    Attributes:
        name: What people read: valkey, worker, api.
        command: The command line; never through a shell.
        env: The whole environment.
        log: Where its output goes; None: where ours goes.
        own_session: Whether a terminal's Ctrl-C passes it by. Without, it stays in our process
            group, and whoever kills that kills it too.
        files: Open file descriptors that it gets, under the same numbers.
    """

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    log: Path | None
    own_session: bool = True
    files: tuple[int, ...] = ()


def opsin(*arguments: str) -> tuple[str, ...]:
    """The command line of this very Opsin, whatever folder it is started from."""
    # -P: a folder named `cli` or `models` where the user stands must not be taken for ours.
    return (sys.executable, "-P", "-m", "cli", *arguments)


class Child:
    """A running `Program`."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.started_at = time.monotonic()
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(program.log.open("ab")) if program.log else None
            # The interpreter is ours; the command line comes from `Program`, not from outside.
            self._process = subprocess.Popen(  # noqa: S603
                (sys.executable, "-P", "-m", "cli.processes.parent_death", *program.command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT if log else None,
                env=_importable({**program.env, PARENT: str(os.getpid())}),
                start_new_session=program.own_session,
                pass_fds=program.files,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_code(self) -> int | None:
        """How it ended, negative for a signal; None while it runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """Asks it to finish; only the leader, which knows how to end its own children."""
        if self.exit_code() is None:
            self._process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within that time."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """Ends it at once, with its process group if it has one, and reaps it."""
        # Nobody may be left in it. (macOS says EPERM for a group of zombies.)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self.program.own_session:
                os.killpg(self.pid, signal.SIGKILL)
            else:
                self._process.kill()
        self._process.wait(5)


def _importable(env: dict[str, str]) -> dict[str, str]:
    """Lets the child import this package from a checkout that is not installed."""
    if str(ROOT) in site.getsitepackages():
        return env
    paths = [str(ROOT), *filter(None, [env.get("PYTHONPATH")])]
    return {**env, "PYTHONPATH": os.pathsep.join(paths)}
