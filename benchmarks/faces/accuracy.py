"""Accuracy of face recognition on all pairs of labeled images, and the time of each step.

    python -m benchmarks.faces.accuracy FOLDER … [--peer NAME=FILE.npz …] [--acceptable]
        [--json OUT] [--login http://127.0.0.1:8000 sub_… IMAGE]

Each FOLDER holds one folder of images per person. Every face is compared with every other.
Identification: is the nearest other face of the same person (rank 1)? Verification: the false
non-match rate at the thresholds where 1 in 100 and 1 in 1,000 pairs of different people match, with
95% intervals that resample people (`models.faces.calibration.bootstrap`). A peer's embeddings of
the same images are made in its own environment by `benchmarks/peers/face_embeddings.py`; if it
compares by distance, embeddings of unit length give the same order.

Needs `OPSIN_HOME` with `face_embedder` in the store, and the detector's weights.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence, Set
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from contracts.queue.messages import Vector
from contracts.settings import Settings
from models.faces.analyzer import FaceAnalyzer, open_analyzer
from models.faces.calibration.bootstrap import bootstrap_intervals
from models.faces.calibration.calibration import equal_error_rate, threshold_at
from models.faces.calibration.comparisons import Comparisons
from models.faces.calibration.intervals import clopper_pearson
from models.faces.calibration.support import rule_of_three
from models.images.decode import decode_upright
from models.store.store import Store

TARGETS = (1e-2, 1e-3)
SUFFIXES = (".jpg", ".jpeg", ".png")
LIMIT = 50_000_000
SEED = 8
ROUNDS = 30


@dataclass(frozen=True, slots=True)
class FaceSet:
    """The faces of one folder, embedded by one system.

    Attributes:
        name: Name of the folder.
        system: Name of the system.
        images: Number of images in the folder.
        embeddings: (n, d), of unit length.
        names: (n,), ``person/file``.
    """

    name: str
    system: str
    images: int
    embeddings: Vector
    names: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """(n,), the person of each face."""
        return tuple(name.split("/")[0] for name in self.names)

    def among(self, names: Set[str]) -> "FaceSet":
        """Only the faces with these names."""
        selected = np.array([name in names for name in self.names])
        some = tuple(name for name in self.names if name in names)
        return replace(self, embeddings=self.embeddings[selected], names=some, images=len(names))


@dataclass(frozen=True, slots=True)
class Verification:
    """The false non-match rate at one threshold."""

    target: float
    threshold: float
    fnmr: float
    interval: tuple[float, float]
    missed: int


@dataclass(frozen=True, slots=True)
class Row:
    """The accuracy of one system on one folder.

    A verification is None if there are too few pairs for its target rate.
    """

    name: str
    system: str
    pictures: int
    faces: int
    people: int
    genuine: int
    impostor: int
    rank1: float
    rank1_errors: int
    rank1_interval: tuple[float, float]
    equal_error_rate: float
    verified: tuple[Verification | None, ...]


def by_opsin(folder: Path, analyzer: FaceAnalyzer, *, acceptable: bool) -> FaceSet:
    """Embed the largest face of each image.

    Args:
        folder: One folder per person.
        analyzer: Finds and embeds faces.
        acceptable: Use only faces that pass the quality gate.
    """
    crops, names = [], []
    files = image_files(folder)
    for file in files:
        image = np.asarray(decode_upright(file.read_bytes(), max_pixels=LIMIT))
        faces = analyzer.find(image, max_faces=1)
        if faces and (faces[0].face.quality.acceptable or not acceptable):
            crops.append(faces[0].crop)
            names.append(f"{file.parent.name}/{file.name}")
    parts = [
        analyzer.embed(np.stack(crops[start : start + 16])) for start in range(0, len(crops), 16)
    ]
    return FaceSet(folder.name, "opsin", len(files), np.concatenate(parts), tuple(names))


def by_peer(folder: Path, system: str, file: Path) -> FaceSet:
    """A peer's embeddings of the same images; see `benchmarks/peers/face_embeddings.py`."""
    with np.load(file, allow_pickle=False) as archive:
        vectors, names = archive[folder.name], archive[f"{folder.name}/names"]
    has_face = ~np.isnan(vectors).any(axis=1)
    unit = vectors[has_face] / np.linalg.norm(vectors[has_face], axis=1, keepdims=True)
    used = tuple(str(name) for name in names[has_face])
    return FaceSet(folder.name, system, len(names), unit.astype(np.float32), used)


def image_files(folder: Path) -> list[Path]:
    """All images of all people, sorted."""
    return sorted(path for path in folder.glob("*/*") if path.suffix.lower() in SUFFIXES)


def evaluate(faces: FaceSet) -> Row:
    """The accuracy of one system on one folder."""
    comparisons = Comparisons.of(faces.embeddings, faces.labels)
    errors, probes = rank_one(faces)
    return Row(
        name=faces.name,
        system=faces.system,
        pictures=faces.images,
        faces=len(faces.labels),
        people=len(comparisons.people),
        genuine=len(comparisons.genuine),
        impostor=len(comparisons.impostor),
        rank1=1 - errors / probes,
        rank1_errors=errors,
        rank1_interval=(
            1 - clopper_pearson(errors, probes)[1],
            1 - clopper_pearson(errors, probes)[0],
        ),
        equal_error_rate=equal_error_rate(comparisons),
        verified=tuple(verify(comparisons, target) for target in TARGETS),
    )


