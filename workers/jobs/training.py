"""The training job, for datasets and for the stored frames of enrolled people.

Frames are decrypted in the memory of this process and never written to disk. The published version
and the job's artifacts contain none of them. A person's class is named by the subject id, so that
no name remains in a model after an erasure.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from contracts.errors import NotFound, NotTrainable, SubjectNotFound
from contracts.inference.serving import Serving
from contracts.settings import Settings
from contracts.training.trainings import MIN_FRAMES, TrainingRequest
from contracts.work import Work
from database.engine import open_engine
from database.faces.repositories import FaceRepositories
from database.faces.standings import require_consent
from database.faces.template_rows import Damaged
from models.datasets.dataset import SPLITS, Dataset, Example
from models.datasets.splitting import Fractions
from models.faces.analyzer import open_analyzer
from models.faces.portrait import portrait
from models.store.store import Store
from models.training import run as training
from models.training.data.data_source import TrainingData
from workers.jobs.serving import wait_until_served

log = structlog.get_logger()

_FRACTIONS = Fractions(0.15, 0.15, 0)


def run(
    work: Work, settings: Settings, start_seconds: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Run `models.training.run.run` with the data that the request names.

    Args:
        work: The attempt.
        settings: All settings.
        start_seconds: Of the stages that are over, see `models.training.run.run`.

    Raises:
        OpsinError: The training is impossible, e.g. because a subject was erased; nothing was
            published.
        WorkStoppedError: The job was stopped.
    """

    def until_served(model: str, version: int, report: Callable[[], None]) -> Serving | None:
        return wait_until_served(work, settings, model, version, report=report)

    subjects = TrainingRequest.model_validate(work.request).subjects
    if subjects is None:
        return training.run(work, settings, until_served=until_served, start_seconds=start_seconds)
    with _faces(settings) as faces:
        analyzer = open_analyzer(settings, Store(settings.store_home), threads=settings.job_threads)
        crop = partial(portrait, analyzer=analyzer)
        source = SubjectSource(work, faces, crop, subjects)
        return training.run(work, settings, source, until_served, start_seconds)


@dataclass(frozen=True, slots=True)
class SubjectSource:
    """A `models.training.data.data_source.DataSource` of the stored frames of enrolled people.

    Attributes:
        work: Its `check` is called before every frame.
        crop: Maps an image file to a file with the face only; None if there is no face.
        subjects: Ids of the subjects.
    """

    work: Work
    faces: FaceRepositories
    crop: Callable[[bytes], bytes | None]
    subjects: Sequence[str]

    def load(self) -> TrainingData:
        """Load and crop all frames and split them for each person; the same split every time.

        Raises:
            SubjectNotFound: A subject was erased.
            Conflict: A consent that is required was withdrawn or has expired.
            NotTrainable: A subject has too few frames with a face.
            Unavailable: A key is missing.
        """
        self._require_consent()
        examples = [example for subject in self.subjects for example in self._examples(subject)]
        listing = "".join(
            f"{example.label}/{example.split}/{example.sha256}\n" for example in examples
        )
        digest = f"sha256:{hashlib.sha256(listing.encode()).hexdigest()}"
        classes = tuple(sorted(self.subjects))
        return TrainingData(Dataset("subjects", digest, classes, tuple(examples)), private=True)

    def check_publishable(self) -> None:
        """Check that all subjects still exist and still allow their frames to be used.

        Raises:
            SubjectNotFound: A subject was erased.
            Conflict: A consent that is required was withdrawn or has expired.
            NotTrainable: A subject's frames may no longer be stored.
        """
        self._require_consent()
        for subject in self.subjects:
            if not self.faces.subjects.get(subject).keep_frames:
                raise NotTrainable(f"The frames of {subject} may no longer be used.")

    def _require_consent(self) -> None:
        policy = self.faces.policy.get()
        for subject in self.subjects:
            require_consent(self.faces.standings.get(subject), policy)

    def _examples(self, subject: str) -> Iterator[Example]:
        portraits = dict(self._portraits(subject))
        if len(portraits) < MIN_FRAMES:
            raise NotTrainable(
                f"{subject} has {len(portraits)} stored frames with a face; {MIN_FRAMES} are "
                "needed. Enroll the subject again with keep_frames, or leave it out."
            )
        validation, test = _FRACTIONS.counts(len(portraits))
        # Frames of one recording resemble each other, so the newest are the test: if the subject
        # was enrolled several times, they are of another recording than most of the others.
        newest_first = reversed(portraits)
        split_of = {
            file_id: 2 if rank < test else 1 if rank < test + validation else 0
            for rank, file_id in enumerate(newest_first)
        }
        # The hash of a random id, so that the published digest is not derived from a face.
        ranked = sorted(
            (hashlib.sha256(file_id.encode()).hexdigest(), file_id) for file_id in portraits
        )
        for digest, file_id in ranked:
            split = SPLITS[split_of[file_id]]
            yield Example(Path(file_id), subject, split, digest, portraits[file_id])

    def _portraits(self, subject: str) -> Iterator[tuple[str, bytes]]:
        for file_id in self.faces.frames.ids_of_subject(subject):
            self.work.check()
            try:
                frame = self.faces.frames.get(subject, file_id)
            except SubjectNotFound:
                raise
            except NotFound:
                continue  # deleted in the meantime
            except Damaged as error:
                log.warning("frame_unreadable", subject=subject, frame=file_id, why=error.detail)
                continue
            cropped = self.crop(frame.content)
            if cropped is not None:
                yield file_id, cropped


@contextmanager
def _faces(settings: Settings) -> Iterator[FaceRepositories]:
    engine = open_engine(settings.database)
    try:
        yield FaceRepositories.of(settings, engine, lambda: datetime.now(UTC))
    finally:
        engine.dispose()
