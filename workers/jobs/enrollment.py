"""The enrollment job: creates templates from a video or images.

The ids of the templates are derived from the job's id, and adding them replaces those with the same
ids. If the process is killed after writing them, the next attempt writes the same ones again.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import cv2
import numpy as np
import redis
import structlog

from contracts.errors import Conflict, InvalidImage, InvalidVideo, NotFound, OpsinError, Unavailable
from contracts.faces.enrollments import (
    VIDEO,
    EnrollmentRequest,
    EnrollmentResult,
    FrameCounts,
    image_name,
)
from contracts.faces.faces import FACE_MODEL, MIN_AREA_RATIO
from contracts.faces.liveness import Liveness
from contracts.faces.subjects import (
    MAX_TEMPLATES,
    NewEvent,
    NewTemplate,
    StoredFrame,
    TemplateSource,
    embedder_of,
)
from contracts.jobs import Progress
from contracts.queue.celery import REDIS_OPTIONS
from contracts.queue.messages import Pixels, Vector
from contracts.settings import Settings
from contracts.work import Work
from database.engine import open_engine
from database.faces.repositories import FaceRepositories
from database.faces.standings import require_consent
from models.faces.analyzer import FaceAnalyzer, open_analyzer, open_embedder
from models.faces.detection.detection import DetectedFace
from models.faces.enrollment import (
    MAX_TEMPLATES_PER_ENROLLMENT,
    FrameCandidate,
    Selection,
    check_frame,
    select_templates,
)
from models.faces.liveness.actions import baseline_of, states_of
from models.faces.liveness.clip import TrackedClip, track_clip
from models.faces.liveness.verdict import judge_clip
from models.faces.liveness.video import VideoLimits, read_frames
from models.images.decode import decode_upright
from models.store.store import Store
from workers.inference.liveness import RecentClips
from workers.jobs.identity import IdentityCheck

log = structlog.get_logger()

_JPEG_QUALITY = 95
_ACTING = {"close_eyes", "open_mouth", "several"}


@dataclass(frozen=True, slots=True)
class AnalyzedInput:
    """The frames of the video, or the images.

    Attributes:
        liveness: Of the challenge that was answered, if any.
    """

    frames: Sequence[FrameCandidate]
    source: TemplateSource
    liveness: Liveness | None = None


def run(work: Work, settings: Settings) -> dict[str, Any]:
    """Enroll a subject; `work.request` is an `EnrollmentRequest`.

    Returns:
        An `EnrollmentResult` as JSON.

    Raises:
        SubjectNotFound: There is no such subject, or it was erased in the meantime.
        InvalidVideo: The video cannot be read, or does not answer its challenge.
        NoFace: No frame shows a face.
        ManyFaces: The frames show more than one person.
        LowQualityFace: No frame can become a template.
        Conflict: The subject has no consent that is required or the maximum number of templates,
            or the face differs from the subject's or belongs to another subject.
        Unavailable: The database, the disk or Redis does not answer; the job is repeated.
        WorkStoppedError: The job was cancelled. Nothing was stored.
    """
    with ExitStack() as stack:
        engine = open_engine(settings.database)
        stack.callback(engine.dispose)
        faces = FaceRepositories.of(settings, engine, lambda: datetime.now(UTC))
        analyzer = _analyzer(settings)
        return Enrollment(work, settings, faces, analyzer).run().model_dump(mode="json")


_kept: dict[int, FaceAnalyzer] = {}
"""The analyzer of the last enrollment in this process, by the version of its embedder."""


def _analyzer(settings: Settings) -> FaceAnalyzer:
    store = Store(settings.store_home)
    if _kept:
        kept = _kept.get(store.resolve(FACE_MODEL))
        if kept is not None:
            return kept
        _kept.clear()
    analyzer = open_analyzer(settings, store, threads=settings.job_threads)
    _kept[analyzer.version] = analyzer
    return analyzer


_earlier: dict[str, Callable[[Pixels], Vector]] = {}
"""The earlier embedders that templates of the last enrollment in this process were computed by."""


def _embed_by(embedder: str, crops: Pixels, settings: Settings) -> Vector | None:
    """Embed crops (n, 150, 150, 3) by an earlier embedder; None if it was deleted or is damaged."""
    try:
        if embedder not in _earlier:
            version = int(embedder.rpartition(":")[2])
            _earlier[embedder] = open_embedder(
                settings, Store(settings.store_home), version, threads=settings.job_threads
            )
        return _earlier[embedder](crops)
    except NotFound:
        return None
    except Unavailable:
        raise
    except Exception:  # whatever a damaged file makes of TensorFlow and OpenVINO
        log.exception("earlier_embedder_unusable", embedder=embedder)
        return None


class Enrollment:
    """One attempt of an enrollment."""

    def __init__(
        self, work: Work, settings: Settings, faces: FaceRepositories, analyzer: FaceAnalyzer
    ) -> None:
        self._work = work
        self._settings = settings
        self._faces = faces
        self._analyzer = analyzer
        self._request = EnrollmentRequest.model_validate(work.request)
        self._embedder = embedder_of(analyzer.version)
        self._template_ids = _template_ids(work.job_id)
        self._damaged: list[str] = []  # ids of templates
        self._identity = IdentityCheck(
            faces, self._request.subject_id, self._embedder, self._template_ids
        )

    def run(self) -> EnrollmentResult:
        """Run the attempt and record its outcome in the audit log."""
        try:
            result = self._enroll()
        except OpsinError as error:
            self._record(error.code)
            raise
        self._record("enrolled")
        return result

    def _enroll(self) -> EnrollmentResult:
        self._require_consent()
        capacity = self._remaining_templates()
        analyzed = self._analyse_images() if self._request.images else self._analyse_video()
        self._progress(0.7, "embed")
        selection = select_templates(
            analyzed.frames,
            self._analyzer,
            limit=min(capacity, MAX_TEMPLATES_PER_ENROLLMENT),
            skip_similar=analyzed.source == "video",
            min_similarity=self._identity.similarity_within(),
            check=self._work.check,
        )
        self._progress(0.9, "compare")
        selection = self._reject_other_people(analyzed, selection)
        self._work.check()
        self._store(analyzed, selection)
        return EnrollmentResult(
            subject_id=self._request.subject_id,
            templates_added=len(selection.chosen),
            frames=FrameCounts(
                read=len(analyzed.frames),
                used=len(selection.chosen),
                rejected=selection.rejected,
            ),
            liveness=analyzed.liveness,
        )

    def _require_consent(self) -> None:
        """It may have been withdrawn since the job was accepted, which may be hours ago."""
        standing = self._faces.standings.get(self._request.subject_id)
        require_consent(standing, self._faces.policy.get())

    def _remaining_templates(self) -> int:
        """How many may be added; those of an earlier attempt and damaged ones are replaced."""
        templates, self._damaged = self._faces.templates.readable(
            self._request.subject_id, embedder=self._embedder
        )
        earlier = set(self._template_ids)
        capacity = MAX_TEMPLATES - sum(template.id not in earlier for template in templates)
        if capacity < 1:
            raise Conflict(
                f"The subject has {MAX_TEMPLATES} templates, which is the maximum. Delete the "
                "subject and enroll it again."
            )
        return capacity

    def _analyse_video(self) -> AnalyzedInput:
        data = (self._work.folder / VIDEO).read_bytes()
        limits, challenge = VideoLimits.of(self._settings), self._request.challenge
        with closing(read_frames(data, limits, self._work.check)) as frames:
            if challenge is None:
                clip = track_clip(frames, self._analyzer, self._report_position)
                return AnalyzedInput(_candidates(clip), "video")
            verdict = judge_clip(
                frames,
                challenge.actions,
                self._analyzer,
                exchange_hashes=partial(self._exchange_hashes, challenge.id),
                check=self._work.check,
            )
        if not verdict.liveness.live:
            self._work.metrics({"liveness": verdict.liveness.model_dump(mode="json")})
            details = " ".join(fault.detail for fault in verdict.liveness.faults)
            raise InvalidVideo(f"The video does not answer the challenge. {details}")
        return AnalyzedInput(_candidates(verdict.clip), "video", verdict.liveness)

    def _exchange_hashes(self, challenge_id: str, hashes: Sequence[bytes]) -> list[list[bytes]]:
        if self._settings.redis_url is None:
            return []
        with redis.Redis.from_url(self._settings.redis_url, **REDIS_OPTIONS) as client:
            return RecentClips(client).add(
                self._request.subject_id, challenge_id, hashes, purpose="enroll"
            )

    def _analyse_images(self) -> AnalyzedInput:
        candidates = []
        for index in range(self._request.images):
            share = index / self._request.images
            self._report_position(share * self._settings.max_video_seconds)
            data = (self._work.folder / image_name(index)).read_bytes()
            try:
                image = decode_upright(data, max_pixels=self._settings.max_image_pixels)
            except InvalidImage:
                candidates.append(FrameCandidate(None, "unreadable"))
                continue
            faces = self._analyzer.find(np.asarray(image), 2)
            candidates.append(check_frame(faces[0] if faces else None, faces=_main_faces(faces)))
        return AnalyzedInput(candidates, "image")

    def _report_position(self, seconds: float) -> None:
        """Report the progress at a position in the clip."""
        self._progress(0.7 * min(1.0, seconds / self._settings.max_video_seconds), "watch")

    def _progress(self, fraction: float, phase: str) -> None:
        self._work.progress(Progress(fraction=fraction, phase=phase))

    def _reject_other_people(self, analyzed: AnalyzedInput, selection: Selection) -> Selection:
        """Move the faces of other people from the selected frames to the rejected ones."""
        embeddings = self._embeddings(analyzed, selection)
        accepted = self._identity.accepted(embeddings, analyzed.source)
        others = int(np.count_nonzero(~accepted))
        if not others:
            return selection
        chosen = zip(selection.chosen, accepted, strict=True)
        return Selection(
            tuple(index for index, is_accepted in chosen if is_accepted),
            selection.vectors[accepted],
            dict(sorted((selection.rejected | {"different_person": others}).items())),
        )

    def _embeddings(self, analyzed: AnalyzedInput, selection: Selection) -> dict[str, Vector]:
        """The selected faces by every embedder in use, the current one first."""
        embeddings = {self._embedder: selection.vectors}
        faces = [analyzed.frames[index].face for index in selection.chosen]
        crops = np.stack([face.crop for face in faces if face is not None])
        earlier = self._faces.templates.embedders() - {self._embedder}
        for embedder in sorted(earlier):
            self._work.check()
            vectors = _embed_by(embedder, crops, self._settings)
            if vectors is not None:
                embeddings[embedder] = vectors
        for unused in _earlier.keys() - earlier:
            del _earlier[unused]
        return embeddings

    def _store(self, analyzed: AnalyzedInput, selection: Selection) -> None:
        embeddings = self._embeddings(analyzed, selection)
        templates = []
        for template_id, index, vector in zip(
            self._template_ids, selection.chosen, selection.vectors, strict=False
        ):
            face = analyzed.frames[index].face
            if face is None:
                raise RuntimeError("a frame without a face was selected")
            templates.append(
                NewTemplate(
                    vector,
                    face.face.quality,
                    analyzed.source,
                    StoredFrame("image/jpeg", _encode_jpeg(face.crop)),
                    id=template_id,
                )
            )
        self._faces.templates.add(
            self._request.subject_id,
            templates,
            embedder=self._embedder,
            replacing=[*self._template_ids, *self._damaged],
            final_check=partial(self._final_check, embeddings, analyzed.source),
        )

    def _final_check(self, embeddings: dict[str, Vector], source: TemplateSource) -> None:
        self._require_consent()
        self._identity.recheck(embeddings, source)

    def _record(self, outcome: str) -> None:
        self._faces.events.record(
            NewEvent(kind="enrollment", outcome=outcome, subject_id=self._request.subject_id)
        )


def _template_ids(job_id: str) -> list[str]:
    """The ids of a job's templates, the same in every attempt."""
    seeds = [f"{job_id}:{number}".encode() for number in range(MAX_TEMPLATES_PER_ENROLLMENT)]
    return [f"tpl_{hashlib.sha256(seed).hexdigest()[:24]}" for seed in seeds]


def _main_faces(faces: Sequence[DetectedFace]) -> int:
    """Number of faces that an image is of; people in the background do not count."""
    areas = [face.face.box.width * face.face.box.height for face in faces]
    return sum(MIN_AREA_RATIO * area > areas[0] for area in areas)


def _candidates(clip: TrackedClip) -> list[FrameCandidate]:
    """The frames of a clip, each with the reason against it."""
    track = clip.track
    states = states_of(track, baseline_of(track))
    return [
        check_frame(face, faces=frame.faces, acting=state in _ACTING)
        for face, frame, state in zip(clip.faces, track.frames, states, strict=True)
    ]


def _encode_jpeg(crop: Pixels) -> bytes:
    """The aligned face as a file, from which a template can be recomputed."""
    succeeded, data = cv2.imencode(
        ".jpg", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    )
    if not succeeded:
        raise RuntimeError("the face cannot be encoded as JPEG")
    return bytes(data)
