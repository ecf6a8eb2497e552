"""Reserves memory until its standard input ends: ``python holder.py FOLDER LIMIT SIZE [child]``."""

import subprocess
import sys
from pathlib import Path

from models.memory.ledger import MemoryLedger


def main(folder: str, limit: str, size: str, *options: str) -> None:
    ledger = MemoryLedger(Path(folder), int(limit))
    said: list[str] = []

    def waiting() -> None:
        if not said:
            said.append("waiting")
            _say("waiting")

    with ledger.reserve(int(size), waiting):
        if "child" in options:
            child = subprocess.Popen([sys.executable, "-c", "input()"], close_fds=False)
            _say(child.pid)
        _say("reserved")
        sys.stdin.read()


def _say(text: object) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
