"""Runs several API processes behind one port, and replaces them one by one without a gap.

The socket is opened here, listens for as long as this process lives, and is handed to each child.
All accept from the same queue of connections, so no client is refused while one of them goes or
comes. (With `SO_REUSEPORT` each would have a queue of its own, and the connections waiting in the
queue of a process that ends would be cut off.)
"""

import contextlib
import functools
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType

from cli.output import CommandError, notes, warn
from cli.processes.process import Program, opsin
from cli.processes.signals import StopSignals
from cli.processes.supervisor import Supervisor
from cli.settings import environment
from contracts.settings import Settings

READY_SECONDS = 60.0
_TICK_SECONDS = 0.1
_BACKLOG = 2048


@dataclass(slots=True)
class _ApiProcess:
    """One of the processes: its supervisor, and the pipe on which it reports that it is ready."""

    supervisor: Supervisor
    ready_read: int
    ready_write: int

    def stop(self, signals: StopSignals | None = None, *, at_once: bool = False) -> None:
        self.supervisor.stop(signals, at_once=at_once)
        os.close(self.ready_read)
        os.close(self.ready_write)

    def is_ready(self) -> bool:
        """Whether it has reported since the last call."""
        readable, _, _ = select.select([self.ready_read], [], [], 0)
        return bool(readable) and bool(os.read(self.ready_read, 1))


class ApiSupervisor:
    """The processes behind one socket.

    Args:
        listener: The socket; it listens already.
        program: Makes one process's program, from its number, the socket's descriptor and its
            pipe's.
        count: How many processes.
        signals: Entered.
        report: Called with a line for what happens.
        shutdown_seconds: How long each may take to finish.
    """

    def __init__(
        self,
        listener: socket.socket,
        program: Callable[[int, int, int], Program],
        count: int,
        signals: StopSignals,
        report: Callable[[str], None],
        *,
        shutdown_seconds: float,
    ) -> None:
        self._listener = listener
        self._program = program
        self._count = count
        self._signals = signals
        self._report = report
        self._supervisor = functools.partial(Supervisor, report, shutdown_seconds=shutdown_seconds)
        self._processes: list[_ApiProcess] = []
        self._replacement_requested = False

    def run(self) -> None:
        """Run the processes until a stop is requested; SIGUSR2 replaces them all.

        Raises:
            CommandError: One does not start, or crashes again and again.
        """
        with _handling(signal.SIGUSR2, self._request_replacement):
            try:
                self._start()
                while not self._signals.wait(_TICK_SECONDS):
                    self._restart_crashed()
                    if self._replacement_requested:
                        self._replacement_requested = False
                        self._replace_all()
            finally:
                self._stop()

    def _request_replacement(self) -> None:
        self._replacement_requested = True

    def _start(self) -> None:
        """Begin all, and wait for the first; the others are then treated as if they ran already.

        A start that fails is reported to our own parent. But once one process takes requests, the
        death of another while it loads is no reason to end the first.
        """
        for number in range(self._count):
            self._processes.append(self._begin(number))
        self._wait_for_one(self._processes)

    def _restart_crashed(self) -> None:
        for process in self._processes:
            process.supervisor.restart_crashed()

    def _begin(self, number: int) -> _ApiProcess:
        ready_read, ready_write = os.pipe()
        process = _ApiProcess(self._supervisor(), ready_read, ready_write)
        process.supervisor.start(self._program(number, self._listener.fileno(), ready_write))
        return process

    def _wait_for_one(self, candidates: Sequence[_ApiProcess]) -> bool:
        """Wait until one of these takes requests; False if a stop is requested before.

        The processes that already run are restarted meanwhile if they crash.

        Raises:
            CommandError: A candidate ends instead, or they take too long.
        """
        deadline = time.monotonic() + READY_SECONDS
        while not any(process.is_ready() for process in candidates):
            for process in candidates:
                process.supervisor.require_all()
            if time.monotonic() > deadline:
                raise CommandError(f"No API process was ready within {READY_SECONDS:g} s.")
            for process in self._processes:
                if process not in candidates:
                    process.supervisor.restart_crashed()
            if self._signals.wait(_TICK_SECONDS):
                return False
        return True

    def _replace_all(self) -> None:
        """A successor for each, which takes requests before the old process is asked to finish."""
        for number, old in enumerate(self._processes):
            successor = self._begin(number)
            try:
                ready = self._wait_for_one([successor])
            except CommandError as failure:
                successor.stop(at_once=True)
                self._report(f"The old API processes stay. {failure.message}")
                return
            if not ready:
                successor.stop(at_once=True)
                return
            self._processes[number] = successor
            old.stop(self._signals)
        self._report(f"All {self._count} API processes were replaced.")

    def _stop(self) -> None:
        """Ask all first, then wait for each: together they take no longer than one."""
        for process in self._processes:
            process.supervisor.terminate()
        for process in self._processes:
            process.stop(self._signals)


def supervise_api(settings: Settings, signals: StopSignals, *, supervised: bool) -> None:
    """Run the API processes of these settings.

    Args:
        signals: Entered.
        supervised: Whether our process group is ours alone, and killed as one.

    Raises:
        CommandError: As `ApiSupervisor.run`, or the port is taken.
    """

    def program(number: int, listener: int, pipe: int) -> Program:
        return Program(
            f"api-{number + 1}",
            opsin("serve", "--shared", f"{listener},{pipe}"),
            environment(settings),
            None,
            own_session=not supervised,
            files=(listener, pipe),
        )

    with _listen(settings) as listener:
        ApiSupervisor(
            listener,
            program,
            settings.api_processes,
            signals,
            functools.partial(warn, notes()),
            shutdown_seconds=settings.shutdown_seconds,
        ).run()


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise CommandError(
            f"Cannot listen on {settings.host}:{settings.port} ({error.strerror})."
        ) from None


@contextlib.contextmanager
def _handling(number: signal.Signals, act: Callable[[], None]) -> Iterator[None]:
    """While this is entered, that signal calls `act`."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        act()

    before = signal.signal(number, handle)
    try:
        yield
    finally:
        signal.signal(number, before)
