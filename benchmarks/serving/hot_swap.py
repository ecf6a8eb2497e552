"""Promote, roll back and delete versions under load, and check every response and the memory.

    opsin up                        # in another terminal, with the same OPSIN_HOME
    python -m benchmarks.serving.hot_swap   # --rounds 50 --clients 8 --model squeezenet

While clients classify without pause, each round publishes a version with slightly different
weights, promotes it, rolls back and deletes it. Every response must name the version that computed
it and agree with that version's own output. The memory of the worker after the last round may be at
most a tenth above that after the fifth.
"""

import argparse
import io
import shutil
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import keras
import numpy as np
import psutil
from PIL import Image
from rich.console import Console
from rich.table import Table

from contracts.settings import Settings
from models.export.check_images import check_images
from models.export.saved_model import export_version
from models.export.signatures import Blueprint
from models.images.decode import decode
from models.networks.keras_files import read_whole
from models.serving.predictor import VersionPredictor
from models.store.labels import read_labels
from models.store.snapshot import ServedVersion
from models.store.store import Store

TOLERANCE = 1e-4
MIN_DIFFERENCE = 1e-3  # between the two versions; otherwise agreement would prove nothing
MEMORY_FACTOR = 1.1
BASELINE_ROUND = 5
LONG_ROUND_EVERY = 10
LONG_ROUND_SECONDS = 5.0
RESPONSE_SECONDS = 30.0
MIB = 1024 * 1024


@dataclass(slots=True)
class TestImages:
    """The images that clients send, and the output of each version.

    Attributes:
        files: PNG files.
        expected: By version, the probabilities for each file, (n, classes).
    """

    files: list[bytes]
    expected: dict[int, np.ndarray] = field(default_factory=dict)


@dataclass(slots=True)
class Outcome:
    """The results.

    Attributes:
        answers: Number of responses of each version.
        faults: Descriptions of errors.
        worst: Largest difference between a response and its version's own output.
        slowest: Seconds of the slowest response.
        swaps: Seconds of each promotion and rollback, from request to response.
        memory: Resident memory of the worker after each round, in MiB.
        workers: Process ids of the workers.
    """

    answers: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    worst: float = 0.0
    slowest: float = 0.0
    swaps: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    workers: set[int] = field(default_factory=set)

    @property
    def growth(self) -> float:
        """Memory after the last round, relative to that after the fifth."""
        return self.memory[-1] / self.memory[min(BASELINE_ROUND, len(self.memory)) - 1]

    @property
    def passed(self) -> bool:
        return not self.faults and self.growth <= MEMORY_FACTOR


