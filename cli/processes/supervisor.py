"""Keeps processes running: restarts those that crash, stops all in order, leaves none behind."""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from cli.output import CommandError
from cli.processes.logs import tail
from cli.processes.process import Child, Program
from cli.processes.signals import StopSignals

# A crash this soon after a start is a quick one; after so many of them in a row we give up. Not if
# the program has run for longer before, if it ended in order, or if it was killed, as by the kernel
# for want of memory: then something else is wrong, such as a full disk, and all others would end.
QUICK_SECONDS = 20.0
QUICK_LIMIT = 5
BACKOFF_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)
_POLL_SECONDS = 0.05


@dataclass(slots=True)
class _Slot:
    """One program, its present process, and its crashes.

    Attributes:
        has_run: Whether it has run for long enough to show that it can.
    """

    program: Program
    child: Child
    has_run: bool = False
    quick_crashes: int = 0
    restart_at: float | None = None


class Supervisor:
    """Runs programs in the order they were added; stops them in the opposite one.

    Start from the main thread only: Linux takes the death of the starting *thread* for the
    parent's death.

    Args:
        report: Called with a line for each restart.
        shutdown_seconds: How long each process may take to finish when it is asked to stop.
        backoff: Seconds to wait before the first, second … restart; the last one repeats.
    """

    def __init__(
        self,
        report: Callable[[str], None],
        *,
        shutdown_seconds: float,
        backoff: tuple[float, ...] = BACKOFF_SECONDS,
    ) -> None:
        self._report = report
        self._shutdown_seconds = shutdown_seconds
        self._backoff = backoff
        self._slots: list[_Slot] = []

    def start(self, program: Program) -> Child:
        """Run `program` and keep it running."""
        child = Child(program)
        self._slots.append(_Slot(program, child))
        return child

    def pids(self) -> dict[str, int]:
        """The process of each program."""
        return {slot.program.name: slot.child.pid for slot in self._slots}

    def require_all(self) -> None:
        """Check that none has ended; used while starting, when a restart would not help.

        One that can be repaired is started again.

        Raises:
            CommandError: One has; the message ends with the last lines of its log.
        """
        for slot in self._slots:
            code = slot.child.exit_code()
            if code is not None and self._repair(slot):
                slot.child = Child(slot.program)
            elif code is not None:
                raise CommandError(_exit_message(slot.program, f"could not start ({_cause(code)})"))

    def restart_crashed(self) -> None:
        """Restart each crashed process after its delay. Call it a few times a second.

        Raises:
            CommandError: One crashes again and again, and has never run for long.
        """
        for slot in self._slots:
            if slot.restart_at is None:
                self._check_crash(slot)
            elif time.monotonic() >= slot.restart_at:
                slot.child = Child(slot.program)
                slot.restart_at = None

    def _check_crash(self, slot: _Slot) -> None:
        code = slot.child.exit_code()
        lifetime = time.monotonic() - slot.child.started_at
        slot.has_run |= lifetime >= QUICK_SECONDS
        if code is None:
            return
        slot.child.kill()  # its own children, if any are left
        self._repair(slot)
        slot.quick_crashes = slot.quick_crashes + 1 if lifetime < QUICK_SECONDS else 1
        is_at_fault = not slot.has_run and code not in {0, -signal.SIGKILL}
        if slot.quick_crashes >= QUICK_LIMIT and is_at_fault:
            raise CommandError(
                _exit_message(
                    slot.program, f"crashed {QUICK_LIMIT} times in a row ({_cause(code)})"
                )
            )
        delay = self._backoff[min(slot.quick_crashes, len(self._backoff)) - 1]
        slot.restart_at = time.monotonic() + delay
        self._report(f"{slot.program.name} ended ({_cause(code)}); restarting it in {delay:g} s.")

    def _repair(self, slot: _Slot) -> bool:
        """Repair what keeps a program from starting; whether there was something."""
        message = None
        try:
            message = slot.program.repair() if slot.program.repair else None
        except OSError as error:
            self._report(f"{slot.program.name} could not be repaired: {error}.")
        if message is not None:
            self._report(message)
        return message is not None

    def terminate(self) -> None:
        """Ask all to finish, and wait for none; `stop` waits."""
        for slot in self._slots:
            slot.child.terminate()

    def stop(self, signals: StopSignals | None = None, *, at_once: bool = False) -> None:
        """End all, the last started first: SIGTERM, a deadline, SIGKILL.

        Args:
            signals: A second signal kills the rest at once.
            at_once: Whether to kill without waiting.
        """
        try:
            for slot in reversed(self._slots):
                self._end(slot.child, signals, at_once=at_once)
        finally:
            for slot in self._slots:
                slot.child.kill()

    def _end(self, child: Child, signals: StopSignals | None, *, at_once: bool) -> None:
        child.terminate()
        deadline = time.monotonic() + self._shutdown_seconds
        while time.monotonic() < deadline:
            if at_once or (signals is not None and signals.stop_at_once()):
                break
            if child.wait(_POLL_SECONDS):
                break
        child.kill()


def _cause(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _exit_message(program: Program, what: str) -> str:
    if program.log is None:
        return f"The {program.name} {what}. Its last output is above."
    last = tail(program.log, lines=15)
    return f"The {program.name} {what}. The end of {program.log}:\n{last or '  (nothing logged)'}"
