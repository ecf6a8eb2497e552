"""An enrollment done by a job: from a video or images to templates that are kept, once.

The ids of the templates come from the job's, and they replace themselves: killed after they were
written and before the job was ended, the next attempt writes the same again.
"""

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import cv2
import numpy as np
import redis

from contracts.errors import Conflict, InvalidImage, InvalidVideo, OpsinError
from contracts.faces.enrollments import (
    VIDEO,
    EnrollmentRequest,
    EnrollmentResult,
    FrameCounts,
    image_name,
)
from contracts.faces.faces import DOMINATES
from contracts.faces.liveness import Liveness
from contracts.faces.subjects import (
    MOST_TEMPLATES,
    Frame,
    NewEvent,
    NewTemplate,
    TemplateSource,
    embedder_of,
)
from contracts.jobs import Progress
from contracts.queue.celery import REDIS_OPTIONS
from contracts.settings import Settings
from contracts.work import Work
from database.engine import open_engine
from database.faces.faces import Faces
from models.faces import enrollment
from models.faces.analyser import FaceAnalyser, open_analyser
from models.faces.detection.detection import FoundFace
from models.faces.enrollment import Selection, Shot, gated
from models.faces.liveness.actions import baseline_of, states_of
from models.faces.liveness.clip import Watched, watch
from models.faces.liveness.verdict import verdict_of
from models.faces.liveness.video import VideoLimits, read_frames
from models.images.decode import upright
from models.store.store import Store
from workers.inference.liveness import SeenClips
from workers.jobs.identity import Identity

_JPEG_QUALITY = 95
_ACTING = {"close_eyes", "open_mouth", "several"}


@dataclass(frozen=True, slots=True)
class Looked:
    """What the input holds.

    Attributes:
        shots: Frame by frame, or image by image.
        source: What they come from.
        liveness: Of a challenge that was answered.
    """

    shots: Sequence[Shot]
    source: TemplateSource
    liveness: Liveness | None = None


def run(work: Work, settings: Settings) -> dict[str, Any]:
    """Enroll a subject; `work.request` is an `EnrollmentRequest`.

    Returns:
        An `EnrollmentResult` as JSON.

    Raises:
        SubjectNotFound: There is no such subject (any more).
        InvalidVideo: The video cannot be read, or does not answer its challenge.
        NoFace: There is none.
        ManyFaces: It shows more than one person.
        LowQualityFace: Nothing is fit to be a template.
        Conflict: It is another face than the subject's, or somebody else's, or the subject has
            enough templates.
        Unavailable: Database, disk or Redis do not answer; the job is tried again.
        WorkStoppedError: The job was cancelled. Nothing was kept.
    """
    with ExitStack() as stack:
        engine = open_engine(settings.database)
        stack.callback(engine.dispose)
        faces = Faces.of(settings, engine, lambda: datetime.now(UTC))
        analyser = open_analyser(settings, Store(settings.store_home), threads=settings.job_threads)
        return Enrollment(work, settings, faces, analyser).run().model_dump(mode="json")


