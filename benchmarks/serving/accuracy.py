"""Accuracy over HTTP, compared with the same version run directly, image by image.

    python -m benchmarks.serving.accuracy FOLDER --server http://127.0.0.1:8000

FOLDER holds images and a `labels.csv` with the columns file and class_index. For each ready model
it prints top-1 and top-5 accuracy both ways, and the largest difference of their probabilities.
The version is read from the store in OPSIN_HOME and run by TensorFlow in float32.
What the service adds (decoding in another process, batching, padding, HTTP) must change nothing.
"""

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.labels import labeled
from contracts.settings import Settings
from models.images.decode import decode
from models.serving.predictor import VersionPredictor, load_version
from models.store.store import Store

TOP = 5
TOLERANCE = 1e-3
CLIENTS = 8


@dataclass(slots=True)
class Tally:
    """The correct predictions of one model, both ways."""

    images: int = 0
    served_top1: int = 0
    served_top5: int = 0
    direct_top1: int = 0
    direct_top5: int = 0
    worst: float = 0.0
    differing: list[str] = field(default_factory=list)

    def add(self, name: str, label: int, served: dict[int, float], direct: np.ndarray) -> None:
        """Count one image.

        Args:
            name: File name.
            label: The true class.
            served: Probabilities by class from the service, most probable first.
            direct: Probabilities from the version run here, shape (classes,).
        """
        ranking = np.argsort(-direct, kind="stable")[:TOP].tolist()
        ranked = list(served)
        self.images += 1
        self.served_top1 += ranked[0] == label
        self.served_top5 += label in ranked
        self.direct_top1 += ranking[0] == label
        self.direct_top5 += label in ranking
        gap = max(abs(served[index] - float(direct[index])) for index in ranked)
        self.worst = max(self.worst, gap)
        if ranked[0] != ranking[0] or (label in ranked) != (label in ranking):
            self.differing.append(name)

    @property
    def passed(self) -> bool:
        return not self.differing and self.worst <= TOLERANCE


def tally(client: httpx.Client, predictor: VersionPredictor, folder: Path) -> Tally:
    """Classify every image both ways."""
    model, images, result = predictor.manifest.model, list(labeled(folder)), Tally()

    def served(path: Path) -> dict[int, float]:
        answer = client.post(
            "/v1/classify",
            params={"model": model, "top_k": TOP},
            content=path.read_bytes(),
            headers={"Content-Type": "image/jpeg"},
        )
        answer.raise_for_status()
        predictions = answer.json()["results"][0]["predictions"]
        return {item["index"]: item["probability"] for item in predictions}

    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = list(clients.map(served, (path for path, _ in images)))
    for (path, label), answer in track(
        list(zip(images, answers, strict=True)), model, console=Console(stderr=True)
    ):
        result.add(path.name, label, answer, _direct(predictor, path))
    return result


def _direct(predictor: VersionPredictor, path: Path) -> np.ndarray:
    limit = Settings().max_image_pixels
    image = decode(path.read_bytes(), network=predictor.manifest, max_pixels=limit)
    return np.asarray(predictor.run("classify", image.pixels[np.newaxis])[0])


def main() -> int:
    """Print the table; the exit code is 1 if any image differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--server", default="http://127.0.0.1:8000")
    arguments = parser.parse_args()
    store = Store(Settings().store_home)
    table = Table("model", "images", "top-1 served", "direct", "top-5 served", "direct")
    table.add_column("largest difference")
    table.add_column("verdict")
    passed = True
    with httpx.Client(base_url=arguments.server, timeout=60) as client:
        models = client.get("/v1/models").raise_for_status().json()["items"]
        for name in (m["name"] for m in models if m["state"] == "ready"):
            predictor = load_version(store, name, max_batch_size=1)
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
    shares = [f"{count / result.images:.1%}" for count in counts]
    verdict = "equal" if result.passed else f"differs on {', '.join(result.differing) or 'values'}"
    return [str(result.images), *shares, f"{result.worst:.1e}", verdict]


if __name__ == "__main__":
    sys.exit(main())
