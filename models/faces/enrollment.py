"""Which frames of a person become templates: good ones, all of one face, in many poses, few.

A template must be worth its place in every later comparison. So each frame that is left out has a
reason, and the reasons are counted for whoever wonders why so few were taken.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from contracts.errors import LowQualityFace, ManyFaces, NoFace
from contracts.queue.messages import Vector
from models.faces.detection.detection import FoundFace
from models.faces.liveness.clip import Analyser

MOST_TEMPLATES = 12
_MOST_EMBEDDED = 60
_BATCH = 4
_POSE_BIN = 6.0  # degrees
_OTHERS_PART = 0.2
# Of any two poses; under it is a passer-by. Whose face it is, `workers.jobs.identity` asks
# strictly.
_ONE_PERSON = 0.82
# What a template must add to those chosen: ten degrees, or a look as different as light makes it.
_DEGREES, _COSINE, _NEW = 10.0, 0.06, 0.6
_WORDS = {
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
class Shot:
    """One frame or image.

    Attributes:
        found: The face; None where the shot is not to be used.
        reason: Why not; None where it is.
    """

    found: FoundFace | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """What became of the shots.

    Attributes:
        chosen: Indices of those that become templates, the best first.
        vectors: Their embeddings, (n, 128) float32.
        rejected: How many of the others for which reason.
    """

    chosen: tuple[int, ...]
    vectors: Vector
    rejected: dict[str, int]


def gated(found: FoundFace | None, *, faces: int = 1, acting: bool = False) -> Shot:
    """A shot with the first reason against it, if there is one.

    Args:
        found: The face.
        faces: How many of about its size there are.
        acting: Whether its eyes are closed or its mouth is open.
    """
    if found is None:
        return Shot(None, "no_face")
    if faces > 1:
        return Shot(None, "many_faces")
    quality = found.face.quality
    if not quality.acceptable:
        return Shot(None, quality.reasons[0] if quality.reasons else "occluded")
    return Shot(None, "expression") if acting else Shot(found)


def select(
    shots: Sequence[Shot],
    analyser: Analyser,
    *,
    most: int = MOST_TEMPLATES,
    thin: bool = True,
    between: Callable[[], None],
) -> Selection:
    """Choose.

    Args:
        shots: In order.
        analyser: Embeds.
        most: Templates.
        thin: Whether shots that show nothing new are left out; the frames of a clip are many and
            alike, images were chosen by somebody.
        between: Called before every few; it may raise.

    Raises:
        NoFace: Not one shot has a face.
        LowQualityFace: Not one is fit to be a template.
        ManyFaces: They show more than one person.
    """
    usable = {at: shot.found for at, shot in enumerate(shots) if shot.found is not None}
    rejected = Counter(shot.reason for shot in shots if shot.reason)
    if not usable:
        raise _nothing_usable(rejected)
    tried = _thinned(usable) if thin else list(usable)
    vectors = _embedded([usable[at] for at in tried], analyser, between)
    mine = _one_person(vectors)
    if np.count_nonzero(~mine) > _OTHERS_PART * len(tried):
        raise ManyFaces(
            "More than one person is shown. Send a video or images of the subject alone."
        )
    rejected["another_person"] += int(np.count_nonzero(~mine))
    order = _diverse([usable[at] for at in tried], vectors, mine, most, new=_NEW if thin else 0)
    rejected["redundant"] += len(usable) - int(np.count_nonzero(~mine)) - len(order)
    return Selection(
        tuple(tried[at] for at in order),
        vectors[order],
        {reason: count for reason, count in sorted(rejected.items()) if count},
    )


def _nothing_usable(rejected: "Counter[str]") -> NoFace | LowQualityFace:
    if set(rejected) <= {"no_face"}:
        return NoFace("There is no face. Hold the camera at eye level, in good light.")
    told = ", ".join(f"{_WORDS.get(name, name)} ({n})" for name, n in rejected.most_common())
    return LowQualityFace(
        f"No frame can be used: {told}. Face the camera, in good light, one person alone."
    )


def _thinned(usable: dict[int, FoundFace]) -> list[int]:
    """The sharpest of each pose, pose by pose, until there are enough."""
    bins: dict[tuple[int, int], list[int]] = {}
    for at, found in usable.items():
        pose = found.face.quality
        bins.setdefault((round(pose.yaw / _POSE_BIN), round(pose.pitch / _POSE_BIN)), []).append(at)
    for members in bins.values():
        members.sort(key=lambda at: -usable[at].face.quality.sharpness)
    deepest = max(map(len, bins.values()))
    rounds = [
        members[depth]
        for depth in range(deepest)
        for members in bins.values()
        if depth < len(members)
    ]
    return sorted(rounds[:_MOST_EMBEDDED])


def _embedded(
    found: Sequence[FoundFace], analyser: Analyser, between: Callable[[], None]
) -> Vector:
    vectors = []
    for start in range(0, len(found), _BATCH):
        between()
        vectors.append(
            analyser.embed(np.stack([one.chip for one in found[start : start + _BATCH]]))
        )
    return np.concatenate(vectors)


def _one_person(vectors: Vector) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    """Which are of the face that most of them show: near the one that is nearest to all."""
    alike = vectors @ vectors.T
    middle = int(np.median(alike, axis=1).argmax())
    return np.asarray(alike[middle] >= _ONE_PERSON)


def _diverse(
    found: Sequence[FoundFace],
    vectors: Vector,
    mine: "np.ndarray[tuple[int], np.dtype[np.bool_]]",
    most: int,
    *,
    new: float,
) -> list[int]:
    """The most frontal first, then always what is furthest from all that was chosen."""
    poses = np.array([(one.face.quality.yaw, one.face.quality.pitch) for one in found])
    away = np.where(mine, np.hypot(*poses.T), np.inf)
    order = [int(away.argmin())]
    while len(order) < most:
        turned = np.linalg.norm(poses[:, None] - poses[None, order], axis=-1) / _DEGREES
        changed = (1 - vectors @ vectors[order].T) / _COSINE
        novelty = np.where(mine, (turned + changed).min(1), -1.0)
        novelty[order] = -1.0
        best = int(novelty.argmax())
        if novelty[best] < new:
            break
        order.append(best)
    return order
