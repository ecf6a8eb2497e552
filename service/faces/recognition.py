"""Faces found, compared and named: what the routes of faces answer.

Is it the one? Similarities in, a decision out; the only place where the threshold decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi.concurrency import run_in_threadpool

from contracts.errors import OpsinError, ValidationFailed
from contracts.faces.faces import Decision, Face, FacesAsk
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
from service.faces.detection import Found, find, require_clear, the_face
from service.http.deadlines import Deadline
from service.http.uploads import Upload


@dataclass(frozen=True, slots=True)
class Pair:
    """What is to be compared: two pictures, or one and a subject."""

    images: tuple[bytes, ...]
    subject_id: str | None


async def detect(services: Services, image: bytes, most: int, deadline: Deadline) -> DetectedFaces:
    """The faces of a picture.

    Raises:
        OpsinError: The picture cannot be read, or no worker answers.
    """
    (found,) = await find(services, [image], FacesAsk(most=most), deadline)
    return DetectedFaces(
        width=found.width, height=found.height, faces=list(found.faces), total=found.total
    )


async def verify(services: Services, pair: Pair, deadline: Deadline) -> Verification:
    """Whether two faces are one person's; scores are told, unlike in a login.

    Raises:
        SubjectNotFound: There is no such subject.
        NoFace: There is none in one of the pictures.
        ManyFaces: There are several in one, none clearly before the others.
        LowQualityFace: One cannot be told well enough.
        ValidationFailed: The subject has no templates.
        OpsinError: A picture cannot be read, or no worker answers.
    """
    found = await find(services, pair.images, FacesAsk(embed=True, most=2), deadline)
    first, *rest = [_clear(one) for one in found]
    if pair.subject_id is not None:
        rest = await run_in_threadpool(_templates, services, pair.subject_id, found[0].embedder)
    similarity = max(float(first @ other) for other in rest)
    threshold = await services.faces.threshold(found[0].embedder)
    verdict = judged(similarity, threshold)
    return Verification(
        match=verdict.decision == "match",
        decision=verdict.decision,
        reason=verdict.reason,
        similarity=round(similarity, 4),
        threshold=threshold.similarity,
    )


async def identify(
    services: Services, image: bytes, most: int, deadline: Deadline
) -> Identification:
    """Who the faces of a picture may be, among all subjects.

    Raises:
        OpsinError: The picture cannot be read, or no worker answers.
    """
    (found,) = await find(services, [image], FacesAsk(embed=True), deadline)
    threshold = await services.faces.threshold(found.embedder)
    near = await run_in_threadpool(_near, services, found, threshold, most)
    known = {one.subject_id for some in near for one in some}
    names = await run_in_threadpool(services.faces.kept.subjects.names, sorted(known))
    return Identification(
        faces=[
            _identified(face, some, threshold, names, most)
            for face, some in zip(found.faces, near, strict=True)
        ],
        threshold=threshold.similarity,
    )


def the_image(uploads: list[Upload]) -> bytes:
    """The one image of a request.

    Raises:
        ValidationFailed: There are several.
        OpsinError: It was not taken, e.g. for its size.
    """
    if len(uploads) > 1:
        raise ValidationFailed("Send one image at a time.")
    data = uploads[0].data
    if isinstance(data, OpsinError):
        raise data
    return data


def _clear(found: Found) -> Vector:
    at = the_face(found)
    require_clear(found.faces[at])
    one: Vector = found.vectors[at]
    return one


def _templates(services: Services, subject_id: str, embedder: str) -> list[Vector]:
    templates = services.faces.kept.templates.of(subject_id, embedder=embedder)
    if not templates:
        raise ValidationFailed(
            f"The subject has no templates yet. Enroll it: POST /v1/faces/subjects/{subject_id}"
            "/enrollments."
        )
    return [one.vector for one in templates]


def _near(
    services: Services, found: Found, threshold: Threshold, most: int
) -> list[list[Candidate]]:
    return services.faces.search.nearest(
        found.vectors,
        embedder=found.embedder,
        above=threshold.similarity - threshold.margin,
        most=most + 1,
    )


def _identified(
    face: Face, near: list[Candidate], threshold: Threshold, names: dict[str, str], most: int
) -> IdentifiedFace:
    verdict = identified(near, threshold)
    if not face.quality.acceptable and near:
        verdict = Verdict("uncertain", "low_quality_face")
    return IdentifiedFace(
        box=face.box,
        decision=verdict.decision,
        reason=verdict.reason,
        # Who is under the threshold makes the decision uncertain and is nobody's candidate.
        candidates=[
            NamedCandidate(
                subject_id=one.subject_id,
                name=names[one.subject_id],
                similarity=round(one.similarity, 4),
            )
            for one in near[:most]
            if one.similarity >= threshold.similarity and one.subject_id in names
        ],
    )


_HARMLESS = frozenset({"low_quality_face", "not_enrolled"})


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision, and what it rests on where it is no match."""

    decision: Decision
    reason: str | None = None

    @property
    def is_failure(self) -> bool:
        """Whether another person may have tried; a bad picture says nothing of that."""
        return self.decision != "match" and self.reason not in _HARMLESS


def judged(similarity: float, threshold: Threshold, others: Sequence[Candidate] = ()) -> Verdict:
    """Whether a face is the one it is compared with.

    Args:
        similarity: To the best template of the one.
        threshold: What is in force.
        others: The nearest other subjects, the nearest first.
    """
    if similarity < threshold.similarity - threshold.margin:
        return Verdict("no_match", "not_similar")
    if similarity < threshold.similarity:
        return Verdict("uncertain", "near_threshold")
    if others and others[0].similarity > similarity - threshold.margin:
        return Verdict("uncertain", "another_subject")
    return Verdict("match")


def identified(candidates: Sequence[Candidate], threshold: Threshold) -> Verdict:
    """Whether it is clear who somebody is.

    Args:
        candidates: The nearest subjects, the nearest first.
        threshold: What is in force.
    """
    if not candidates:
        return Verdict("no_match", "not_similar")
    return judged(candidates[0].similarity, threshold, candidates[1:])
