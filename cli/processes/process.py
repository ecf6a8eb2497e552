"""One supervised process: its command, its log, its end."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from models.processes import child_environment, module_command


@dataclass(frozen=True, slots=True)
class Program:
    """What to run.

    Attributes:
        name: For people: valkey, worker, api.
        command: The command line; never run by a shell.
        env: The whole environment.
        log: Where its output goes; None for this process's own output.
        own_session: Whether a terminal's Ctrl-C does not reach it. Otherwise it stays in this
            process's group, and is killed with it.
        files: Open file descriptors that it gets, under the same numbers.
        repair: Called when it has failed, before it is started again. Mends what keeps it from
            starting, and says what that was; None if nothing did.
    """

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    log: Path | None
    own_session: bool = True
    files: tuple[int, ...] = ()
    repair: Callable[[], str | None] | None = None


def opsin(*arguments: str) -> tuple[str, ...]:
    """The command line of this Opsin, from whatever folder it is started."""
    return tuple(module_command("cli", *arguments))


class Child:
    """A running `Program`, which the kernel ends if this process dies."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.started_at = time.monotonic()
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(program.log.open("ab")) if program.log else None
            # The command line comes from `Program`, not from outside.
            self._process = subprocess.Popen(  # noqa: S603
                module_command("models.processes", *program.command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT if log else None,
                env=child_environment(base=program.env),
                start_new_session=program.own_session,
                pass_fds=program.files,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_code(self) -> int | None:
        """Negative for a signal; None while it runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """Ask it to finish; only the leader, which knows how to end its own children."""
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
        """End it at once, with its process group if it has its own, and reap it."""
        # The group may be empty. (macOS raises EPERM for a group of zombies.)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self.program.own_session:
                os.killpg(self.pid, signal.SIGKILL)
            else:
                self._process.kill()
        self._process.wait(5)
