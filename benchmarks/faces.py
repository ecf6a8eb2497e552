"""How well faces are recognised, on all pairs of labelled pictures, and what each step costs.

    python -m benchmarks.faces FOLDER … [--peer NAME=FILE.npz …] [--acceptable] [--json OUT]
        [--login http://127.0.0.1:8000 sub_… PICTURE]

Each FOLDER holds one folder of pictures a person. Every face is compared with every other:
identification is the nearest other face (rank 1), verification the false non-match rate at the
thresholds where 1 in 100 and 1 in 1,000 pairs of different people match, with 95 % intervals that
draw the people anew (`models.faces.calibration.bootstrap`). A peer's embeddings of the same
pictures are made in an environment of its own by `benchmarks/peers/face_embeddings.py`; where it
compares by distance, unit length makes the order the same.

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
from models.faces.analyser import FaceAnalyser, open_analyser
from models.faces.calibration.bootstrap import spread
from models.faces.calibration.calibration import equal_error_rate, threshold_at
from models.faces.calibration.comparisons import Comparisons
from models.faces.calibration.intervals import clopper_pearson, rule_of_three
from models.images.decode import upright
from models.store.store import Store

TARGETS = (1e-2, 1e-3)
PICTURES = (".jpg", ".jpeg", ".png")
LIMIT = 50_000_000
SEED = 8
ROUNDS = 30


@dataclass(frozen=True, slots=True)
class Gathered:
    """The faces of one folder, as one system sees them.

    Attributes:
        name: Of the folder.
        system: Who embedded them.
        pictures: All there are.
        embeddings: (n, d), of length 1.
        names: (n,) ``person/file``.
    """

    name: str
    system: str
    pictures: int
    embeddings: Vector
    names: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """(n,) whose each is."""
        return tuple(name.split("/")[0] for name in self.names)

    def among(self, names: Set[str]) -> "Gathered":
        """Only some of the pictures."""
        kept = np.array([name in names for name in self.names])
        some = tuple(name for name in self.names if name in names)
        return replace(self, embeddings=self.embeddings[kept], names=some, pictures=len(names))


@dataclass(frozen=True, slots=True)
class Verified:
    """One threshold; None where the pairs cannot support the rate."""

    target: float
    threshold: float
    fnmr: float
    interval: tuple[float, float]
    missed: int


@dataclass(frozen=True, slots=True)
class Row:
    """What one system reaches on one folder."""

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
    verified: tuple[Verified | None, ...]


def by_opsin(folder: Path, analyser: FaceAnalyser, *, acceptable: bool) -> Gathered:
    """The largest face of each picture.

    Args:
        folder: One folder a person.
        analyser: Finds and embeds.
        acceptable: Only faces that pass the quality gate.
    """
    chips, names = [], []
    files = pictures_of(folder)
    for file in files:
        picture = np.asarray(upright(file.read_bytes(), max_pixels=LIMIT))
        faces = analyser.find(picture, most=1)
        if faces and (faces[0].face.quality.acceptable or not acceptable):
            chips.append(faces[0].chip)
            names.append(f"{file.parent.name}/{file.name}")
    parts = [analyser.embed(np.stack(chips[at : at + 16])) for at in range(0, len(chips), 16)]
    return Gathered(folder.name, "opsin", len(files), np.concatenate(parts), tuple(names))


def by_peer(folder: Path, system: str, file: Path) -> Gathered:
    """What a peer made of the same pictures; see `benchmarks/peers/face_embeddings.py`."""
    with np.load(file, allow_pickle=False) as found:
        vectors, names = found[folder.name], found[f"{folder.name}/names"]
    seen = ~np.isnan(vectors).any(axis=1)
    unit = vectors[seen] / np.linalg.norm(vectors[seen], axis=1, keepdims=True)
    kept = tuple(str(name) for name in names[seen])
    return Gathered(folder.name, system, len(names), unit.astype(np.float32), kept)


def pictures_of(folder: Path) -> list[Path]:
    """All pictures of all people, sorted."""
    return sorted(path for path in folder.glob("*/*") if path.suffix.lower() in PICTURES)


def measured(gathered: Gathered) -> Row:
    """All figures of one system on one folder."""
    comparisons = Comparisons.of(gathered.embeddings, gathered.labels)
    errors, asked = rank_one(gathered)
    return Row(
        name=gathered.name,
        system=gathered.system,
        pictures=gathered.pictures,
        faces=len(gathered.labels),
        people=len(comparisons.people),
        genuine=len(comparisons.genuine),
        impostor=len(comparisons.impostor),
        rank1=1 - errors / asked,
        rank1_errors=errors,
        rank1_interval=(
            1 - clopper_pearson(errors, asked)[1],
            1 - clopper_pearson(errors, asked)[0],
        ),
        equal_error_rate=equal_error_rate(comparisons),
        verified=tuple(verified(comparisons, target) for target in TARGETS),
    )


def rank_one(gathered: Gathered) -> tuple[int, int]:
    """Faces whose nearest other face is of somebody else, of those that have another of their own.

    Returns:
        How many are wrong, and how many were asked.
    """
    labels = np.array(gathered.labels)
    alike = gathered.embeddings @ gathered.embeddings.T
    np.fill_diagonal(alike, -2)
    names, counts = np.unique(labels, return_counts=True)
    asked = np.isin(labels, names[counts > 1])
    right = labels[alike.argmax(axis=1)] == labels
    return int((asked & ~right).sum()), int(asked.sum())


def verified(comparisons: Comparisons, target: float) -> Verified | None:
    """The false non-match rate at one false-match rate."""
    if target < rule_of_three(len(comparisons.impostor)):
        return None
    threshold = threshold_at(comparisons, target)
    missed = comparisons.missed(threshold)
    exact = clopper_pearson(missed, len(comparisons.genuine))
    # Each drawing at a threshold of its own would say how the pair of both varies; the threshold
    # is shipped, so its errors are what is asked.
    people = spread(comparisons, threshold, target, SEED).fnmr
    hull = (min(exact[0], people[0]), max(exact[1], people[1]))
    return Verified(target, threshold, comparisons.fnmr(threshold), hull, missed)


def costs(folder: Path, analyser: FaceAnalyser) -> dict[str, float]:
    """Milliseconds of each step, the median over rounds and pictures."""
    raws = [file.read_bytes() for file in pictures_of(folder)[:5]]
    pictures = [np.asarray(upright(raw, max_pixels=LIMIT)) for raw in raws]
    faces = [analyser.find(picture, most=1) for picture in pictures]
    chips = np.stack([found[0].chip for found in faces if found])
    sixteen = np.resize(chips, (16, *chips.shape[1:]))
    return {
        "decode": _median(lambda: [upright(raw, max_pixels=LIMIT) for raw in raws]) / len(raws),
        "find (detect, mesh, align, quality)": _median(
            lambda: [analyser.find(picture, most=1) for picture in pictures]
        )
        / len(pictures),
        "embed, alone": _median(lambda: analyser.embed(chips[:1])),
        "embed, each of 16": _median(lambda: analyser.embed(sixteen)) / 16,
    }


def login(url: str, subject: str, picture: Path, analyser: FaceAnalyser) -> tuple[float, float]:
    """The median of a whole login by picture, and of one embedding alone, in ms.

    The two take turns, so that whatever else the machine does slows both. Each login is a match:
    failures would lock the subject out.
    """
    raw = picture.read_bytes()
    pixels = np.asarray(upright(raw, max_pixels=LIMIT))
    chip = analyser.find(pixels, most=1)[0].chip[np.newaxis]
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
            analyser.embed(chip)
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


def shown(rows: Sequence[Row]) -> Table:
    """All rows as one table."""
    table = Table("set", "system", "faces", "people", "rank 1", "EER", title="all pairs")
    for target in TARGETS:
        table.add_column(f"FNMR at FMR {target:g}")
    for row in rows:
        low, high = row.rank1_interval
        table.add_row(
            *(row.name, row.system, f"{row.faces}/{row.pictures}", str(row.people)),
            *(f"{row.rank1:.1%} ({low:.1%} to {high:.1%})", f"{row.equal_error_rate:.2%}"),
            *(_told(one, row) for one in row.verified),
        )
    return table


def _told(one: Verified | None, row: Row) -> str:
    if one is None:
        return f"not supported by {row.impostor:,} pairs"
    low, high = one.interval
    return f"{one.fnmr:.2%} ({low:.2%} to {high:.2%}) at {one.threshold:.3f}"


def main() -> None:
    """Print both tables; write them if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--acceptable", action="store_true", help="only what passes the gate")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--login", nargs=3, metavar=("URL", "SUBJECT", "PICTURE"))
    arguments = parser.parse_args()
    settings = Settings()
    console = Console(width=160)
    store = Store(settings.store_home)
    analyser = open_analyser(settings, store, threads=arguments.threads)
    rows = []
    for folder in arguments.folders:
        own = by_opsin(folder, analyser, acceptable=arguments.acceptable)
        rows.append(measured(own))
        for peer in arguments.peer:
            name, _, file = peer.partition("=")
            other = by_peer(folder, name, Path(file))
            both = set(own.names) & set(other.names)
            if len(both) < len(own.names):
                rows.append(measured(replace(own.among(both), system=f"opsin, where {name} sees")))
            rows.append(measured(other))
    console.print(shown(rows))
    steps = costs(arguments.folders[0], analyser)
    table = Table("step", "ms", title=f"{arguments.threads} threads, {arguments.folders[0].name}")
    for step, milliseconds in steps.items():
        table.add_row(step, f"{milliseconds:.2f}")
    console.print(table)
    if arguments.login:
        url, subject, picture = arguments.login
        whole, alone = login(url, subject, Path(picture), analyser)
        console.print(f"login {whole:.1f} ms, {whole / alone:.2f} times an embedding ({alone:.1f})")
    if arguments.json:
        content = {"rows": [asdict(row) for row in rows], "steps": steps}
        arguments.json.write_text(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