class HotSwap:
    """One run against one service.

    Args:
        url: URL of the service.
        store: Its store.
        model: A model with a champion.
        headers: Headers of every request.
    """

    def __init__(self, url: str, store: Store, model: str, headers: dict[str, str]) -> None:
        self._url, self._store, self._model, self._headers = url, store, model, headers
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.outcome = Outcome()

    def run(self, samples: Path, *, rounds: int, clients: int, dwell: float) -> Outcome:
        """Swap `rounds` times under the load of `clients`; each version serves `dwell` seconds."""
        first = self._store.resolve(self._model)
        with self._store.staging() as other:
            self._write_other(first, other, samples)
            images = self._test_images(first, other, samples)
            threads = [
                threading.Thread(target=self._classify, args=(images, number))
                for number in range(clients)
            ]
            for thread in threads:
                thread.start()
            try:
                for number in range(1, rounds + 1):
                    long = number % LONG_ROUND_EVERY == 0
                    self._round(first, other, images, LONG_ROUND_SECONDS if long else dwell)
            finally:
                self._stop.set()
                for thread in threads:
                    thread.join()
        return self.outcome

    def _write_other(self, first: int, folder: Path, samples: Path) -> None:
        """Export a version that differs from the first only slightly in its weights."""
        manifest = self._store.manifest(self._model, first)
        origin = self._store.path(self._model, first)
        network = read_whole(origin / "model.keras")
        network.trainable = False
        layer = next(la for la in network.layers if isinstance(la, keras.layers.Conv2D))
        layer.set_weights([layer.get_weights()[0] * 1.1, *layer.get_weights()[1:]])
        labels = read_labels(origin)
        served = ServedVersion(manifest, labels)
        self._draft = export_version(
            network,
            Blueprint(
                manifest.network,
                manifest.short_side,
                manifest.geometry,
                manifest.preprocessing,  # type: ignore[arg-type]  # as published
                _base_output(manifest.network),
                manifest.explain_layer,
            ),
            folder,
            images=check_images(samples, served),
            labels=labels,
        )

    def _test_images(self, first: int, other: Path, samples: Path) -> TestImages:
        served = ServedVersion(self._store.manifest(self._model, first), ())
        images = TestImages([_png(image) for image in check_images(samples, served)])
        inputs = np.stack(
            [decode(file, network=served, max_pixels=10**8).pixels for file in images.files]
        )
        images.expected[first] = VersionPredictor(
            self._store.path(self._model, first), max_batch_size=4
        ).run("classify", inputs)
        with self._store.staging() as copy:
            shutil.copytree(other, copy, dirs_exist_ok=True)
            number = self._store.publish(self._model, copy, self._draft)
        images.expected[0] = VersionPredictor(
            self._store.path(self._model, number), max_batch_size=4
        ).run("classify", inputs)
        self._store.delete(self._model, number)
        difference = np.abs(images.expected[0] - images.expected[first]).max(axis=1)
        if difference.min() < MIN_DIFFERENCE:
            raise SystemExit(f"the two versions differ by only {difference.min():.1e}")
        return images

    def _round(self, first: int, other: Path, images: TestImages, dwell: float) -> None:
        with self._store.staging() as copy:
            shutil.copytree(other, copy, dirs_exist_ok=True)
            number = self._store.publish(self._model, copy, self._draft)
        images.expected[number] = images.expected[0]
        with httpx.Client(base_url=self._url, headers=self._headers, timeout=70) as client:
            self._promote(client, number, dwell)
            self._promote(client, first, dwell)
            deleted = client.delete(f"/v1/models/{self._model}/versions/{number}")
            if deleted.status_code != 204:
                self._fault(f"delete {number}: {deleted.status_code} {deleted.text[:200]}")
            self._measure_memory(client)

    def _promote(self, client: httpx.Client, version: int, dwell: float) -> None:
        began = time.monotonic()
        answer = client.post(
            f"/v1/models/{self._model}/aliases",
            json={"alias": "champion", "version": version},
            headers={"X-Timeout-Ms": "60000"},
        )
        self.outcome.swaps.append(time.monotonic() - began)
        if answer.status_code != 200:
            self._fault(f"promote {version}: {answer.status_code} {answer.text[:200]}")
            return
        shown = client.get(f"/v1/models/{self._model}").json()
        if shown["aliases"]["champion"] != version or shown["state"] != "ready":
            self._fault(f"after promote {version}: {shown}")
        self._serve(version, dwell)

    def _serve(self, version: int, dwell: float) -> None:
        """Keep a version for at least `dwell` seconds and until it has responded."""
        before, began = self.outcome.answers[version], time.monotonic()
        while time.monotonic() - began < dwell or self.outcome.answers[version] == before:
            if time.monotonic() - began > RESPONSE_SECONDS:
                self._fault(f"no response of version {version} in {RESPONSE_SECONDS:.0f} s")
                return
            time.sleep(0.05)

    def _measure_memory(self, client: httpx.Client) -> None:
        workers = client.get("/v1/system").json()["workers"]
        pids = {worker["pid"] for worker in workers}
        self.outcome.workers |= pids
        resident = sum(psutil.Process(pid).memory_info().rss for pid in pids)
        self.outcome.memory.append(resident / MIB)

    def _classify(self, images: TestImages, number: int) -> None:
        """One client: send a request, check the response, repeat."""
        count = number
        with httpx.Client(base_url=self._url, headers=self._headers, timeout=70) as client:
            while not self._stop.is_set():
                index = count % len(images.files)
                count += 1
                began = time.monotonic()
                try:
                    answer = client.post(
                        "/v1/classify",
                        params={"model": self._model, "top_k": 10},
                        content=images.files[index],
                        headers={"Content-Type": "image/png"},
                    )
                except httpx.HTTPError as error:
                    self._fault(f"classify: {error!r}")
                    continue
                self._check(answer, images, index, time.monotonic() - began)

    def _check(
        self, answer: httpx.Response, images: TestImages, index: int, seconds: float
    ) -> None:
        if answer.status_code != 200:
            self._fault(f"classify: {answer.status_code} {answer.text[:200]}")
            return
        body: dict[str, Any] = answer.json()
        version = body["version"]
        expected = images.expected.get(version)
        if expected is None:
            self._fault(f"version {version} responded but was never promoted")
            return
        predictions = body["results"][0]["predictions"]
        difference = max(
            abs(item["probability"] - float(expected[index][item["index"]])) for item in predictions
        )
        with self._lock:
            self.outcome.answers[version] += 1
            self.outcome.worst = max(self.outcome.worst, difference)
            self.outcome.slowest = max(self.outcome.slowest, seconds)
        if difference > TOLERANCE:
            self._fault(
                f"a response of version {version} differs by {difference:.1e} from its own output"
            )

    def _fault(self, line: str) -> None:
        with self._lock:
            self.outcome.faults.append(line)


