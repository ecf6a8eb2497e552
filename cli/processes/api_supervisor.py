"""Keeps several API processes behind one port, and replaces them one by one without a gap.

The socket is opened here, listens for as long as this process lives, and is handed to each child.
All accept from the same queue of connections, so nobody who knocks while one of them goes or comes
is turned away. (Sockets of their own by `SO_REUSEPORT` would each have a queue of their own, and
who waits in that of a process that ends is cut off.)
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


def _nothing() -> None:
    """What is done while waiting, where there is nobody to look after yet."""


@dataclass(slots=True)
class _Place:
    """One of the processes: who keeps it running, and the pipe by which it tells it is there."""

    supervisor: Supervisor
    told: int
    tell: int

    def stop(self, hurry: Callable[[], bool]) -> None:
        """End it and what it was given."""
        self.supervisor.stop(hurry)
        os.close(self.told)
        os.close(self.tell)

    def is_ready(self) -> bool:
        """Whether it has told so since this was last asked."""
        ready, _, _ = select.select([self.told], [], [], 0)
        return bool(ready) and bool(os.read(self.told, 1))


class ApiKeeper:
    """The processes behind one socket.

    Args:
        listener: The socket; it listens already.
        program: Makes the program of one, from the socket's number and that of its pipe.
        count: How many.
        signals: Entered; say when to stop.
        say: Told in a line what happens.
        shutdown_seconds: How long each may take to finish.
    """

    def __init__(
        self,
        listener: socket.socket,
        program: Callable[[int, int, int], Program],
        count: int,
        signals: StopSignals,
        say: Callable[[str], None],
        *,
        shutdown_seconds: float,
    ) -> None:
        self._listener = listener
        self._program = program
        self._count = count
        self._signals = signals
        self._say = say
        self._supervisor = functools.partial(Supervisor, say, shutdown_seconds=shutdown_seconds)
        self._places: list[_Place] = []
        self._is_to_roll = False

    def run(self) -> None:
        """Keep them until told to stop.

        Raises:
            CommandError: One does not start, or crashes again and again.
        """
        with _on(signal.SIGUSR2, self._ask_to_roll):
            try:
                self._start()
                while not self._signals.wait(_TICK_SECONDS):
                    self._tend()
                    if self._is_to_roll:
                        self._is_to_roll = False
                        self._roll()
            finally:
                self._stop()

    def _ask_to_roll(self) -> None:
        self._is_to_roll = True

    def _start(self) -> None:
        """Begin all, and wait for the first; the others are then kept as if they ran already.

        A start that fails is for whoever started us to see. But once one takes requests, another
        that is killed while it loads is no reason to take that one away.
        """
        for number in range(self._count):
            self._places.append(self._begun(number))
        self._await(self._places)

    def _tend(self) -> None:
        for place in self._places:
            place.supervisor.tend()

    def _begun(self, number: int) -> _Place:
        told, tell = os.pipe()
        place = _Place(self._supervisor(), told, tell)
        place.supervisor.start(self._program(number, self._listener.fileno(), tell))
        return place

    def _await(self, places: Sequence[_Place], meanwhile: Callable[[], None] = _nothing) -> bool:
        """Whether one of these processes takes requests; False if we are to stop before.

        Args:
            places: Theirs.
            meanwhile: Done again and again.

        Raises:
            CommandError: One of them ends instead, or they take too long.
        """
        until = time.monotonic() + READY_SECONDS
        while not any(place.is_ready() for place in places):
            for place in places:
                place.supervisor.require_all()
            if time.monotonic() > until:
                raise CommandError(f"No API process was ready within {READY_SECONDS:g} s.")
            meanwhile()
            if self._signals.wait(_TICK_SECONDS):
                return False
        return True

    def _roll(self) -> None:
        """A successor for each, which takes requests before the old one is told to finish."""
        for number, old in enumerate(self._places):
            successor = self._begun(number)
            try:
                came = self._await([successor], self._tend)
            except CommandError as failure:
                successor.stop(hurry=lambda: True)
                self._say(f"The old API processes stay. {failure.message}")
                return
            if not came:
                successor.stop(hurry=lambda: True)
                return
            self._places[number] = successor
            old.stop(self._signals.hurried)
        self._say(f"All {self._count} API processes were replaced.")

    def _stop(self) -> None:
        """All at once told, then each waited for: together they take no longer than one."""
        for place in self._places:
            place.supervisor.tell()
        for place in self._places:
            place.stop(self._signals.hurried)


def keep_api(settings: Settings, signals: StopSignals, *, supervised: bool) -> None:
    """Keep the API processes of these settings.

    Args:
        settings: Theirs.
        signals: Entered.
        supervised: Whether our process group is ours alone, and killed as one.

    Raises:
        CommandError: As `ApiKeeper.run`, or the port is taken.
    """

    def program(number: int, listener: int, tell: int) -> Program:
        return Program(
            f"api-{number + 1}",
            opsin("serve", "--shared", f"{listener},{tell}"),
            environment(settings),
            None,
            own_session=not supervised,
            files=(listener, tell),
        )

    with _listening(settings) as listener:
        ApiKeeper(
            listener,
            program,
            settings.api_processes,
            signals,
            functools.partial(warn, notes()),
            shutdown_seconds=settings.shutdown_seconds,
        ).run()


def _listening(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise CommandError(
            f"Cannot listen on {settings.host}:{settings.port} ({error.strerror})."
        ) from None


@contextlib.contextmanager
def _on(number: signal.Signals, act: Callable[[], None]) -> Iterator[None]:
    """While this is entered, that signal does `act`."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        act()

    before = signal.signal(number, handle)
    try:
        yield
    finally:
        signal.signal(number, before)
