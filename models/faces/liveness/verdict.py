"""Whether a clip shows a live person who did what was asked: a judgement over numbers alone.

Every fault is told, so that an honest user knows what to do better. What a fault costs an attacker,
and what none of this can stop, stands in docs/explanation/liveness.md.

From a file to a verdict: decode, follow the face, compare it with itself, judge.
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
from models.faces.detection.detection import FoundFace
from models.faces.liveness.actions import Baseline, Hold, State, baseline_of, holds_of, states_of
from models.faces.liveness.clip import Analyser, Watched, neutral_frames, watch
from models.faces.liveness.perceptual_hash import is_replay, looks_kept
from models.faces.liveness.tracking import Track, TrackFrame
from models.faces.liveness.video import Frame

HOLD_SECONDS = 0.3
_LENIENCE = 0.01  # seconds; frame times are rounded
_MIN_SECONDS = 1.5
_SECONDS_OVER, _FPS_UNDER = 0.5, 0.5
_AWAY_SECONDS = 0.35
_FACING_YAW, _FACING_PITCH = 20.0, 30.0
_NEUTRAL_SECONDS = 0.5
# Of the face's own size a tenth of a second; a head does not move faster, another one put in its
# place does.
_JUMP, _GROWTH, _SPIN_DEGREES = 0.6, 1.5, 45.0
_TENTH = 0.1
_CHANGED: LivenessReason = "person_changed"
SAME_FACE = 0.92
"""The cosine that two neutral frames of one clip have at least, if they are of one person.

In honest clips it is 0.97 and more; strangers have 0.82 on the mean, and look-alikes 0.9."""
SAME_TURNED = 0.9
"""The cosine of a frame of any pose and the neutral frames' mean; in honest clips 0.95 and more."""
SAME_MOMENT = 0.93
"""The cosine of a frame and the next; in honest clips 0.96 and more, at a cut 0.83 to 0.88.

Two people who share one clip meet somewhere, and nobody's face changes within a tenth of a second.
"""

DETAILS: dict[LivenessReason, str] = {
    "too_short": "The clip is too short. Do every action, each for a moment.",
    "too_long": f"The clip is longer than {MAX_SECONDS:g} seconds. Send the answer alone.",
    "low_frame_rate": f"The clip has fewer than {MIN_FPS:g} different frames a second. Record in "
    "better light, at 15 or more.",
    "no_face": "There is hardly a face in the clip. Hold the camera at eye level.",
    "face_lost": "The face left the picture or was covered. Keep all of it in view throughout.",
    "many_faces": "There is more than one face. Be alone in the picture.",
    "face_jumped": "The face jumped from one place to another. Send the clip uncut.",
    "frozen": "The picture stood still. Send the clip as the camera took it.",
    "not_facing": "The face looks to the side most of the time. Face the camera between actions.",
    "no_neutral": "There is no quiet moment with open eyes and shut mouth. Pause between actions.",
    "missing_action": "An action is missing. Do all that are asked, plainly.",
    "wrong_order": "The actions are not in the order asked.",
    "not_held": "An action was too brief. Hold each for half a second.",
    "unasked_action": "There is an action that was not asked for, or one too many.",
    "person_changed": "Not every part of the clip shows the same person.",
    "replayed": "This clip was sent before. Record a new one.",
}


def judge(
    track: Track,
    asked: Sequence[Action],
    *,
    earlier: Sequence[Sequence[bytes]] = (),
    same_face: float = SAME_FACE,
    same_turned: float = SAME_TURNED,
    same_moment: float = SAME_MOMENT,
) -> Liveness:
    """Judge a clip against a challenge.

    Args:
        track: The clip, with an embedding of every frame that has a face.
        asked: What was to be done, in order, none twice.
        earlier: What was kept of clips that were sent before, see
        `models.faces.liveness.perceptual_hash`. same_face: See `SAME_FACE`.
        same_turned: See `SAME_TURNED`.
        same_moment: See `SAME_MOMENT`.
    """
    base = baseline_of(track)
    states = states_of(track, base)
    holds = holds_of(track, states)
    seen = _seen(asked, holds)
    one_person = _is_one_person(track, states, same_face, same_turned) and _is_unbroken(
        track, same_moment
    )
    found = dict.fromkeys(
        [
            *_faults_of_the_recording(track),
            *_faults_of_the_face(track, base, holds),
            *(_faults_of_the_actions(asked, holds, seen) if base else ()),
            *([] if one_person else [_CHANGED]),
            *(["replayed"] if _is_known(track, earlier) else []),
        ]
    )
    return Liveness(
        live=not found,
        faults=tuple(Fault(code=code, detail=DETAILS[code]) for code in found),
        actions=tuple(seen),
        seconds=round(track.seconds, 2),
        fps=round(track.fps, 1),
    )


