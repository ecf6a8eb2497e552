"""The job of `POST /v1/faces/calibrations`: computes a threshold from a dataset of people.

It does not change the current threshold; `PUT /v1/faces/threshold` does that, with the job's id.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from contracts.errors import NotTrainable, OpsinError
from contracts.faces.calibration import (
    FALLBACK_FMR,
    CalibrationBody,
    CalibrationResult,
    LeftOut,
    LeftOutReason,
)
from contracts.faces.faces import FACE_MODEL
from contracts.jobs import Progress
from contracts.queue.messages import Pixels, Vector
from contracts.settings import Settings
from contracts.work import Work
from models.datasets.dataset import Dataset, Example
from models.datasets.store import DatasetStore
from models.faces.analyzer import FaceAnalyzer, open_analyzer
from models.faces.calibration.calibration import calibrate
from models.faces.calibration.comparisons import Comparisons
from models.faces.calibration.det_chart import det_chart
from models.faces.calibration.support import require_support
from models.faces.detection.detection import DetectedFace
from models.images.decode import decode_upright
from models.store.store import Store

ARTIFACT = "det.png"
MAX_FACES = 6000
"""18 million pairs, which take half a gigabyte while they are compared and sorted."""
_BATCH = 16
_AMBIGUOUS_WIDTH = 0.5  # of the largest face: with another this wide, an image shows two people

_ADVICE: dict[LeftOutReason, str] = {
    "no_face": "No face was found. Send images that show it from the front.",
    "many_faces": "It is not clear whose image it is. Crop it to the one face.",
    "low_quality": "A login would refuse the face. Send larger, sharper, more frontal ones, or "
    "set only_acceptable to false.",
    "unreadable": "The file can no longer be read. Was the dataset changed?",
    "too_many": f"At most {MAX_FACES:,} images are compared, the same number of each person if "
    "possible.",
}


def run(work: Work, settings: Settings) -> dict[str, Any]:
    """Calibrate on the dataset of a `CalibrationBody`, and add the artifact `det.png`.

    Returns:
        A `CalibrationResult` as JSON.

    Raises:
        DatasetNotFound: There is no such dataset.
        NotTrainable: Its usable faces cannot support the requested rate.
        WeightsMissing: The weights of the face detector are missing.
        WorkStoppedError: The job was cancelled.
    """
    request = CalibrationBody.model_validate(work.request)
    work.progress(Progress(fraction=0, phase="model"))
    dataset = DatasetStore.of(settings).load(request.dataset_id)
    collector = _FaceCollector(work, settings.max_image_pixels, request.only_acceptable)
    analyzer = open_analyzer(settings, Store(settings.store_home), threads=settings.job_threads)
    embeddings, labels = collector.faces(dataset, analyzer)
    comparisons = Comparisons.of(embeddings, labels)
    _require_support(comparisons, request, collector)
    work.progress(Progress(fraction=0.95, phase="measure"))
    target = request.target_fmr or FALLBACK_FMR  # the API sends a number
    calibration = calibrate(comparisons, target, groups=request.groups)
    work.artifact(ARTIFACT, "image/png", det_chart(comparisons, calibration, dataset.name))
    return CalibrationResult(
        **calibration.model_dump(),
        dataset_id=request.dataset_id,
        dataset_digest=dataset.digest,
        model=FACE_MODEL,
        version=analyzer.version,
        pictures=len(dataset.examples),
        left_out=collector.left_out(),
    ).model_dump(mode="json")


@dataclass(slots=True)
class _FaceCollector:
    """Finds the one face of each image, and counts images without a usable one."""

    work: Work
    max_pixels: int
    only_acceptable: bool
    counts: Counter[tuple[str, LeftOutReason]] = field(default_factory=Counter)

    def faces(self, dataset: Dataset, analyzer: FaceAnalyzer) -> tuple[Vector, list[str]]:
        """The embeddings of all usable faces, float32 (n, 128), and their labels."""
        chosen = take_evenly(dataset.examples, MAX_FACES)
        chosen_paths = {example.path for example in chosen}
        for example in dataset.examples:
            if example.path not in chosen_paths:
                self.counts[example.label, "too_many"] += 1
        parts: list[Vector] = [np.empty((0, 128), np.float32)]
        labels: list[str] = []
        for batch in _batches(self._crops(chosen, analyzer)):
            parts.append(analyzer.embed(np.stack([crop for crop, _ in batch])))
            labels += [label for _, label in batch]
        return np.concatenate(parts), labels

    def left_out(self) -> tuple[LeftOut, ...]:
        """The images without a usable face, by person and reason."""
        return tuple(
            LeftOut(person=person, reason=reason, pictures=count, detail=_ADVICE[reason])
            for (person, reason), count in sorted(self.counts.items())
        )

    def _crops(
        self, examples: Sequence[Example], analyzer: FaceAnalyzer
    ) -> Iterator[tuple[Pixels, str]]:
        for step, example in enumerate(examples, 1):
            self.work.check()
            crop = self._crop(example, analyzer)
            if isinstance(crop, str):
                self.counts[example.label, crop] += 1
            else:
                yield crop, example.label
            fraction = 0.95 * step / len(examples)
            self.work.progress(
                Progress(fraction=fraction, phase="faces", step=step, steps=len(examples))
            )

    def _crop(self, example: Example, analyzer: FaceAnalyzer) -> Pixels | LeftOutReason:
        try:
            image = decode_upright(example.path.read_bytes(), max_pixels=self.max_pixels)
        except (OSError, OpsinError):
            return "unreadable"
        face = main_face(analyzer.find(np.asarray(image), max_faces=2))
        if isinstance(face, str):
            return face
        if self.only_acceptable and not face.face.quality.acceptable:
            return "low_quality"
        return face.crop


def main_face(faces: Sequence[DetectedFace]) -> DetectedFace | LeftOutReason:
    """The largest face, unless another is at least half as wide."""
    if not faces:
        return "no_face"
    widths = [face.face.box.width for face in faces]
    if len(faces) > 1 and widths[1] >= _AMBIGUOUS_WIDTH * widths[0]:
        return "many_faces"
    return faces[0]


def take_evenly(examples: Sequence[Example], limit: int) -> list[Example]:
    """At most `limit` examples: the first of each label, then the second of each, and so on."""
    if len(examples) <= limit:
        return list(examples)
    seen: Counter[str] = Counter()
    ranked = []
    for index, example in enumerate(examples):
        ranked.append((seen[example.label], index, example))
        seen[example.label] += 1
    return [example for _, _, example in sorted(ranked, key=lambda item: item[:2])[:limit]]


def _require_support(
    comparisons: Comparisons, request: CalibrationBody, collector: _FaceCollector
) -> None:
    """Like `require_support`, but the error also says how many images were left out and why."""
    try:
        require_support(len(comparisons.impostor), request.target_fmr or FALLBACK_FMR)
    except NotTrainable as error:
        reasons: Counter[str] = Counter()
        for (_, reason), count in collector.counts.items():
            reasons[reason] += count
        summary = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        raise NotTrainable(
            error.detail + (f" Images left out: {summary}." if summary else "")
        ) from None


def _batches(
    crops: Iterator[tuple[Pixels, str]],
) -> Iterator[list[tuple[Pixels, str]]]:
    while batch := list(itertools.islice(crops, _BATCH)):
        yield batch
