"""Runs the load generator in its own process and waits for its result."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.load.plan import Plan, Result

_ROOT = Path(__file__).resolve().parents[2]
_GRACE_SECONDS = 15.0


class LoadFailedError(RuntimeError):
    """The generator gave no result. The message is its last line of output."""


def measure(plan: Plan) -> Result:
    """Run one plan.

    Raises:
        LoadFailedError: The generator crashed or did not end in time.
    """
    limit = plan.warmup + plan.seconds + 2 * plan.timeout + _GRACE_SECONDS
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "benchmarks.load"],
            input=json.dumps(plan.as_json()).encode(),
            capture_output=True,
            cwd=_ROOT,
            timeout=limit,
            check=True,
        )
    except subprocess.TimeoutExpired as late:
        raise LoadFailedError(f"no result within {limit:.0f} s") from late
    except subprocess.CalledProcessError as failed:
        lines = failed.stderr.decode(errors="replace").strip().splitlines()
        raise LoadFailedError(lines[-1] if lines else "crashed") from failed
    return Result.of(json.loads(ended.stdout))
