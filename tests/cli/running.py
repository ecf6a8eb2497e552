"""Real processes under test: started, waited for with a deadline, and never left behind."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]


def until(check: Callable[[], object], seconds: float = 60) -> None:
    """Waits for a condition, and fails the test where it does not come."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


class Run:
    """One command line that runs in the background, its output in a file."""

    def __init__(self, output: Path, environment: dict[str, str], *command: str) -> None:
        self.output = output
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                (sys.executable, *command),
                cwd=ROOT,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )

    @property
    def text(self) -> str:
        return self.output.read_text()

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def wait_for(self, text: str, seconds: float = 90) -> None:
        until(lambda: text in self.text or self.process.poll() is not None, seconds)
        assert text in self.text, self.text

    def wait(self, seconds: float = 120) -> int:
        return self.process.wait(seconds)


Starter = Callable[..., Run]
