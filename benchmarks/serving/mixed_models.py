"""Mixed traffic for many models that share a base, beside traffic for one of them.

    opsin weights pull
    python -m benchmarks.serving.mixed_models    # --models 100 --network squeezenet --store FOLDER

Two installations are started, one with a single trained model, one with all of them. In each round
the first is asked for its model, the second for one model and then for all in turn, by the same
clients; meanwhile the other one is frozen. Besides the throughput, the commands that Redis answered
and the Celery tasks that were sent are counted. The models come from
`benchmarks.serving.shared_base`.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx
import redis
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.load.images import write_images
from benchmarks.load.plan import Plan, Result
from benchmarks.load.process import measure
from benchmarks.servers import Launch, Server, adopt_orphans, reap
from contracts.settings import Settings
from models.store.store import Store

READY_SECONDS = 600.0
PORTS = (18211, 18212)


@dataclass(frozen=True, slots=True)
class Scenario:
    """Who is asked for what."""

    title: str
    server: Server
    port: int
    home: Path
    models: Sequence[str]


@dataclass(slots=True)
class Rounds:
    """What was measured of a scenario."""

    results: list[Result] = field(default_factory=list)
    costs: list[dict[str, float]] = field(default_factory=list)


def main() -> int:
    """Print the tables."""
    options = _options()
    adopt_orphans()
    console = Console(width=120)
    try:
        with tempfile.TemporaryDirectory(prefix="mixed") as temporary:
            _run(options, Path(temporary), console)
    finally:
        reap()
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--network", default="squeezenet")
    parser.add_argument("--store", type=Path, help="kept for another run")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    return parser.parse_args()


def _run(options: argparse.Namespace, folder: Path, console: Console) -> None:
    source = options.store or folder / "store"
    made = ["--versions", str(options.models), "--network", options.network, "--store", str(source)]
    module = [sys.executable, "-m", "benchmarks.serving.shared_base", "--publish-only", *made]
    subprocess.run(module, check=True)
    names = Store(source).models()[: options.models]
    write_images(Settings().home / "samples", folder / "images")
    scenarios = _start(options.network, source, names, folder)
    try:
        rounds = {scenario.title: Rounds() for scenario in scenarios}
        for _ in range(options.rounds):
            for scenario in scenarios:
                _measure(scenario, scenarios, rounds[scenario.title], options, folder)
        _report(scenarios, rounds, options, console)
    finally:
        for scenario in scenarios[:2]:
            scenario.server.stop()


def _start(network: str, source: Path, names: Sequence[str], folder: Path) -> list[Scenario]:
    """Start the installations, one after the other."""
    started = []
    for port, own in zip(PORTS, (names[:1], names), strict=True):
        home = folder / f"home{len(own)}"
        for name in own:
            target = home / "store" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source / name, target, copy_function=_link)
        server = _server(network, home, port, len(own))
        image = next((folder / "images").glob("*.jpg")).read_bytes()
        server.await_ready(image, seconds=READY_SECONDS)
        _await_all(port, own)
        server.freeze()
        started.append((server, port, home))
    (one, one_port, one_home), (all_, all_port, all_home) = started
    count = len(names)
    return [
        Scenario("1 model", one, one_port, one_home, names[:1]),
        Scenario(f"1 of {count}", all_, all_port, all_home, names[:1]),
        Scenario(f"{count} models", all_, all_port, all_home, names),
    ]


def _link(source: str, target: str) -> None:
    """Copy a file, without its content if both are on one file system: versions never change."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _server(network: str, home: Path, port: int, models: int) -> Server:
    given = {name: value for name, value in os.environ.items() if name.startswith("OPSIN_")}
    settings = Settings()
    ours = {
        "OPSIN_HOME": str(home),
        "OPSIN_PORT": str(port),
        "OPSIN_HOST": "127.0.0.1",
        "OPSIN_MODELS": network,
        "OPSIN_TRAINED_MODELS": str(models + 1),
        "OPSIN_WEIGHTS_DIR": str(settings.weights_dir or settings.home / "weights"),
        "OPSIN_OFFLINE": "1",
        "OPSIN_PRELOAD_EXPLANATIONS": "off",
    }
    path = f"/v1/classify?model={network}"
    launch = Launch([sys.executable, "-m", "cli", "up"], given | ours, port, path)
    return Server(launch, folder=Path.cwd(), log=home.with_suffix(".log"))