def _faults_of_the_recording(track: Track) -> Iterator[LivenessReason]:
    if track.seconds < _MIN_SECONDS:
        yield "too_short"
    if track.seconds > MAX_SECONDS + _SECONDS_OVER:
        yield "too_long"
    if track.fps < MIN_FPS - _FPS_UNDER:
        yield "low_frame_rate"
    if track.longest_standstill() >= HOLD_SECONDS:
        yield "frozen"


def _faults_of_the_face(
    track: Track, base: Baseline | None, holds: Sequence[Hold]
) -> Iterator[LivenessReason]:
    with_face = [frame for frame in track.frames if frame.signals is not None]
    if base is None or 2 * len(with_face) < len(track.frames):
        yield "no_face"
        return
    if _longest_away(track, with_face) > _AWAY_SECONDS:
        yield "face_lost"
    if any(frame.faces > 1 for frame in with_face):
        yield "many_faces"
    if any(_jumped(one, next_one) for one, next_one in pairwise(with_face)):
        yield "face_jumped"
    if abs(base.yaw) > _FACING_YAW or abs(base.pitch) > _FACING_PITCH:
        yield "not_facing"
    if sum(hold.seconds for hold in holds if hold.state == "neutral") < _NEUTRAL_SECONDS:
        yield "no_neutral"


def _longest_away(track: Track, with_face: Sequence[TrackFrame]) -> float:
    """Seconds between two frames with a face, the ends of the clip counted."""
    times = [track.frames[0].at, *(frame.at for frame in with_face), track.frames[-1].at]
    return float(np.diff(times).max())


def _jumped(before: TrackFrame, after: TrackFrame) -> bool:
    """Whether no head moves like this."""
    one, other = before.signals, after.signals
    if one is None or other is None:
        return False
    tenths = max(1.0, (after.at - before.at) / _TENTH)
    # Places are told in sizes of their own face; here both in those of the first.
    scale = other.size / one.size
    way = np.hypot(other.x * scale - one.x, other.y * scale - one.y)
    turned = max(abs(other.yaw - one.yaw), abs(other.pitch - one.pitch))
    return bool(
        way > _JUMP * tenths
        or max(scale, 1 / scale) > _GROWTH**tenths
        or turned > _SPIN_DEGREES * tenths
    )


def is_held(hold: Hold) -> bool:
    """Whether it lasted long enough to be meant."""
    return hold.seconds >= HOLD_SECONDS - _LENIENCE


def _done(holds: Sequence[Hold]) -> list[Hold]:
    """The actions that were held, neutral ones aside; the same again at once counts as one."""
    done: list[Hold] = []
    for hold in holds:
        meant = hold.state not in {"neutral", "between", "away"} and is_held(hold)
        if meant and not (done and done[-1].state == hold.state):
            done.append(hold)
    return done


def _faults_of_the_actions(
    asked: Sequence[Action], holds: Sequence[Hold], seen: Sequence[ActionSeen]
) -> Iterator[LivenessReason]:
    done: list[State] = [hold.state for hold in _done(holds)]
    wanted = [action for action in asked if action != "neutral"]
    missing = [one for one in seen if not one.done]
    brief = {hold.state for hold in holds}
    if any(one.action not in brief for one in missing):
        yield "missing_action"
    if any(one.action in brief for one in missing if one.action not in done):
        yield "not_held"
    if any(state not in wanted for state in done) or len(set(done)) < len(done):
        yield "unasked_action"
    elif done != [action for action in wanted if action in done]:
        yield "wrong_order"


def _seen(asked: Sequence[Action], holds: Sequence[Hold]) -> list[ActionSeen]:
    """What became of each action; a neutral face is looked for between its neighbours alone."""
    seen = []
    for at, action in enumerate(asked):
        within = _between(asked, at, holds) if action == "neutral" else holds
        longest = max((hold.seconds for hold in within if hold.state == action), default=0.0)
        done = longest >= HOLD_SECONDS - _LENIENCE
        seen.append(ActionSeen(action=action, held_ms=round(longest * 1000), done=done))
    return seen


