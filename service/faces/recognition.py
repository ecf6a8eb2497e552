"""Detects, compares and identifies faces. The only place where the threshold decides a match."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi.concurrency import run_in_threadpool

from contracts.errors import OpsinError, ValidationFailed
from contracts.faces.faces import Decision, Face, FacesRequest
from contracts.faces.recognition import (
    DetectedFaces,
    Identification,
    IdentifiedFace,
    NamedCandidate,
    Verification,
)
from contracts.faces.subjects import Candidate, Threshold
from contracts.queue.messages import Vector
from service.dependencies import Services
from service.faces.detection import (
    Detection,
    detect_faces,
    main_face_index,
    require_acceptable,
)
from service.http.deadlines import Deadline
from service.http.uploads import Upload

# Reasons for which an attempt does not count as a failure: another person need not be involved.
_NOT_A_FAILURE = frozenset({"low_quality_face", "not_enrolled"})


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision, and the reason for it unless it is a match."""

    decision: Decision
    reason: str | None = None

    @property
    def is_failure(self) -> bool:
        """Whether another person may have tried; a poor image is not evidence of that."""
        return self.decision != "match" and self.reason not in _NOT_A_FAILURE


def judge_similarity(
    similarity: float, threshold: Threshold, others: Sequence[Candidate] = ()
) -> Verdict:
    """Decide whether a face belongs to the subject that it is compared with.

    Args:
        similarity: To the most similar template of the subject.
        others: The nearest other subjects, nearest first.
    """
    if similarity < threshold.similarity - threshold.margin:
        return Verdict("no_match", "not_similar")
    if similarity < threshold.similarity:
        return Verdict("uncertain", "near_threshold")
    if others and others[0].similarity > similarity - threshold.margin:
        return Verdict("uncertain", "another_subject")
    return Verdict("match")


def judge_candidates(candidates: Sequence[Candidate], threshold: Threshold) -> Verdict:
    """Decide whether the first candidate is the person; candidates are sorted, nearest first."""
    if not candidates:
        return Verdict("no_match", "not_similar")
    return judge_similarity(candidates[0].similarity, threshold, candidates[1:])


@dataclass(frozen=True, slots=True)
class VerificationInput:
    """What to compare: two images, or one image and a subject."""

    images: tuple[bytes, ...]
    subject_id: str | None


async def detect(
    services: Services, image: bytes, max_faces: int, deadline: Deadline
) -> DetectedFaces:
    """Detect the faces in an image.

    Raises:
        OpsinError: The image cannot be decoded, or no worker answers.
    """
    (detection,) = await detect_faces(
        services, [image], FacesRequest(max_faces=max_faces), deadline
    )
    return DetectedFaces(
        width=detection.width,
        height=detection.height,
        faces=list(detection.faces),
        total=detection.total,
    )


async def verify(
    services: Services, compared: VerificationInput, deadline: Deadline
) -> Verification:
    """Decide whether two faces belong to the same person; unlike a login, this returns scores.

    Raises:
        SubjectNotFound: There is no such subject.
        NoFace: One of the images shows no face.
        ManyFaces: One shows several, none clearly larger than the others.
        LowQualityFace: One of the faces is not clear enough.
        ValidationFailed: The subject has no templates.
        OpsinError: An image cannot be decoded, or no worker answers.
    """
    request = FacesRequest(embed=True, max_faces=2)
    detections = await detect_faces(services, compared.images, request, deadline)
    embedder = detections[0].embedder
    first, *others = [_embedding(detection) for detection in detections]
    if compared.subject_id is not None:
        others = await run_in_threadpool(_templates, services, compared.subject_id, embedder)
    similarity = max(float(first @ other) for other in others)
    threshold = await services.faces.effective_threshold(embedder)
    verdict = judge_similarity(similarity, threshold)
    return Verification(
        match=verdict.decision == "match",
        decision=verdict.decision,
        reason=verdict.reason,
        similarity=round(similarity, 4),
        threshold=threshold.similarity,
    )


async def identify(
    services: Services, image: bytes, max_candidates: int, deadline: Deadline
) -> Identification:
    """Find the subjects that the faces in an image may belong to.

    Raises:
        OpsinError: The image cannot be decoded, or no worker answers.
    """
    (detection,) = await detect_faces(services, [image], FacesRequest(embed=True), deadline)
    threshold = await services.faces.effective_threshold(detection.embedder)
    nearest = await run_in_threadpool(_nearest, services, detection, threshold, max_candidates)
    ids = {candidate.subject_id for candidates in nearest for candidate in candidates}
    names = await run_in_threadpool(services.faces.subjects.names, sorted(ids))
    return Identification(
        faces=[
            _identified(face, candidates, threshold, names, max_candidates)
            for face, candidates in zip(detection.faces, nearest, strict=True)
        ],
        threshold=threshold.similarity,
    )


def require_one_image(uploads: list[Upload]) -> bytes:
    """The one image of a request.

    Raises:
        ValidationFailed: There are several.
        OpsinError: It was refused, e.g. for its size.
    """
    if len(uploads) > 1:
        raise ValidationFailed("Send one image at a time.")
    data = uploads[0].data
    if isinstance(data, OpsinError):
        raise data
    return data


def _embedding(detection: Detection) -> Vector:
    index = main_face_index(detection)
    require_acceptable(detection.faces[index])
    embedding: Vector = detection.vectors[index]
    return embedding


def _templates(services: Services, subject_id: str, embedder: str) -> list[Vector]:
    templates = services.faces.templates.of_subject(subject_id, embedder=embedder)
    if not templates:
        raise ValidationFailed(
            f"The subject has no templates yet. Enroll it: POST /v1/faces/subjects/{subject_id}"
            "/enrollments."
        )
    return [template.vector for template in templates]


def _nearest(
    services: Services, detection: Detection, threshold: Threshold, max_candidates: int
) -> list[list[Candidate]]:
    return services.faces.search.nearest(
        detection.vectors,
        embedder=detection.embedder,
        min_similarity=threshold.similarity - threshold.margin,
        limit=max_candidates + 1,
    )


def _identified(
    face: Face,
    candidates: list[Candidate],
    threshold: Threshold,
    names: dict[str, str],
    max_candidates: int,
) -> IdentifiedFace:
    verdict = judge_candidates(candidates, threshold)
    if not face.quality.acceptable and candidates:
        verdict = Verdict("uncertain", "low_quality_face")
    return IdentifiedFace(
        box=face.box,
        decision=verdict.decision,
        reason=verdict.reason,
        # A subject below the threshold makes the decision uncertain but is not a candidate.
        candidates=[
            NamedCandidate(
                subject_id=candidate.subject_id,
                name=names[candidate.subject_id],
                similarity=round(candidate.similarity, 4),
            )
            for candidate in candidates[:max_candidates]
            if candidate.similarity >= threshold.similarity and candidate.subject_id in names
        ],
    )
