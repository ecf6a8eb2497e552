"""Publishes tiny versions until it is done or killed: `python publisher.py ROOT COUNT`.

Run as a process of its own by the store's tests; prints the numbers it was given.
"""

import sys
from pathlib import Path

from models.store.store import Store

sys.path.insert(0, str(Path(__file__).parent))
from drafts import DRAFT, write_files


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main(root: Path, count: int) -> None:
    store = Store(root)
    say("ready")
    for _ in range(count):
        with store.staging() as folder:
            write_files(folder)
            version = store.publish("pets", folder, DRAFT)
        store.promote("pets", version)
        say(str(version))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
