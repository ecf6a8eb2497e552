"""Accuracy over HTTP, beside the same network run directly, picture by picture.

    python -m benchmarks.accuracy FOLDER --server http://127.0.0.1:8000

FOLDER holds pictures and a `labels.csv` with the columns file and class_index. For each ready
model it prints top-1 and top-5 by both ways, and how far their probabilities ever part. Whatever
the service adds (decoding in another process, batching, padding, the wire) must change nothing.
"""

import argparse
import csv
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from contracts.settings import Settings
from models.catalog import CATALOG, Network
from models.images.decode import decode
from models.predictor import Predictor, load_predictor
from models.weights.catalog import Weights

TOP = 5
TOLERANCE = 1e-3
CLIENTS = 8


@dataclass(slots=True)
class Tally:
    """What one model got right, by both ways."""

    pictures: int = 0
    served_top1: int = 0
    served_top5: int = 0
    direct_top1: int = 0
    direct_top5: int = 0
    worst: float = 0.0
    differing: list[str] = field(default_factory=list)

    def add(self, name: str, wanted: int, served: dict[int, float], direct: np.ndarray) -> None:
        """Count one picture.

        Args:
            name: Its file name.
            wanted: Its class.
            served: Class to probability as the service answered, most probable first.
            direct: All probabilities of the network run here, shape (classes,).
        """
        ranking = np.argsort(-direct, kind="stable")[:TOP].tolist()
        ranked = list(served)
        self.pictures += 1
        self.served_top1 += ranked[0] == wanted
        self.served_top5 += wanted in ranked
        self.direct_top1 += ranking[0] == wanted
        self.direct_top5 += wanted in ranking
        gap = max(abs(served[index] - float(direct[index])) for index in ranked)
        self.worst = max(self.worst, gap)
        if ranked[0] != ranking[0] or (wanted in ranked) != (wanted in ranking):
            self.differing.append(name)

    @property
    def passed(self) -> bool:
        return not self.differing and self.worst <= TOLERANCE


def labelled(folder: Path) -> Iterator[tuple[Path, int]]:
    """Each picture of the folder with its class."""
    with (folder / "labels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            yield folder / row["file"], int(row["class_index"])


def tally(client: httpx.Client, predictor: Predictor, folder: Path) -> Tally:
    """Ask both ways about every picture."""
    network, pictures, result = predictor.network, list(labelled(folder)), Tally()

    def served(path: Path) -> dict[int, float]:
        answer = client.post(
            "/v1/classify",
            params={"model": network.name, "top_k": TOP},
            content=path.read_bytes(),
            headers={"Content-Type": "image/jpeg"},
        )
        answer.raise_for_status()
        predictions = answer.json()["results"][0]["predictions"]
        return {one["index"]: one["probability"] for one in predictions}

    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = list(clients.map(served, (path for path, _ in pictures)))
    for (path, wanted), answer in track(
        list(zip(pictures, answers, strict=True)), network.name, console=Console(stderr=True)
    ):
        result.add(path.name, wanted, answer, _direct(predictor, network, path))
    return result


def _direct(predictor: Predictor, network: Network, path: Path) -> np.ndarray:
    picture = decode(path.read_bytes(), network=network, max_pixels=Settings().max_image_pixels)
    return predictor.run("classify", picture.pixels[np.newaxis])[0]


def main() -> int:
    """Print the table; the exit code is 1 if any picture differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--server", default="http://127.0.0.1:8000")
    arguments = parser.parse_args()
    settings = Settings()
    weights = Weights(settings.weights_home, settings.weights_dir, offline=True)
    table = Table("model", "pictures", "top-1 served", "direct", "top-5 served", "direct")
    table.add_column("largest difference")
    table.add_column("verdict")
    passed = True
    with httpx.Client(base_url=arguments.server, timeout=60) as client:
        models = client.get("/v1/models").raise_for_status().json()["items"]
        for name in (m["name"] for m in models if m["state"] == "ready"):
            predictor = load_predictor(CATALOG[name], weights, threads=2, max_batch_size=1)
            result = tally(client, predictor, arguments.folder)
            passed = passed and result.passed
            table.add_row(name, *_row(result))
    Console(width=120).print(table)
    return 0 if passed else 1


def _row(result: Tally) -> list[str]:
    counts = (
        *(result.served_top1, result.direct_top1),
        *(result.served_top5, result.direct_top5),
    )
    shares = [f"{count / result.pictures:.1%}" for count in counts]
    verdict = "equal" if result.passed else f"differs on {', '.join(result.differing) or 'values'}"
    return [str(result.pictures), *shares, f"{result.worst:.1e}", verdict]


if __name__ == "__main__":
    sys.exit(main())
