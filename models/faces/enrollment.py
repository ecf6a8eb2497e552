"""Selects the frames that become templates: good, all of one person, in various poses, and few.

Every later comparison pays for each template, so it has to be worth it. Each rejected frame gets a
reason, and the reasons are counted to explain to the user why only a few were used.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contracts.errors import LowQualityFace, ManyFaces, NoFace
from contracts.queue.messages import Vector
from models.faces.detection.detection import DetectedFace
from models.faces.liveness.clip import Analyzer

MAX_TEMPLATES_PER_ENROLLMENT = 12
_MAX_EMBEDDED = 60
_BATCH = 4
_POSE_BIN = 6.0  # degrees
_MAX_OTHERS_SHARE = 0.2
# Minimum cosine similarity to the most typical embedding, in any pose; below it is a passer-by.
# Many pairs of different people reach it, so it does not decide whose face a frame shows.
_SAME_PERSON = 0.82
# What a template must add to those chosen: ten degrees, or as much difference as light makes.
_NOVELTY_DEGREES, _NOVELTY_COSINE, _MIN_NOVELTY = 10.0, 0.06, 0.6
_REASONS = {
    "no_face": "no face",
    "many_faces": "more than one face",
    "expression": "eyes closed or mouth open",
    "too_small": "face too small",
    "too_dark": "too dark",
    "too_bright": "too bright",
    "blurred": "blurred",
    "extreme_pose": "turned too far",
    "off_frame": "face cut off",
    "occluded": "face covered",
    "unreadable": "not readable",
}


@dataclass(frozen=True, slots=True)
class FrameCandidate:
    """One frame or image: its face if it can be used, otherwise the reason why not."""

    face: DetectedFace | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """The selected frames.

    Attributes:
        chosen: Indices of the frames that become templates, the best first.
        vectors: Their embeddings, (n, 128) float32.
        rejected: Number of the other frames by reason.
    """

    chosen: tuple[int, ...]
    vectors: Vector
    rejected: dict[str, int]


def check_frame(
    face: DetectedFace | None, *, faces: int = 1, acting: bool = False
) -> FrameCandidate:
    """Check a frame for the first reason against using it.

    Args:
        faces: Number of faces of about its size.
        acting: Whether its eyes are closed or its mouth is open.
    """
    if face is None:
        return FrameCandidate(None, "no_face")
    if faces > 1:
        return FrameCandidate(None, "many_faces")
    quality = face.face.quality
    if not quality.acceptable:
        return FrameCandidate(None, quality.reasons[0] if quality.reasons else "occluded")
    return FrameCandidate(None, "expression") if acting else FrameCandidate(face)


def select_templates(
    candidates: Sequence[FrameCandidate],
    analyzer: Analyzer,
    *,
    limit: int = MAX_TEMPLATES_PER_ENROLLMENT,
    skip_similar: bool = True,
    min_similarity: float | None = None,
    check: Callable[[], None],
) -> Selection:
    """Select the frames that become templates.

    Args:
        limit: Maximum number of templates.
        skip_similar: Leave out frames that show nothing new. True for a video, which has many
            similar frames; images were chosen deliberately.
        min_similarity: Leave out frames that are not linked to the most typical one by such a
            cosine similarity, directly or through other frames. Needed where no earlier template
            says whose face it is.
        check: Called before every batch; it may raise.

    Raises:
        NoFace: No frame shows a face.
        LowQualityFace: No frame can become a template.
        ManyFaces: The frames show more than one person.
    """
    usable = {
        index: candidate.face
        for index, candidate in enumerate(candidates)
        if candidate.face is not None
    }
    rejected = Counter(candidate.reason for candidate in candidates if candidate.reason)
    if not usable:
        raise _nothing_usable(rejected)
    indices = _sharpest_by_pose(usable) if skip_similar else list(usable)
    faces = [usable[index] for index in indices]
    vectors = _embed(faces, analyzer, check)
    typical, is_same = _same_person(vectors)
    others = int(np.count_nonzero(~is_same))
    if others > _MAX_OTHERS_SHARE * len(faces):
        raise ManyFaces(
            "More than one person is shown. Send a video or images of the subject alone."
        )
    if min_similarity is not None:
        is_same &= _linked(vectors, typical, min_similarity)
        others = int(np.count_nonzero(~is_same))
    rejected["another_person"] += others
    min_novelty = _MIN_NOVELTY if skip_similar else 0
    order = _most_diverse(faces, vectors, is_same, limit, min_novelty=min_novelty)
    rejected["redundant"] += len(usable) - others - len(order)
    return Selection(
        tuple(indices[position] for position in order),
        vectors[order],
        {reason: count for reason, count in sorted(rejected.items()) if count},
    )


def _nothing_usable(rejected: "Counter[str]") -> NoFace | LowQualityFace:
    if set(rejected) <= {"no_face"}:
        return NoFace("There is no face. Hold the camera at eye level, in good light.")
    summary = ", ".join(
        f"{_REASONS.get(reason, reason)} ({count})" for reason, count in rejected.most_common()
    )
    return LowQualityFace(
        f"No frame can be used: {summary}. Face the camera, in good light, one person alone."
    )


def _sharpest_by_pose(usable: dict[int, DetectedFace]) -> list[int]:
    """Take the sharpest frame of each pose, then the second sharpest, until there are enough."""
    bins: dict[tuple[int, int], list[int]] = {}
    for index, face in usable.items():
        pose = face.face.quality
        key = (round(pose.yaw / _POSE_BIN), round(pose.pitch / _POSE_BIN))
        bins.setdefault(key, []).append(index)
    for members in bins.values():
        members.sort(key=lambda index: -usable[index].face.quality.sharpness)
    deepest = max(map(len, bins.values()))
    ranked = [
        members[rank] for rank in range(deepest) for members in bins.values() if rank < len(members)
    ]
    return sorted(ranked[:_MAX_EMBEDDED])


def _embed(faces: Sequence[DetectedFace], analyzer: Analyzer, check: Callable[[], None]) -> Vector:
    vectors = []
    for start in range(0, len(faces), _BATCH):
        check()
        batch = faces[start : start + _BATCH]
        vectors.append(analyzer.embed(np.stack([face.crop for face in batch])))
    return np.concatenate(vectors)


def _same_person(vectors: Vector) -> tuple[int, npt.NDArray[np.bool_]]:
    """The most typical embedding, and which ones are near it."""
    similarities = vectors @ vectors.T
    most_typical = int(np.median(similarities, axis=1).argmax())
    return most_typical, np.asarray(similarities[most_typical] >= _SAME_PERSON)


def _linked(vectors: Vector, start: int, min_similarity: float) -> npt.NDArray[np.bool_]:
    """Which embeddings are linked to one of them, directly or through others."""
    is_link = vectors @ vectors.T >= min_similarity
    linked: npt.NDArray[np.bool_] = np.arange(len(vectors)) == start
    while (grown := linked | is_link[linked].any(0)).sum() > linked.sum():
        linked = grown
    return linked


def _most_diverse(
    faces: Sequence[DetectedFace],
    vectors: Vector,
    is_same: npt.NDArray[np.bool_],
    limit: int,
    *,
    min_novelty: float,
) -> list[int]:
    """The most frontal face first, then repeatedly the one furthest from all chosen ones."""
    poses = np.array([(face.face.quality.yaw, face.face.quality.pitch) for face in faces])
    from_front = np.where(is_same, np.hypot(*poses.T), np.inf)
    order = [int(from_front.argmin())]
    while len(order) < limit:
        turned = np.linalg.norm(poses[:, None] - poses[None, order], axis=-1) / _NOVELTY_DEGREES
        changed = (1 - vectors @ vectors[order].T) / _NOVELTY_COSINE
        novelty = np.where(is_same, (turned + changed).min(1), -1.0)
        novelty[order] = -1.0
        best = int(novelty.argmax())
        if novelty[best] < min_novelty:
            break
        order.append(best)
    return order
