"""The process of the load generator: reads a plan from stdin, writes the result to stdout."""

import gc
import json
import sys
from pathlib import Path

import uvloop

from benchmarks.load.generator import Generator
from benchmarks.load.plan import Plan
from benchmarks.load.summary import summarize


def main() -> None:
    """Run one plan."""
    plan = Plan(**json.load(sys.stdin))
    images = [file.read_bytes() for file in sorted(Path(plan.images).glob("*.jpg"))]
    gc.freeze()
    gc.disable()  # a pause of the generator would look like a pause of the server
    record = uvloop.run(Generator(plan, images).run())
    json.dump(summarize(record, closed=plan.rate is None).as_json(), sys.stdout)


if __name__ == "__main__":
    main()