def _base_output(network: str) -> str:
    from models.networks.architecture import ARCHITECTURES

    return ARCHITECTURES[network].base_output


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def main() -> int:
    """Print the table; the exit code is 1 if there was any error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="squeezenet")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--dwell", type=float, default=0.5, help="seconds that each version serves")
    arguments = parser.parse_args()
    settings = Settings()
    key = settings.api_key
    headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    swap = HotSwap(arguments.server, Store(settings.store_home), arguments.model, headers)
    began = time.monotonic()
    outcome = swap.run(
        settings.home / "samples",
        rounds=arguments.rounds,
        clients=arguments.clients,
        dwell=arguments.dwell,
    )
    _print(outcome, arguments.rounds, arguments.clients, time.monotonic() - began)
    return 0 if outcome.passed else 1


def _print(outcome: Outcome, rounds: int, clients: int, seconds: float) -> None:
    table = Table("what", "value", show_header=False, title=f"{rounds} swaps, {clients} clients")
    baseline = outcome.memory[min(BASELINE_ROUND, len(outcome.memory)) - 1]
    swaps = sorted(outcome.swaps)
    for what, value in (
        ("responses", f"{outcome.answers.total()} in {seconds:.0f} s"),
        ("versions that responded", f"{len(outcome.answers)}"),
        ("errors", f"{len(outcome.faults)}"),
        ("largest difference from the version's own output", f"{outcome.worst:.1e}"),
        ("slowest response", f"{outcome.slowest:.2f} s"),
        ("promotion, median and slowest", f"{swaps[len(swaps) // 2]:.2f} s, {swaps[-1]:.2f} s"),
        ("worker memory after round 5", f"{baseline:.0f} MiB"),
        (f"worker memory after round {rounds}", f"{outcome.memory[-1]:.0f} MiB"),
        ("growth", f"{outcome.growth - 1:+.1%}"),
        ("worker processes", f"{len(outcome.workers)}"),
        ("verdict", "passed" if outcome.passed else "FAILED"),
    ):
        table.add_row(what, value)
    console = Console(width=100)
    console.print(table)
    for fault in outcome.faults[:20]:
        console.print(fault, markup=False)


if __name__ == "__main__":
    sys.exit(main())
