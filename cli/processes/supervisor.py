"""Keeps processes running: restarts what crashes, stops all in order, leaves nobody behind."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from cli.output import CommandError
from cli.processes.logs import tail
from cli.processes.process import Child, Program

# A crash this soon after a start is a quick one; after so many of those in a row we give up.
QUICK_SECONDS = 20.0
QUICK_LIMIT = 5
BACKOFF_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)
_POLL_SECONDS = 0.05


@dataclass(slots=True)
class _Post:
    """One program, the process that runs it now, and how it fared."""

    program: Program
    child: Child
    quick_crashes: int = 0
    restart_at: float | None = None


class Supervisor:
    """Runs programs in the order they were added; stops them in the opposite one.

    Start from the main thread only: Linux takes the death of the starting *thread* for the
    parent's death.

    Args:
        say: Told each restart in a line.
        shutdown_seconds: How long each process may take to finish when told to stop.
        backoff: Seconds to wait before the first, second … restart; the last one repeats.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        *,
        shutdown_seconds: float,
        backoff: tuple[float, ...] = BACKOFF_SECONDS,
    ) -> None:
        self._say = say
        self._shutdown_seconds = shutdown_seconds
        self._backoff = backoff
        self._posts: list[_Post] = []

    def start(self, program: Program) -> Child:
        """Runs `program` and keeps it running."""
        child = Child(program)
        self._posts.append(_Post(program, child))
        return child

    def pids(self) -> dict[str, int]:
        """The process of each program."""
        return {post.program.name: post.child.pid for post in self._posts}

    def require_all(self) -> None:
        """Checks that nobody has ended; used while starting, when a restart would not help.

        Raises:
            CommandError: One has; the message ends with the last lines of its log.
        """
        for post in self._posts:
            code = post.child.exit_code()
            if code is not None:
                raise CommandError(_obituary(post.program, f"could not start ({_how(code)})"))

    def tend(self) -> None:
        """Notes who has crashed and restarts whose time has come. Call it a few times a second.

        Raises:
            CommandError: One crashes again and again.
        """
        for post in self._posts:
            if post.restart_at is None:
                self._note_crash(post)
            elif time.monotonic() >= post.restart_at:
                post.child = Child(post.program)
                post.restart_at = None

    def _note_crash(self, post: _Post) -> None:
        code = post.child.exit_code()
        if code is None:
            return
        lived = time.monotonic() - post.child.started_at
        post.child.kill()  # Its own children, if it left any.
        post.quick_crashes = post.quick_crashes + 1 if lived < QUICK_SECONDS else 1
        if post.quick_crashes >= QUICK_LIMIT:
            raise CommandError(
                _obituary(post.program, f"crashed {QUICK_LIMIT} times in a row ({_how(code)})")
            )
        delay = self._backoff[min(post.quick_crashes, len(self._backoff)) - 1]
        post.restart_at = time.monotonic() + delay
        self._say(f"{post.program.name} ended ({_how(code)}); restarting it in {delay:g} s.")

    def tell(self) -> None:
        """Ask all to finish, and wait for nobody; `stop` does."""
        for post in self._posts:
            post.child.terminate()

    def stop(self, hurry: Callable[[], bool] = lambda: False) -> None:
        """Ends all, the last started first: SIGTERM, a deadline, SIGKILL.

        Args:
            hurry: Asked often; once it is true, whoever is left is killed at once.
        """
        try:
            for post in reversed(self._posts):
                self._end(post.child, hurry)
        finally:
            for post in self._posts:
                post.child.kill()

    def _end(self, child: Child, hurry: Callable[[], bool]) -> None:
        child.terminate()
        deadline = time.monotonic() + self._shutdown_seconds
        while time.monotonic() < deadline and not hurry():
            if child.wait(_POLL_SECONDS):
                break
        child.kill()


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _obituary(program: Program, what: str) -> str:
    if program.log is None:
        return f"The {program.name} {what}. What it said last stands above."
    last = tail(program.log, lines=15)
    return f"The {program.name} {what}. The end of {program.log}:\n{last or '  (nothing logged)'}"