def _between(asked: Sequence[Action], at: int, holds: Sequence[Hold]) -> Sequence[Hold]:
    """What lies between the action before and the action after."""
    held = [i for i, hold in enumerate(holds) if is_held(hold)]
    before = [i for i in held if at > 0 and holds[i].state == asked[at - 1]]
    after = [i for i in held if at + 1 < len(asked) and holds[i].state == asked[at + 1]]
    first = before[-1] + 1 if before else 0
    return holds[first : after[0] if after else len(holds)]


def _is_one_person(
    track: Track, states: Sequence[State], same_face: float, same_turned: float
) -> bool:
    """One person throughout, as far as poses may differ."""
    neutral = _neutral_rows(track, states)
    if not len(neutral):
        return False
    # Two people's mean is like both of them: so neutral frames are compared with one another.
    alike = float((neutral @ neutral.T).min()) >= same_face
    centre = mean_of(neutral)
    return alike and all(track.likeness(at, centre) >= same_turned for at in track.embeddings)


def _is_unbroken(track: Track, same_moment: float) -> bool:
    """From each face to the next it is the same; one that nobody compared is nobody's."""
    faces = [at for at, frame in enumerate(track.frames) if frame.signals is not None]
    return all(at in track.embeddings for at in faces) and all(
        track.likeness(one, track.embeddings[after]) >= same_moment
        for one, after in pairwise(faces)
    )


def _neutral_rows(track: Track, states: Sequence[State]) -> Vector:
    rows = [v for at, v in sorted(track.embeddings.items()) if states[at] == "neutral"]
    return np.stack(rows) if rows else np.zeros((0, 0), np.float32)


def mean_of(embeddings: Vector) -> Vector:
    """The direction between embeddings, of length 1.

    Args:
        embeddings: float32 (n, 128).
    """
    mean = embeddings.mean(0)
    centre: Vector = (mean / max(float(np.linalg.norm(mean)), 1e-6)).astype(np.float32)
    return centre


def _is_known(track: Track, earlier: Sequence[Sequence[bytes]]) -> bool:
    hashed = [frame for frame in track.frames if frame.look]
    times, looks = [frame.at for frame in hashed], [frame.look for frame in hashed]
    return any(is_replay(times, looks, one) for one in earlier)


_MOST_MATCHED = 5

Earlier = Callable[[Sequence[bytes]], Sequence[Sequence[bytes]]]
"""Keeps the looks of this clip, and gives those of earlier ones."""


@dataclass(frozen=True, slots=True)
class ClipVerdict:
    """What a clip came to.

    Attributes:
        liveness: Whether a live person did what was asked.
        embedding: Of the neutral frames, (128,), length 1; None unless it is live.
        matched: Frames it was made of.
        best: The best of them.
        watched: The clip, for those who want more of it.
    """

    liveness: Liveness
    embedding: Vector | None
    matched: int
    best: FoundFace | None
    watched: Watched


def verdict_of(
    frames: Iterable[Frame],
    actions: Sequence[Action],
    analyser: Analyser,
    *,
    earlier: Earlier,
    between: Callable[[], None],
) -> ClipVerdict:
    """Judge a clip.

    Its embedding is of neutral frames alone: nobody enrolled with an open mouth.

    Args:
        frames: Of the clip, as they come.
        actions: What was asked.
        analyser: Finds and embeds.
        earlier: See `Earlier`.
        between: Called again and again; it may let others go first, or raise.
    """
    watched = watch(frames, analyser, lambda _at: between())
    track = watched.embedded(analyser, between)
    states = states_of(track, baseline_of(track))
    kept = looks_kept([one.at for one in track.frames], [one.look for one in track.frames])
    liveness = judge(track, actions, earlier=earlier(kept))
    neutral = [at for at in neutral_frames(track, states) if at in track.embeddings]
    best = sorted(neutral, key=lambda at: _sharpness(watched, at), reverse=True)[:_MOST_MATCHED]
    passed = liveness.live and bool(best)
    return ClipVerdict(
        liveness,
        mean_of(np.stack([track.embeddings[at] for at in best])) if passed else None,
        len(best),
        watched.found[best[0]] if best else None,
        Watched(track, watched.found),
    )


def _sharpness(watched: Watched, at: int) -> float:
    found = watched.found[at]
    return found.face.quality.sharpness if found else 0.0
