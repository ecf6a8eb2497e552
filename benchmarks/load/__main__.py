"""The generator's process: a plan in JSON on stdin, the result in JSON on stdout."""

import gc
import json
import sys
from pathlib import Path

import uvloop

from benchmarks.load.generator import Generator
from benchmarks.load.plan import Plan
from benchmarks.load.summary import summarise


def main() -> None:
    """Run one plan."""
    plan = Plan(**json.load(sys.stdin))
    pictures = [file.read_bytes() for file in sorted(Path(plan.pictures).glob("*.jpg"))]
    gc.freeze()
    gc.disable()  # a pause of ours would read as a pause of theirs
    record = uvloop.run(Generator(plan, pictures).run())
    json.dump(summarise(record).as_json(), sys.stdout)


if __name__ == "__main__":
    main()
