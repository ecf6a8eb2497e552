"""The job behind `POST /v1/faces/calibrations`: from a dataset of people to a threshold.

It changes nothing: `PUT /v1/faces/threshold` puts a threshold in force, and names this job.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from contracts.errors import NotTrainable, OpsinError
from contracts.faces.calibration import CalibrationBody, CalibrationResult, LeftOut, LeftOutReason
from contracts.faces.faces import FACE_MODEL
from contracts.jobs import Progress
from contracts.queue.messages import Pixels, Vector
from contracts.settings import Settings
from contracts.work import Work
from models.datasets.dataset import Dataset, Example
from models.datasets.library import Library
from models.faces.analyser import FaceAnalyser, open_analyser
from models.faces.calibration.calibration import calibrate, require_support
from models.faces.calibration.comparisons import Comparisons
from models.faces.calibration.det_chart import det_chart
from models.faces.detection.detection import FoundFace
from models.images.decode import upright
from models.store.store import Store

ARTIFACT = "det.png"
MOST_FACES = 6000
"""18 million pairs: what half a gigabyte holds while they are compared and sorted."""
_BATCH = 16
_OTHER = 0.5  # of the largest face's width: from that on it is not clear whose picture it is

_HELPS: dict[LeftOutReason, str] = {
    "no_face": "No face was found. Send pictures that show it from the front.",
    "many_faces": "It is not clear whose picture it is. Cut out the one face.",
    "low_quality": "A login would refuse the face. Send larger, sharper, more frontal ones, or "
    "set only_acceptable to false.",
    "unreadable": "The file cannot be read any more. Was the dataset changed?",
    "too_many": f"No more than {MOST_FACES:,} pictures are compared, as many of each person as of "
    "the others.",
}


def run(work: Work, settings: Settings) -> dict[str, Any]:
    """Measure a dataset, and give the job `det.png`.

    Args:
        work: Its request is a `CalibrationBody`.
        settings: Where datasets, weights and store are.

    Returns:
        A `CalibrationResult` as JSON.

    Raises:
        DatasetNotFound: There is no such dataset.
        NotTrainable: Its usable faces cannot support the rate that was asked for.
        WeightsMissing: What finds faces is not on this machine.
        WorkStoppedError: The job was cancelled.
    """
    request = CalibrationBody.model_validate(work.request)
    work.progress(Progress(fraction=0, phase="load"))
    dataset = Library.of(settings).load(request.dataset_id)
    gathering = _Gathering(work, settings.max_image_pixels, request.only_acceptable)
    analyser = open_analyser(settings, Store(settings.store_home), threads=settings.job_threads)
    embeddings, labels = gathering.faces(dataset, analyser)
    comparisons = Comparisons.of(embeddings, labels)
    _require_support(comparisons, request, gathering)
    work.progress(Progress(fraction=0.95, phase="measure"))
    found = calibrate(comparisons, request.target_fmr, groups=request.groups)
    work.artifact(ARTIFACT, "image/png", det_chart(comparisons, found, dataset.name))
    return CalibrationResult(
        **found.model_dump(),
        dataset_id=request.dataset_id,
        dataset_digest=dataset.digest,
        model=FACE_MODEL,
        version=analyser.version,
        pictures=len(dataset.examples),
        left_out=gathering.left_out(),
    ).model_dump(mode="json")


@dataclass(slots=True)
class _Gathering:
    """Finds the one face of each picture, and counts the pictures that have none of use."""

    work: Work
    max_pixels: int
    only_acceptable: bool
    left: Counter[tuple[str, LeftOutReason]] = field(default_factory=Counter)

    def faces(self, dataset: Dataset, analyser: FaceAnalyser) -> tuple[Vector, list[str]]:
        """The embeddings of all usable faces, float32 (n, 128), and whose they are."""
        chosen = evenly(dataset.examples, MOST_FACES)
        kept = {example.path for example in chosen}
        for example in dataset.examples:
            if example.path not in kept:
                self.left[example.label, "too_many"] += 1
        parts: list[Vector] = [np.empty((0, 128), np.float32)]
        labels: list[str] = []
        for batch in _batches(self._chips(chosen, analyser)):
            parts.append(analyser.embed(np.stack([chip for chip, _ in batch])))
            labels += [label for _, label in batch]
        return np.concatenate(parts), labels

    def left_out(self) -> tuple[LeftOut, ...]:
        """By person and reason."""
        return tuple(
            LeftOut(person=person, reason=reason, pictures=count, detail=_HELPS[reason])
            for (person, reason), count in sorted(self.left.items())
        )

    def _chips(
        self, examples: Sequence[Example], analyser: FaceAnalyser
    ) -> Iterator[tuple[Pixels, str]]:
        for at, example in enumerate(examples):
            self.work.check()
            chip = self._chip(example, analyser)
            if isinstance(chip, str):
                self.left[example.label, chip] += 1
            else:
                yield chip, example.label
            fraction = 0.95 * (at + 1) / len(examples)
            step = Progress(fraction=fraction, phase="faces", step=at + 1, steps=len(examples))
            self.work.progress(step)

    def _chip(self, example: Example, analyser: FaceAnalyser) -> Pixels | LeftOutReason:
        try:
            picture = upright(example.path.read_bytes(), max_pixels=self.max_pixels)
        except (OSError, OpsinError):
            return "unreadable"
        face = the_one_face(analyser.find(np.asarray(picture), most=2))
        if isinstance(face, str):
            return face
        if self.only_acceptable and not face.face.quality.acceptable:
            return "low_quality"
        return face.chip


def the_one_face(faces: Sequence[FoundFace]) -> FoundFace | LeftOutReason:
    """Whose picture it is: the largest face, if no other is half as wide."""
    if not faces:
        return "no_face"
    widths = [one.face.box.width for one in faces]
    if len(faces) > 1 and widths[1] >= _OTHER * widths[0]:
        return "many_faces"
    return faces[0]


def evenly(examples: Sequence[Example], most: int) -> list[Example]:
    """So many examples at most: the first of each label, then the second of each, and so on."""
    if len(examples) <= most:
        return list(examples)
    seen: Counter[str] = Counter()
    ranked = []
    for place, example in enumerate(examples):
        ranked.append((seen[example.label], place, example))
        seen[example.label] += 1
    return [example for _, _, example in sorted(ranked, key=lambda one: one[:2])[:most]]


def _require_support(
    comparisons: Comparisons, request: CalibrationBody, gathering: _Gathering
) -> None:
    """As `require_support`, with what became of the pictures, which explains it."""
    try:
        require_support(len(comparisons.impostor), request.target_fmr)
    except NotTrainable as refusal:
        reasons: Counter[str] = Counter()
        for (_, reason), count in gathering.left.items():
            reasons[reason] += count
        told = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        raise NotTrainable(
            refusal.detail + (f" Pictures left out: {told}." if told else "")
        ) from None


def _batches(
    chips: Iterator[tuple[Pixels, str]],
) -> Iterator[list[tuple[Pixels, str]]]:
    while batch := list(itertools.islice(chips, _BATCH)):
        yield batch