def rank_one(faces: FaceSet) -> tuple[int, int]:
    """Count the rank-1 errors of faces whose person has at least one other face.

    Returns:
        Number of errors and number of probes.
    """
    labels = np.array(faces.labels)
    similarities = faces.embeddings @ faces.embeddings.T
    np.fill_diagonal(similarities, -2)
    names, counts = np.unique(labels, return_counts=True)
    probes = np.isin(labels, names[counts > 1])
    correct = labels[similarities.argmax(axis=1)] == labels
    return int((probes & ~correct).sum()), int(probes.sum())


def verify(comparisons: Comparisons, target: float) -> Verification | None:
    """The false non-match rate at one false-match rate."""
    if target < rule_of_three(len(comparisons.impostor)):
        return None
    threshold = threshold_at(comparisons, target)
    missed = comparisons.false_non_matches(threshold)
    exact = clopper_pearson(missed, len(comparisons.genuine))
    # The threshold is fixed over the resamples, because a fixed threshold is shipped.
    resampled = bootstrap_intervals(comparisons, threshold, target, SEED).fnmr
    hull = (min(exact[0], resampled[0]), max(exact[1], resampled[1]))
    return Verification(target, threshold, comparisons.fnmr(threshold), hull, missed)


def costs(folder: Path, analyzer: FaceAnalyzer) -> dict[str, float]:
    """Milliseconds of each step, the median over rounds and images."""
    raws = [file.read_bytes() for file in image_files(folder)[:5]]
    images = [np.asarray(decode_upright(raw, max_pixels=LIMIT)) for raw in raws]
    faces = [analyzer.find(image, max_faces=1) for image in images]
    crops = np.stack([detected[0].crop for detected in faces if detected])
    sixteen = np.resize(crops, (16, *crops.shape[1:]))
    return {
        "decode": _median(lambda: [decode_upright(raw, max_pixels=LIMIT) for raw in raws])
        / len(raws),
        "find (detect, mesh, align, quality)": _median(
            lambda: [analyzer.find(image, max_faces=1) for image in images]
        )
        / len(images),
        "embed one": _median(lambda: analyzer.embed(crops[:1])),
        "embed, per face of 16": _median(lambda: analyzer.embed(sixteen)) / 16,
    }


def login(url: str, subject: str, image: Path, analyzer: FaceAnalyzer) -> tuple[float, float]:
    """Median milliseconds of a login with an image, and of one embedding alone.

    The two take turns, so that other load affects both. Each login must match, because failures
    would lock the subject out.
    """
    raw = image.read_bytes()
    pixels = np.asarray(decode_upright(raw, max_pixels=LIMIT))
    crop = analyzer.find(pixels, max_faces=1)[0].crop[np.newaxis]
    whole, alone = [], []
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        for _ in range(ROUNDS):
            began = time.perf_counter()
            answer = client.post(
                "/v1/faces/login",
                files=[("subject_id", (None, subject)), ("image", ("me", raw, "image/jpeg"))],
            )
            whole.append((time.perf_counter() - began) * 1000)
            answer.raise_for_status()
            if answer.json()["decision"] != "match":
                raise SystemExit(f"no match: {answer.text}")
            began = time.perf_counter()
            analyzer.embed(crop)
            alone.append((time.perf_counter() - began) * 1000)
    return statistics.median(whole), statistics.median(alone)


def _median(work: Callable[[], object]) -> float:
    work()
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def accuracy_table(rows: Sequence[Row]) -> Table:
    """All rows in one table."""
    table = Table("set", "system", "faces", "people", "rank 1", "EER", title="all pairs")
    for target in TARGETS:
        table.add_column(f"FNMR at FMR {target:g}")
    for row in rows:
        low, high = row.rank1_interval
        table.add_row(
            *(row.name, row.system, f"{row.faces}/{row.pictures}", str(row.people)),
            *(f"{row.rank1:.1%} ({low:.1%} to {high:.1%})", f"{row.equal_error_rate:.2%}"),
            *(_verification_text(verification, row) for verification in row.verified),
        )
    return table


def _verification_text(verification: Verification | None, row: Row) -> str:
    if verification is None:
        return f"not supported by {row.impostor:,} pairs"
    low, high = verification.interval
    return f"{verification.fnmr:.2%} ({low:.2%} to {high:.2%}) at {verification.threshold:.3f}"


def main() -> None:
    """Print both tables, and write them with --json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument(
        "--acceptable", action="store_true", help="use only faces that pass the quality gate"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--login", nargs=3, metavar=("URL", "SUBJECT", "IMAGE"))
    arguments = parser.parse_args()
    settings = Settings()
    console = Console(width=160)
    store = Store(settings.store_home)
    analyzer = open_analyzer(settings, store, threads=arguments.threads)
    rows = []
    for folder in arguments.folders:
        own = by_opsin(folder, analyzer, acceptable=arguments.acceptable)
        rows.append(evaluate(own))
        for peer in arguments.peer:
            name, _, file = peer.partition("=")
            other = by_peer(folder, name, Path(file))
            both = set(own.names) & set(other.names)
            if len(both) < len(own.names):
                rows.append(
                    evaluate(replace(own.among(both), system=f"opsin, faces found by {name}"))
                )
            rows.append(evaluate(other))
    console.print(accuracy_table(rows))
    steps = costs(arguments.folders[0], analyzer)
    table = Table("step", "ms", title=f"{arguments.threads} threads, {arguments.folders[0].name}")
    for step, milliseconds in steps.items():
        table.add_row(step, f"{milliseconds:.2f}")
    console.print(table)
    if arguments.login:
        url, subject, image = arguments.login
        whole, alone = login(url, subject, Path(image), analyzer)
        console.print(f"login {whole:.1f} ms, {whole / alone:.2f} times an embedding ({alone:.1f})")
    if arguments.json:
        content = {"rows": [asdict(row) for row in rows], "steps": steps}
        arguments.json.write_text(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