class Enrollment:
    """One attempt.

    Args:
        work: What is asked.
        settings: Limits, and where the other clips are remembered.
        faces: Where templates are kept.
        analyser: Finds and embeds.
    """

    def __init__(
        self, work: Work, settings: Settings, faces: Faces, analyser: FaceAnalyser
    ) -> None:
        self._work = work
        self._settings = settings
        self._faces = faces
        self._analyser = analyser
        self._asked = EnrollmentRequest.model_validate(work.request)
        self._embedder = embedder_of(analyser.version)
        self._identity = Identity(
            faces, self._asked.subject_id, self._embedder, self._ids(enrollment.MOST_TEMPLATES)
        )

    def run(self) -> EnrollmentResult:
        """All of it; the outcome is in the audit, whichever it is."""
        try:
            result = self._enroll()
        except OpsinError as error:
            self._tell(error.code)
            raise
        self._tell("enrolled")
        return result

    def _enroll(self) -> EnrollmentResult:
        most = self._room()
        looked = self._images() if self._asked.images else self._video()
        self._progress(0.7, "embed")
        selection = enrollment.select(
            looked.shots,
            self._analyser,
            most=min(most, enrollment.MOST_TEMPLATES),
            thin=looked.source == "video",
            between=self._work.check,
        )
        self._progress(0.9, "compare")
        selection = self._own(looked, selection)
        self._work.check()
        self._keep(looked, selection)
        return EnrollmentResult(
            subject_id=self._asked.subject_id,
            templates_added=len(selection.chosen),
            frames=FrameCounts(
                read=len(looked.shots), used=len(selection.chosen), rejected=selection.rejected
            ),
            liveness=looked.liveness,
        )

    def _room(self) -> int:
        """How many templates the subject may still have; those of an attempt before not counted."""
        mine = set(self._ids(enrollment.MOST_TEMPLATES))
        have = self._faces.templates.of(self._asked.subject_id, embedder=self._embedder)
        room = MOST_TEMPLATES - sum(one.id not in mine for one in have)
        if room < 1:
            raise Conflict(
                f"The subject has {MOST_TEMPLATES} templates, the most there may be. Delete it "
                "and enroll anew."
            )
        return room

    def _video(self) -> Looked:
        data = (self._work.folder / VIDEO).read_bytes()
        limits, challenge = VideoLimits.of(self._settings), self._asked.challenge
        with closing(read_frames(data, limits, self._work.check)) as frames:
            if challenge is None:
                watched = watch(frames, self._analyser, self._watching)
                return Looked(_shots(watched), "video")
            verdict = verdict_of(
                frames,
                challenge.actions,
                self._analyser,
                earlier=lambda looks: self._earlier(challenge.id, looks),
                between=self._work.check,
            )
        if not verdict.liveness.live:
            self._work.metrics({"liveness": verdict.liveness.model_dump(mode="json")})
            told = " ".join(fault.detail for fault in verdict.liveness.faults)
            raise InvalidVideo(f"The video does not answer the challenge. {told}")
        return Looked(_shots(verdict.watched), "video", verdict.liveness)

    def _earlier(self, challenge_id: str, looks: Sequence[bytes]) -> list[list[bytes]]:
        if self._settings.redis_url is None:
            return []
        with redis.Redis.from_url(self._settings.redis_url, **REDIS_OPTIONS) as client:
            return SeenClips(client).put(self._asked.subject_id, challenge_id, looks)

    def _images(self) -> Looked:
        shots = []
        for at in range(self._asked.images):
            self._watching(at / self._asked.images * self._settings.max_video_seconds)
            data = (self._work.folder / image_name(at)).read_bytes()
            try:
                picture = upright(data, max_pixels=self._settings.max_image_pixels)
            except InvalidImage:
                shots.append(Shot(None, "unreadable"))
                continue
            found = self._analyser.find(np.asarray(picture), 2)
            shots.append(gated(found[0] if found else None, faces=_that_matter(found)))
        return Looked(shots, "image")

    def _watching(self, at: float) -> None:
        """Tell how far it is, at a time of the clip."""
        self._progress(0.7 * min(1.0, at / self._settings.max_video_seconds), "watch")

    def _progress(self, fraction: float, phase: str) -> None:
        self._work.progress(Progress(fraction=fraction, phase=phase))

    def _own(self, looked: Looked, selection: Selection) -> Selection:
        """What is the subject's own of the selection; the rest is told as rejected."""
        mine = self._identity.of(selection.vectors, looked.source)
        others = int(np.count_nonzero(~mine))
        if not others:
            return selection
        return Selection(
            tuple(at for at, own in zip(selection.chosen, mine, strict=True) if own),
            selection.vectors[mine],
            dict(sorted((selection.rejected | {"different_person": others}).items())),
        )

    def _keep(self, looked: Looked, selection: Selection) -> None:
        ids = self._ids(enrollment.MOST_TEMPLATES)
        templates = []
        for at, shot, vector in zip(ids, selection.chosen, selection.vectors, strict=False):
            found = looked.shots[shot].found
            if found is None:
                raise RuntimeError("a shot without a face was chosen")
            frame = Frame("image/jpeg", _jpeg(found.chip))
            quality = found.face.quality
            templates.append(NewTemplate(vector, quality, looked.source, frame, id=at))
        self._faces.templates.add(
            self._asked.subject_id,
            templates,
            embedder=self._embedder,
            replacing=ids,
            last_look=partial(self._identity.require_still, selection.vectors, looked.source),
        )

    def _ids(self, count: int) -> list[str]:
        """Of the templates of this job, the same at every attempt."""
        seeds = [f"{self._work.job_id}:{at}".encode() for at in range(count)]
        return [f"tpl_{hashlib.sha256(seed).hexdigest()[:24]}" for seed in seeds]

    def _tell(self, outcome: str) -> None:
        self._faces.events.record(
            NewEvent(kind="enrollment", outcome=outcome, subject_id=self._asked.subject_id)
        )


def _that_matter(found: Sequence[FoundFace]) -> int:
    """How many faces a picture is of: somebody in the background does not count."""
    boxes = [one.face.box for one in found]
    return sum(
        DOMINATES * box.width * box.height > boxes[0].width * boxes[0].height for box in boxes
    )


def _shots(watched: Watched) -> list[Shot]:
    """The frames of a clip, each with the reason against it."""
    track = watched.track
    states = states_of(track, baseline_of(track))
    return [
        gated(found, faces=frame.faces, acting=state in _ACTING)
        for found, frame, state in zip(watched.found, track.frames, states, strict=True)
    ]


def _jpeg(chip: "np.ndarray[Any, np.dtype[np.uint8]]") -> bytes:
    """The straightened face as a file: what a template can be made from again."""
    whole, data = cv2.imencode(
        ".jpg", cv2.cvtColor(chip, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    )
    if not whole:
        raise RuntimeError("the face cannot be written as JPEG")
    return bytes(data)
