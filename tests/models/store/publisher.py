"""Publishes tiny versions until it is done or killed: `python publisher.py ROOT COUNT`.

The tests of the store run it as a child process. It prints the numbers of the versions.
"""

import sys
from pathlib import Path

from models.store.store import Store
from tests.models.drafts import DRAFT, write_files


def print_line(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main(root: Path, count: int) -> None:
    store = Store(root)
    print_line("ready")
    for _ in range(count):
        with store.staging() as folder:
            write_files(folder)
            version = store.publish("pets", folder, DRAFT)
        store.promote("pets", version)
        print_line(str(version))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
