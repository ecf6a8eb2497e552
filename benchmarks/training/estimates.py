"""Trainings against what they say: the time that is left, and the figures of their report.

    opsin up &
    python -m benchmarks.training.estimates DATA --url http://127.0.0.1:8000

DATA holds folders such as `flowers/test/rose/1.jpg`. Six trainings run one after the other. While
each runs, its `eta_seconds` are noted; when it has succeeded, all images of its test split are sent
to the service, the first one at once. The table shows how many of them the service classifies
correctly and how many the report says, and how far the estimates were off between the first tenth
of the time and the last second.
"""

import argparse
import io
import json
import time
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

FINISHED = {"succeeded", "failed", "cancelled"}
_POLL_SECONDS = 0.25
_LAST_SECONDS = 2.0  # an estimate of half a second may be off by a second

TRAININGS: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("flowers", 30, {"network": "squeezenet"}),
    ("caltech-objects", 20, {"network": "squeezenet", "strategy": "fine_tuning"}),
    ("cats-dogs", 40, {"network": "efficientnet_lite0"}),
    ("fruits", 12, {"network": "squeezenet", "epochs": {"head": 30}}),
    ("fashion-mnist", 45, {"preset": "fashion_mnist"}),
    ("cifar10", 60, {"preset": "cifar10", "epochs": {"scratch": 6}}),
)
"""Dataset, images of each class and split, and the request."""


@dataclass
class Outcome:
    """What was seen of one training."""

    name: str
    seconds: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)
    estimates: list[tuple[float, float, str]] = field(default_factory=list)
    """Seconds since the start, estimated seconds left, phase."""
    result: dict[str, Any] = field(default_factory=dict)
    correct: int = 0
    asked: int = 0
    first_status: int = 0

    def factors(self) -> list[tuple[float, str]]:
        """How far each estimate was off, 1 or more, with its phase."""
        factors = []
        for at, left, phase in self.estimates:
            really = self.seconds - at
            if at >= 0.1 * self.seconds and really > _LAST_SECONDS:
                factors.append((max(left / really, really / max(left, 0.1)), phase))
        return factors or [(1.0, "")]


def main() -> None:
    """Run the trainings and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--only", help="names of datasets, separated by commas")
    parser.add_argument("--rows", type=Path, help="keep all estimates here, as lines of JSON")
    parser.add_argument("--rounds", type=int, default=1, help="a second one knows the costs")
    arguments = parser.parse_args()
    only = arguments.only.split(",") if arguments.only else None
    with httpx.Client(base_url=arguments.url, timeout=120) as client:
        for number in range(1, arguments.rounds + 1):
            for name, limit, body in TRAININGS:
                if only is None or name in only:
                    outcome = _train(client, arguments.data / name, limit, body, number)
                    print(_line(outcome), flush=True)
                    if arguments.rows:
                        with arguments.rows.open("a") as file:
                            file.write(json.dumps(asdict(outcome)) + "\n")


def _train(
    client: httpx.Client, folder: Path, limit: int, body: dict[str, Any], number: int
) -> Outcome:
    outcome, images = Outcome(folder.name), _images(folder, limit)
    files = {"archive": (f"{folder.name}.zip", _zipped(folder, images))}
    dataset = client.post("/v1/datasets", files=files).raise_for_status().json()
    model = f"bench-{folder.name}"
    request = {"dataset_id": dataset["id"], "model": model, "promote": "always", "seed": number}
    began = time.monotonic()
    job = client.post("/v1/trainings", json=request | body).raise_for_status().json()
    while job["state"] not in FINISHED:
        time.sleep(_POLL_SECONDS)
        job = client.get(f"/v1/jobs/{job['id']}").raise_for_status().json()
        _note(outcome, job["progress"], time.monotonic() - began)
    outcome.seconds = time.monotonic() - began
    if job["state"] != "succeeded":
        raise SystemExit(f"{folder.name}: {json.dumps(job['error'])}")
    outcome.result = job["result"]
    _ask(client, model, [path for path in images if path.parts[-3] == "test"], outcome)
    return outcome


def _note(outcome: Outcome, progress: dict[str, Any], at: float) -> None:
    phase = progress.get("phase") or "none"
    outcome.phases.setdefault(phase, at)
    if progress.get("eta_seconds") is not None:
        outcome.estimates.append((at, progress["eta_seconds"], phase))


def _ask(client: httpx.Client, model: str, images: list[Path], outcome: Outcome) -> None:
    for path in images:
        kind = "image/png" if path.suffix == ".png" else "image/jpeg"
        answer = client.post(
            f"/v1/classify?model={model}&top_k=1",
            content=path.read_bytes(),
            headers={"Content-Type": kind},
        )
        outcome.first_status = outcome.first_status or answer.status_code
        best = answer.raise_for_status().json()["results"][0]["predictions"][0]["label"]
        outcome.correct += best == path.parent.name
        outcome.asked += 1


def _images(folder: Path, limit: int) -> list[Path]:
    return [
        path
        for split in sorted(folder.iterdir())
        if split.is_dir()
        for label in sorted(split.iterdir())
        for path in sorted(label.iterdir())[:limit]
    ]


def _zipped(folder: Path, images: list[Path]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in images:
            archive.write(path, path.relative_to(folder).as_posix())
    return buffer.getvalue()


def _line(outcome: Outcome) -> str:
    served, metrics = outcome.result["served"], outcome.result["metrics"]["test"]
    reported = round(metrics["accuracy"] * metrics["pictures"])
    worst, phase = max(outcome.factors())
    within = [factor for factor, _ in outcome.factors()]
    serving = outcome.result["serving"]
    by_phase: dict[str, float] = {}
    for factor, name in outcome.factors():
        by_phase[name] = max(by_phase.get(name, 1.0), factor)
    return "\n".join(
        (
            f"{outcome.name}: {outcome.seconds:.1f} s; reported {reported} of "
            f"{metrics['pictures']}, served {outcome.correct} of {outcome.asked}; first answer "
            f"{outcome.first_status} on {serving['ready']} of {serving['workers']} workers",
            f"  {served['runtime']}, largest difference {served['largest_difference']:.2g}, "
            f"{served['changed']} changed, rejected {served['rejected'] or 'none'}",
            f"  estimates off by at most {worst:.2f} (in {phase}), "
            f"{sum(factor <= 2 for factor in within)} of {len(within)} within a factor of two",
            "  worst of each: " + ", ".join(f"{name} {one:.1f}" for name, one in by_phase.items()),
            "  phases: " + ", ".join(f"{name} {at:.1f}" for name, at in outcome.phases.items()),
        )
    )


if __name__ == "__main__":
    main()
