"""Judges whether a clip shows a live person who performed the requested actions.

`judge_clip` analyses the frames; `judge` is a function of the resulting numbers alone. It reports
every fault, so that an honest user knows what to improve. What a fault costs an attacker, and which
attacks this cannot stop, is in docs/explanation/liveness.md.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from contracts.faces.liveness import (
    MAX_SECONDS,
    MIN_FPS,
    Action,
    ActionSeen,
    Fault,
    Liveness,
    LivenessReason,
)
from contracts.queue.messages import Vector
from models.faces.detection.detection import DetectedFace
from models.faces.embedding import mean_embedding
from models.faces.liveness.actions import Baseline, Hold, State, baseline_of, holds_of, states_of
from models.faces.liveness.clip import Analyzer, TrackedClip, neutral_frames, track_clip
from models.faces.liveness.perceptual_hash import is_replay, sample_hashes
from models.faces.liveness.tracking import Track, TrackFrame
from models.faces.liveness.video import VideoFrame

HOLD_SECONDS = 0.3
_HOLD_TOLERANCE = 0.01  # seconds; frame times are rounded
_MIN_SECONDS = 1.5
_SECONDS_TOLERANCE, _FPS_TOLERANCE = 0.5, 0.5
_MAX_AWAY_SECONDS = 0.35
_MAX_BASE_YAW, _MAX_BASE_PITCH = 20.0, 30.0
_MIN_NEUTRAL_SECONDS = 0.5
# Per tenth of a second, the first relative to the size of the face. A head does not move faster;
# another head put in its place does.
_MAX_MOVE, _MAX_GROWTH, _MAX_TURN_DEGREES = 0.6, 1.5, 45.0
_TENTH = 0.1
_MAX_MATCHED = 5
SAME_FACE = 0.92
"""Minimum cosine similarity of two neutral frames of one person in one clip.

Honest clips have 0.97 and more; strangers have 0.82 on average, and look-alikes 0.9."""
SAME_TURNED = 0.9
"""Minimum cosine similarity of any frame to the mean of the neutral frames; honest clips have 0.95
and more."""
SAME_MOMENT = 0.93
"""Minimum cosine similarity of successive frames. Honest clips have 0.96 and more, cuts between two
people 0.83 to 0.88.

