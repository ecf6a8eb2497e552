"""What a served Grad-CAM costs beside a served classification, of the same pictures in one run.

    OPSIN_HEATMAP_CACHE_MB=0 opsin up &
    python -m benchmarks.heatmap PICTURES --model squeezenet

Closed loop: so many clients, each asking again as soon as it was answered. The kinds take turns,
so that whatever else the machine does meets all of them. The cache must be off, or nothing is
computed. The clients share the machine with the server and are counted with it, in every kind.
"""

import argparse
import statistics
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.load.plan import Plan, Result
from benchmarks.load.process import measure

GOAL = 1.3
KINDS: dict[str, tuple[str, str]] = {
    "classify": ("/v1/classify", "application/json"),
    "Grad-CAM as JSON": ("/v1/heatmap?method=grad_cam", "application/json"),
    "Grad-CAM as PNG": ("/v1/heatmap?method=grad_cam", "image/png"),
}


def main() -> None:
    """Print pictures a second, median latency and cost beside classification."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", type=Path, help="a folder of JPEG files")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--model", default="squeezenet")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    table = Table(
        "clients", "of each", "a second", "p50 ms", f"cost (goal {GOAL})", title=asked.model
    )
    for clients in asked.clients:
        results: dict[str, list[Result]] = {kind: [] for kind in KINDS}
        for _ in range(asked.rounds):
            for kind, (path, accept) in KINDS.items():
                mark = "&" if "?" in path else "?"
                plan = Plan(
                    port=asked.port,
                    path=f"{path}{mark}model={asked.model}",
                    pictures=str(asked.pictures),
                    clients=clients,
                    seconds=asked.seconds,
                    accept=accept,
                )
                result = measure(plan)
                if not result.answered:
                    parser.error(f"{kind}: no answer, but {result.errors}")
                results[kind].append(result)
        for kind, runs in results.items():
            costs = [
                base.throughput / run.throughput
                for base, run in zip(results["classify"], runs, strict=True)
            ]
            table.add_row(
                str(clients),
                kind,
                f"{statistics.median(run.throughput for run in runs):.1f}",
                f"{statistics.median(run.latency['p50'] for run in runs):.1f}",
                f"{statistics.median(costs):.2f}",
            )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