def _await_all(port: int, names: Sequence[str]) -> None:
    until = time.monotonic() + READY_SECONDS
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
        for name in names:
            while client.get(f"/v1/models/{name}").json().get("state") != "ready":
                if time.monotonic() > until:
                    raise TimeoutError(f"{name} was not loaded")
                time.sleep(0.2)


def _measure(
    scenario: Scenario,
    scenarios: Sequence[Scenario],
    rounds: Rounds,
    options: argparse.Namespace,
    folder: Path,
) -> None:
    for other in scenarios:
        other.server.freeze()
    scenario.server.thaw()
    time.sleep(0.5)
    paths = tuple(f"/v1/classify?model={name}" for name in scenario.models)
    plan = Plan(
        scenario.port,
        paths[0],
        str(folder / "images"),
        clients=options.clients,
        seconds=options.seconds,
        warmup=0.0,
        paths=paths,
    )
    measure(Plan(**plan.as_json() | {"seconds": 1.0}))
    before = _counts(scenario)
    result = measure(plan)
    after = _counts(scenario)
    images = max(result.answered, 1)
    rounds.results.append(result)
    rounds.costs.append({name: (after[name] - before[name]) / images for name in after})


def _counts(scenario: Scenario) -> dict[str, float]:
    """What was used so far: milliseconds of each process, and what Redis did."""
    counts = {name: 1000 * used for name, used in scenario.server.cpu_by_process().items()}
    socket = next(scenario.home.rglob("valkey.sock"))
    with redis.Redis(unix_socket_path=str(socket)) as client:
        commands = cast("dict[str, dict[str, Any]]", client.info("commandstats"))
    counts["commands"] = sum(float(one["calls"]) for one in commands.values())
    # Celery adds a task to the left of its queue, and nothing else is added there.
    counts["tasks"] = float(commands.get("cmdstat_lpush", {"calls": 0})["calls"])
    return counts


def _report(
    scenarios: Sequence[Scenario],
    rounds: dict[str, Rounds],
    options: argparse.Namespace,
    console: Console,
) -> None:
    columns = ("images/s", "of 1 model", "p50 ms", "p99 ms", "batch", "API", "worker", "Valkey")
    table = Table("", *columns, "commands", "tasks", title=f"{options.clients} clients")
    first = rounds[scenarios[0].title].results
    for scenario in scenarios:
        own = rounds[scenario.title]
        ratios = [
            one.throughput / other.throughput for one, other in zip(own.results, first, strict=True)
        ]
        cost = {
            name: statistics.median(costs.get(name, 0.0) for costs in own.costs)
            for name in ("API", "worker", "Valkey", "commands", "tasks")
        }
        table.add_row(
            scenario.title,
            f"{statistics.median(one.throughput for one in own.results):.1f}",
            f"{statistics.median(ratios):.3f} ({min(ratios):.2f} to {max(ratios):.2f})",
            f"{statistics.median(one.latency['p50'] for one in own.results):.1f}",
            f"{statistics.median(one.latency['p99'] for one in own.results):.1f}",
            f"{statistics.median(one.batch_size or 0 for one in own.results):.1f}",
            *(f"{cost[name]:.2f}" for name in ("API", "worker", "Valkey", "commands")),
            f"{cost['tasks']:.3f}",
        )
        failed = sum(sum(one.errors.values()) for one in own.results)
        if failed:
            console.print(f"{scenario.title}: {failed} requests failed")
    console.print(table)
    console.print("API, worker, Valkey: core-milliseconds an image; commands and tasks: per image")
    console.print(machine.describe())


if __name__ == "__main__":
    sys.exit(main())
