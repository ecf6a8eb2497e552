"""A training as a worker runs it: of a dataset, or of what is kept of enrolled people.

Frames are opened in this process and never written: pictures live in its memory, a published
version holds none of them, and the job shows none. People are classes by their id, so that no name
outlives them in a model.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from contracts.errors import NotFound, NotTrainable, SubjectNotFound
from contracts.settings import Settings
from contracts.training.trainings import LEAST_FRAMES, TrainingRequest
from contracts.work import Work
from database.engine import open_engine
from database.faces.faces import Faces
from models.datasets.dataset import SPLITS, Dataset, Example
from models.datasets.splitting import Fractions
from models.faces.analyser import open_analyser
from models.faces.portrait import portrait
from models.store.store import Store
from models.training import run as training
from models.training.data.data_source import Material

_FRACTIONS = Fractions(0.15, 0.15, 0)


def run(work: Work, settings: Settings) -> dict[str, Any]:
    """As `models.training.run.run`, which is told where the pictures come from.

    Raises:
        OpsinError: It cannot be done, e.g. a subject was erased meanwhile; nothing is published.
        WorkStoppedError: It was told to end.
    """
    subjects = TrainingRequest.model_validate(work.request).subjects
    if subjects is None:
        return training.run(work, settings)
    with _faces(settings) as faces:
        analyser = open_analyser(settings, Store(settings.store_home), threads=settings.job_threads)
        cut = partial(portrait, analyser=analyser)
        return training.run(work, settings, FromSubjects(work, faces, cut, subjects))


@dataclass(frozen=True, slots=True)
class FromSubjects:
    """A `models.training.data.data_source.Supply` of the frames that are kept of enrolled people.

    Attributes:
        work: Is asked at every frame whether to go on.
        faces: Opens the frames.
        cut: From a frame to the face in it, a picture file both; None where there is none.
        subjects: Whose.
    """

    work: Work
    faces: Faces
    cut: Callable[[bytes], bytes | None]
    subjects: Sequence[str]

    def load(self) -> Material:
        """All frames, cut to the face and split person by person; the same for the same frames.

        Raises:
            SubjectNotFound: One was erased.
            NotTrainable: One has too few frames with a face.
            Unavailable: A key is missing.
        """
        examples = [one for subject in self.subjects for one in self._of(subject)]
        said = "".join(f"{one.label}/{one.split}/{one.sha256}\n" for one in examples)
        digest = f"sha256:{hashlib.sha256(said.encode()).hexdigest()}"
        classes = tuple(sorted(self.subjects))
        return Material(Dataset("subjects", digest, classes, tuple(examples)), private=True)

    def require(self) -> None:
        """Whether all of them are still there, and still let their frames be kept.

        Raises:
            SubjectNotFound: One was erased.
            NotTrainable: One's frames may not be kept any more.
        """
        for subject in self.subjects:
            if not self.faces.subjects.get(subject).keep_frames:
                raise NotTrainable(f"The frames of {subject} may not be used any more.")

    def _of(self, subject: str) -> Iterator[Example]:
        pictures = list(self._portraits(subject))
        if len(pictures) < LEAST_FRAMES:
            raise NotTrainable(
                f"{subject} has {len(pictures)} kept frames with a face; {LEAST_FRAMES} are "
                "needed. Enroll them again with keep_frames, or leave them out."
            )
        validation, test = _FRACTIONS.counts(len(pictures))
        # By the hash of an id that was drawn at random: what frames show has no part in it, and
        # what is told of them (a digest) is no digest of a face.
        ranked = sorted((hashlib.sha256(name.encode()).hexdigest(), name) for name, _ in pictures)
        by_name = dict(pictures)
        for place, (digest, name) in enumerate(ranked):
            kind = 2 if place < test else 1 if place < test + validation else 0
            yield Example(Path(name), subject, SPLITS[kind], digest, by_name[name])

    def _portraits(self, subject: str) -> Iterator[tuple[str, bytes]]:
        for file_id in self.faces.frames.of(subject):
            self.work.check()
            try:
                frame = self.faces.frames.get(subject, file_id)
            except SubjectNotFound:
                raise
            except NotFound:
                continue  # gone between the two
            picture = self.cut(frame.content)
            if picture is not None:
                yield file_id, picture


@contextmanager
def _faces(settings: Settings) -> Iterator[Faces]:
    engine = open_engine(settings.database)
    try:
        yield Faces.of(settings, engine, lambda: datetime.now(UTC))
    finally:
        engine.dispose()
