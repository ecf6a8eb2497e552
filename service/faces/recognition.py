"""Detects, compares and identifies faces."""

from collections.abc import Container
from dataclasses import dataclass

from fastapi import Request

from contracts.errors import OpsinError, ValidationFailed
from contracts.faces.faces import Face, FacesRequest
from contracts.faces.recognition import (
    DetectedFaces,
    Identification,
    IdentifiedFace,
    NamedCandidate,
    Verification,
)
from contracts.faces.subjects import Candidate, Threshold
from contracts.queue.messages import Vector
from database.faces.standings import has_consent
from service.dependencies import Services
from service.faces.context import FaceServices
from service.faces.decisions import Verdict, judge_candidates, judge_similarity
from service.faces.detection import (
    Detection,
    detect_faces,
    main_face_index,
    require_acceptable,
)
from service.faces.locks.attempts import attempt, caller_of
from service.http.deadlines import Deadline
from service.http.uploads import Upload
from service.threads import run_in_threadpool


@dataclass(frozen=True, slots=True)
class VerificationInput:
    """What to compare: two images, or one image and a subject.

    Attributes:
        device_id: Of the device that sent them, if it says so.
    """

    images: tuple[bytes, ...]
    subject_id: str | None
    device_id: str | None = None


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
    services: Services, request: Request, compared: VerificationInput, deadline: Deadline
) -> Verification:
    """Decide whether two faces belong to the same person; unlike a login, this returns scores.

    A comparison with a subject is under the same locks as a login, since its score would otherwise
    tell what a locked login hides.

    Raises:
        SubjectNotFound: There is no such subject.
        LockedOut: There were too many failures.
        Conflict: The subject has not consented.
        NoFace: One of the images shows no face.
        ManyFaces: One shows several, none clearly larger than the others.
        LowQualityFace: One of the faces is not clear enough.
        ValidationFailed: The subject has no templates.
        OpsinError: An image cannot be decoded, or no worker answers.
    """
    if compared.subject_id is None:
        return _verification(*await _compare(services, compared, deadline))
    faces = services.faces
    policy = await run_in_threadpool(faces.repositories.policy.get)
    caller = await caller_of(faces, request, compared.device_id)
    async with attempt(faces, compared.subject_id, caller, policy) as judgment:
        verdict, similarity, threshold = await _compare(services, compared, deadline)
        judgment.verdict = verdict
    return _verification(verdict, similarity, threshold)


async def _compare(
    services: Services, compared: VerificationInput, deadline: Deadline
) -> tuple[Verdict, float, Threshold]:
    request = FacesRequest(embed=True, max_faces=2)
    detections = await detect_faces(services, compared.images, request, deadline)
    embedder = detections[0].embedder
    first, *others = [_embedding(detection) for detection in detections]
    if compared.subject_id is not None:
        others = await run_in_threadpool(_templates, services, compared.subject_id, embedder)
    similarity = max(float(first @ other) for other in others)
    threshold = await services.faces.effective_threshold(embedder)
    return judge_similarity(similarity, threshold), similarity, threshold


def _verification(verdict: Verdict, similarity: float, threshold: Threshold) -> Verification:
    return Verification(
        match=verdict.decision == "match",
        decision=verdict.decision,
        reason=verdict.reason,
        similarity=round(similarity, 4),
        threshold=threshold.similarity,
    )


async def identify(
    services: Services, request: Request, image: bytes, max_candidates: int, deadline: Deadline
) -> Identification:
    """Find the subjects that the faces in an image may belong to.

    Raises:
        LockedOut: The client has to wait after failures.
        OpsinError: The image cannot be decoded, or no worker answers.
    """
    await services.faces.lockout.require_open(await caller_of(services.faces, request, None))
    (detection,) = await detect_faces(services, [image], FacesRequest(embed=True), deadline)
    threshold = await services.faces.effective_threshold(detection.embedder)
    wanted = max_candidates + 1  # one more than is shown may make the decision uncertain
    nearest, names = await _candidates(services, detection, threshold, wanted)
    faces = [
        _identified(face, candidates, threshold, names, max_candidates)
        for face, candidates in zip(detection.faces, nearest, strict=True)
    ]
    matched = {face.candidates[0].subject_id for face in faces if face.decision == "match"}
    if matched:  # otherwise retention would erase people who are identified every day
        await run_in_threadpool(services.faces.repositories.standings.record_uses, matched)
    return Identification(faces=faces, threshold=threshold.similarity)


async def _candidates(
    services: Services, detection: Detection, threshold: Threshold, wanted: int
) -> tuple[list[list[Candidate]], dict[str, str | None]]:
    """The nearest subjects of each face, and `_usable` of all of them.

    Those who may not be identified take no places of others, up to hundreds for each place.
    """
    nearest: list[list[Candidate]] = [[] for _ in detection.faces]
    names: dict[str, str | None] = {}
    seen, lacking = set[str](), list(range(len(nearest)))
    for limit in (wanted, 8 * wanted, 64 * wanted, 512 * wanted):
        if not lacking:
            break
        vectors = detection.vectors[lacking]
        found = await run_in_threadpool(
            services.faces.search.nearest,
            vectors,
            embedder=detection.embedder,
            min_similarity=threshold.similarity - threshold.margin,
            limit=limit,
        )
        for index, candidates in zip(lacking, found, strict=True):
            nearest[index] = candidates
        ids = {candidate.subject_id for candidates in found for candidate in candidates} - seen
        names |= await _usable(services.faces, sorted(ids))
        seen |= ids
        lacking = [i for i in lacking if _may_lack(nearest[i], names, wanted, limit)]
    return nearest, names


async def _usable(faces: FaceServices, ids: list[str]) -> dict[str, str | None]:
    """The names of the subjects who may be identified; None for one who is locked.

    Subjects who are unknown, or without a consent that is required, are left out.
    """
    policy = await run_in_threadpool(faces.repositories.policy.get)
    standings = await run_in_threadpool(faces.repositories.standings.of, ids)
    usable = {one: standing for one, standing in standings.items() if has_consent(standing, policy)}
    locked = await faces.lockout.locked(list(usable))
    return {
        subject_id: None if standing.disabled or subject_id in locked else standing.name
        for subject_id, standing in usable.items()
    }


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


def _may_lack(candidates: list[Candidate], usable: Container[str], wanted: int, limit: int) -> bool:
    """Whether those who may not be identified have taken the places of some who may."""
    found = sum(candidate.subject_id in usable for candidate in candidates)
    return found < wanted and len(candidates) == limit


def _identified(
    face: Face,
    candidates: list[Candidate],
    threshold: Threshold,
    names: dict[str, str | None],
    max_candidates: int,
) -> IdentifiedFace:
    candidates = [candidate for candidate in candidates if candidate.subject_id in names]
    verdict = judge_candidates(candidates, threshold)
    if not face.quality.acceptable and candidates:
        verdict = Verdict("uncertain", "low_quality_face")
    elif candidates and names[candidates[0].subject_id] is None:
        verdict = Verdict("uncertain", "locked_out")
    return IdentifiedFace(
        box=face.box,
        decision=verdict.decision,
        reason=verdict.reason,
        # A subject below the threshold makes the decision uncertain but is not a candidate.
        candidates=[
            NamedCandidate(
                subject_id=candidate.subject_id,
                name=name,
                similarity=round(candidate.similarity, 4),
            )
            for candidate in candidates[:max_candidates]
            if candidate.similarity >= threshold.similarity
            and (name := names[candidate.subject_id]) is not None
        ],
    )
