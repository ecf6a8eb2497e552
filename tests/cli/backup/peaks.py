"""What backup and restore take at most, in a process of its own, for 100 files and for 1,600.

In pytest's process a single new name may double Python's table of all names (`sys.intern`, which
`pathlib` feeds): with TensorFlow loaded that is 8 MB at once, and says nothing about backups.
"""

import gc
import sys
import tracemalloc
from pathlib import Path

from cli.commands.backup import restore_backup, write_backup
from contracts.settings import Settings
from tests.cli.backup.furnished import furnish
from tests.ports import free_port


def peaks(root: Path) -> list[int]:
    """In bytes; the first, of one file, holds what is imported."""
    home = furnish(root / "home", port=free_port())
    return [_peak(home.settings, count, root / f"{count}.tar") for count in (1, 100, 1600)]


def _peak(settings: Settings, count: int, out: Path) -> int:
    for number in range(count):
        path = settings.home / "trainings" / f"{number // 50}" / f"{number:05d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    gc.collect()
    tracemalloc.start()
    write_backup(settings, out, secrets=False)
    restore_backup(settings, out, force=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


if __name__ == "__main__":
    sys.stdout.write(" ".join(map(str, peaks(Path(sys.argv[1])))))
