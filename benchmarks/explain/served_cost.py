"""The cost of a served Grad-CAM compared with a served classification of the same images.

    OPSIN_HEATMAP_CACHE_MB=0 opsin up &
    python -m benchmarks.explain.served_cost IMAGES --model squeezenet

Closed loop: each client sends its next request as soon as it has a response. The kinds of request
take turns, so that other load affects all of them. The cache must be off; otherwise nothing is
computed. The clients run on the same machine, which affects all kinds alike.
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
    """Print images per second, median latency and cost relative to classification."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, help="a folder of JPEG files")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--model", default="squeezenet")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    table = Table(
        "clients", "request", "images/s", "p50 ms", f"cost (goal {GOAL})", title=arguments.model
    )
    for clients in arguments.clients:
        results: dict[str, list[Result]] = {kind: [] for kind in KINDS}
        for _ in range(arguments.rounds):
            for kind, (path, accept) in KINDS.items():
                separator = "&" if "?" in path else "?"
                plan = Plan(
                    port=arguments.port,
                    path=f"{path}{separator}model={arguments.model}",
                    images=str(arguments.images),
                    clients=clients,
                    seconds=arguments.seconds,
                    accept=accept,
                )
                result = measure(plan)
                if not result.answered:
                    parser.error(f"{kind}: no successful response, errors: {result.errors}")
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