If two people share a clip, there is a moment when one replaces the other, and no face changes that
much within a tenth of a second."""

DETAILS: dict[LivenessReason, str] = {
    "too_short": "The clip is too short. Do every action, each for a moment.",
    "too_long": f"The clip is longer than {MAX_SECONDS:g} seconds. Send only the answer.",
    "low_frame_rate": f"The clip has fewer than {MIN_FPS:g} different frames a second. Record in "
    "better light, at 15 or more.",
    "no_face": "There is hardly a face in the clip. Hold the camera at eye level.",
    "face_lost": "The face left the frame or was covered. Keep all of it in view throughout.",
    "many_faces": "There is more than one face. Be alone in the frame.",
    "face_jumped": "The face jumped from one place to another. Send the clip uncut.",
    "frozen": "The video froze. Send the clip as the camera recorded it.",
    "not_facing": "The face looks to the side most of the time. Face the camera between actions.",
    "no_neutral": "There is no quiet moment with open eyes and closed mouth. Pause between "
    "actions.",
    "missing_action": "An action is missing. Do all the requested actions clearly.",
    "wrong_order": "The actions are not in the requested order.",
    "not_held": "An action was too brief. Hold each for half a second.",
    "unasked_action": "There is an action that was not requested, or one too many.",
    "person_changed": "Not every part of the clip shows the same person.",
    "replayed": "This clip was sent before. Record a new one.",
}

ExchangeHashes = Callable[[Sequence[bytes]], Sequence[Sequence[bytes]]]
"""Stores the frame hashes of this clip, and returns those of earlier clips."""


@dataclass(frozen=True, slots=True)
class ClipVerdict:
    """The verdict on a clip.

    Attributes:
        embedding: Of the neutral frames, (128,), unit length; None if the clip is not live.
        matched: Number of frames that the embedding was computed from.
        best: The best face among them.
    """

    liveness: Liveness
    embedding: Vector | None
    matched: int
    best: DetectedFace | None
    clip: TrackedClip


def judge_clip(
    frames: Iterable[VideoFrame],
    requested: Sequence[Action],
    analyzer: Analyzer,
    *,
    exchange_hashes: ExchangeHashes,
    check: Callable[[], None],
) -> ClipVerdict:
    """Analyze and judge a clip.

    The embedding is computed from neutral frames only, because enrolled faces are neutral too.

    Args:
        exchange_hashes: Stores the frame hashes of this clip, and returns those of earlier clips.
        check: Called repeatedly; it may let other work run first, or raise.
    """
    clip = track_clip(frames, analyzer, lambda _time: check())
    track = clip.with_embeddings(analyzer, check)
    states = states_of(track, baseline_of(track))
    hashes = sample_hashes(
        [frame.time for frame in track.frames], [frame.image_hash for frame in track.frames]
    )
    # A clip without a face can never pass, so remembering it would only displace others.
    earlier = exchange_hashes(hashes) if track.embeddings else ()
    liveness = judge(track, requested, earlier=earlier)
    neutral = [index for index in neutral_frames(track, states) if index in track.embeddings]
    best = sorted(neutral, key=lambda index: _sharpness(clip, index), reverse=True)[:_MAX_MATCHED]
    passed = liveness.live and bool(best)
    return ClipVerdict(
        liveness,
        mean_embedding(np.stack([track.embeddings[index] for index in best])) if passed else None,
        len(best),
        clip.faces[best[0]] if best else None,
        TrackedClip(track, clip.faces),
    )


def _sharpness(clip: TrackedClip, index: int) -> float:
    face = clip.faces[index]
    return face.face.quality.sharpness if face else 0.0


def judge(
    track: Track,
    requested: Sequence[Action],
    *,
    earlier: Sequence[Sequence[bytes]] = (),
    same_face: float = SAME_FACE,
    same_turned: float = SAME_TURNED,
    same_moment: float = SAME_MOMENT,
) -> Liveness:
    """Judge a track against a challenge.

    Args:
        track: With an embedding of every frame that has a face.
        requested: The actions of the challenge in order, each different.
        earlier: Stored hashes of earlier clips, see `models.faces.liveness.perceptual_hash`.
    """
    base = baseline_of(track)
    states = states_of(track, base)
    holds = holds_of(track, states)
    actions = _actions_seen(requested, holds)
    is_one_person = _is_one_person(track, states, same_face, same_turned) and _is_continuous(
        track, same_moment
    )
    faults: list[LivenessReason] = [
        *_recording_faults(track),
        *_face_faults(track, base, holds),
        *(_action_faults(requested, holds, actions) if base else ()),
    ]
    if not is_one_person:
        faults.append("person_changed")
    if _was_sent_before(track, earlier):
        faults.append("replayed")
    return Liveness(
        live=not faults,
        faults=tuple(Fault(code=code, detail=DETAILS[code]) for code in dict.fromkeys(faults)),
        actions=tuple(actions),
        seconds=round(track.seconds, 2),
        fps=round(track.fps, 1),
    )


def _recording_faults(track: Track) -> Iterator[LivenessReason]:
    if track.seconds < _MIN_SECONDS:
        yield "too_short"
    if track.seconds > MAX_SECONDS + _SECONDS_TOLERANCE:
        yield "too_long"
    if track.fps < MIN_FPS - _FPS_TOLERANCE:
        yield "low_frame_rate"
    if track.longest_standstill() >= HOLD_SECONDS:
        yield "frozen"


def _face_faults(
    track: Track, base: Baseline | None, holds: Sequence[Hold]
) -> Iterator[LivenessReason]:
    with_face = [frame for frame in track.frames if frame.metrics is not None]
    if base is None or 2 * len(with_face) < len(track.frames):
        yield "no_face"
        return
    if _longest_absence(track, with_face) > _MAX_AWAY_SECONDS:
        yield "face_lost"
    if any(frame.faces > 1 for frame in with_face):
        yield "many_faces"
    if any(_has_jumped(frame, following) for frame, following in pairwise(with_face)):
        yield "face_jumped"
    if abs(base.yaw) > _MAX_BASE_YAW or abs(base.pitch) > _MAX_BASE_PITCH:
        yield "not_facing"
    if sum(hold.seconds for hold in holds if hold.state == "neutral") < _MIN_NEUTRAL_SECONDS:
        yield "no_neutral"


def _longest_absence(track: Track, with_face: Sequence[TrackFrame]) -> float:
    """Longest time in seconds without a face, including the start and the end of the clip."""
    times = [track.frames[0].time, *(frame.time for frame in with_face), track.frames[-1].time]
    return float(np.diff(times).max())


def _has_jumped(before: TrackFrame, after: TrackFrame) -> bool:
    """Whether the face moved faster than a head can."""
    old, new = before.metrics, after.metrics
    if old is None or new is None:
        return False
    tenths = max(1.0, (after.time - before.time) / _TENTH)
    # Positions are in sizes of the face in their own frame; here both in sizes of the first.
    scale = new.size / old.size
    move = np.hypot(new.x * scale - old.x, new.y * scale - old.y)
    turn = max(abs(new.yaw - old.yaw), abs(new.pitch - old.pitch))
    return bool(
        move > _MAX_MOVE * tenths
        or max(scale, 1 / scale) > _MAX_GROWTH**tenths
        or turn > _MAX_TURN_DEGREES * tenths
    )


def is_held(hold: Hold) -> bool:
    """Whether it lasted long enough to be intentional."""
    return hold.seconds >= HOLD_SECONDS - _HOLD_TOLERANCE


def _performed(holds: Sequence[Hold]) -> list[State]:
    """The actions that were held, except neutral; immediate repetitions count as one."""
    performed: list[State] = []
    for hold in holds:
        is_action = hold.state not in {"neutral", "between", "away"} and is_held(hold)
        if is_action and not (performed and performed[-1] == hold.state):
            performed.append(hold.state)
    return performed


def _action_faults(
    requested: Sequence[Action], holds: Sequence[Hold], actions: Sequence[ActionSeen]
) -> Iterator[LivenessReason]:
    performed = _performed(holds)
    expected = [action for action in requested if action != "neutral"]
    missing = [seen.action for seen in actions if not seen.done]
    attempted = {hold.state for hold in holds}
    if any(action not in attempted for action in missing):
        yield "missing_action"
    if any(action in attempted for action in missing if action not in performed):
        yield "not_held"
    if any(state not in expected for state in performed) or len(set(performed)) < len(performed):
        yield "unasked_action"
    elif performed != [action for action in expected if action in performed]:
        yield "wrong_order"


def _actions_seen(requested: Sequence[Action], holds: Sequence[Hold]) -> list[ActionSeen]:
    """How long each action was held; neutral counts only between its neighbors."""
    seen = []
    for index, action in enumerate(requested):
        relevant = _holds_around(requested, index, holds) if action == "neutral" else holds
        longest = max((hold.seconds for hold in relevant if hold.state == action), default=0.0)
        done = longest >= HOLD_SECONDS - _HOLD_TOLERANCE
        seen.append(ActionSeen(action=action, held_ms=round(longest * 1000), done=done))
    return seen


def _holds_around(requested: Sequence[Action], index: int, holds: Sequence[Hold]) -> Sequence[Hold]:
    """The holds between the action before `index` and the action after it."""
    held = [i for i, hold in enumerate(holds) if is_held(hold)]
    before = [i for i in held if index > 0 and holds[i].state == requested[index - 1]]
    after = [
        i for i in held if index + 1 < len(requested) and holds[i].state == requested[index + 1]
    ]
    first = before[-1] + 1 if before else 0
    return holds[first : after[0] if after else len(holds)]


def _is_one_person(
    track: Track, states: Sequence[State], same_face: float, same_turned: float
) -> bool:
    """Whether all frames show the same person, as far as their poses permit a comparison."""
    neutral = _neutral_embeddings(track, states)
    if not len(neutral):
        return False
    # Neutral frames are compared with each other, because the mean of two people resembles both.
    if float((neutral @ neutral.T).min()) < same_face:
        return False
    mean = mean_embedding(neutral)
    return all(track.similarity(index, mean) >= same_turned for index in track.embeddings)


def _is_continuous(track: Track, same_moment: float) -> bool:
    """Whether successive faces match. A face without an embedding counts as another person."""
    faces = [index for index, frame in enumerate(track.frames) if frame.metrics is not None]
    return all(index in track.embeddings for index in faces) and all(
        track.similarity(index, track.embeddings[following]) >= same_moment
        for index, following in pairwise(faces)
    )


def _neutral_embeddings(track: Track, states: Sequence[State]) -> Vector:
    rows = [
        embedding
        for index, embedding in sorted(track.embeddings.items())
        if states[index] == "neutral"
    ]
    return np.stack(rows) if rows else np.zeros((0, 0), np.float32)


def _was_sent_before(track: Track, earlier: Sequence[Sequence[bytes]]) -> bool:
    hashed = [frame for frame in track.frames if frame.image_hash]
    times = [frame.time for frame in hashed]
    hashes = [frame.image_hash for frame in hashed]
    return any(is_replay(times, hashes, clip) for clip in earlier)
