"""Which action a face performs in each frame, relative to its neutral look, and for how long.

The limits are relative to the medians of the clip, because eyes differ among people by more than an
open eye differs from a half-closed one. The medians describe the neutral face as long as no single
action takes half of the clip.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np

from contracts.faces.liveness import Action
from models.faces.liveness.facial_metrics import FacialMetrics
from models.faces.liveness.tracking import Track

State = Action | Literal["between", "several", "away"]
"""`between`: moving from one action to another; `several`: two actions at once; `away`: no face."""

TURN_DEGREES = 20.0
UP_DEGREES = 12.0
_NEUTRAL_YAW, _NEUTRAL_PITCH = 10.0, 8.0
# Beyond this the far eye is foreshortened, and the lids follow the gaze: eyes are not judged.
_EYES_YAW, _EYES_PITCH = 15.0, 10.0
# Relative to the usual opening: closed eyes measure 0.48 to 0.66; a smile narrows them to 0.78.
_EYES_CLOSED, _EYES_OPEN = 0.7, 0.76
_MOUTH_OPEN, _MOUTH_WIDENED, _MOUTH_NEUTRAL = 0.45, 0.25, 0.12
# Hysteresis: an action that has begun ends only at a lower limit, because landmarks jitter.
_CONTINUE = 0.85
# A single frame in which a landmark jitters across its limit does not end a hold.
_BRIDGED_SECONDS = 0.12


@dataclass(frozen=True, slots=True)
class Baseline:
    """The neutral face of the clip, as medians."""

    yaw: float
    pitch: float
    right_eye: float
    left_eye: float
    mouth: float


@dataclass(frozen=True, slots=True)
class Hold:
    """A period during which a face stayed in one state.

    Attributes:
        first: Index of its first frame.
        last: Index of its last frame.
        seconds: From the first frame to the last.
    """

    state: State
    first: int
    last: int
    seconds: float


def baseline_of(track: Track) -> Baseline | None:
    """The medians of a track; None if it has no face."""
    metrics = [frame.metrics for frame in track.frames if frame.metrics is not None]
    if not metrics:
        return None
    rows = [(m.yaw, m.pitch, m.right_eye, m.left_eye, m.mouth) for m in metrics]
    return Baseline(*(float(value) for value in np.median(rows, axis=0)))


def state_of(metrics: FacialMetrics | None, base: Baseline, previous: State = "neutral") -> State:
    """The state of a face in one frame, given its state in the previous frame."""
    if metrics is None:
        return "away"
    actions = _actions(metrics, base, previous)
    if len(actions) > 1:
        return "several"
    return actions[0] if actions else "neutral" if _is_neutral(metrics, base) else "between"


def _actions(metrics: FacialMetrics, base: Baseline, previous: State) -> list[Action]:
    yaw, pitch = metrics.yaw - base.yaw, metrics.pitch - base.pitch
    is_frontal = abs(yaw) < _EYES_YAW and abs(pitch) < _EYES_PITCH
    eye_limit = _EYES_OPEN if previous == "close_eyes" else _EYES_CLOSED

    def reaches(action: Action, value: float, limit: float) -> bool:
        return value >= (limit * _CONTINUE if previous == action else limit)

    performed: dict[Action, bool] = {
        "turn_left": reaches("turn_left", yaw, TURN_DEGREES),
        "turn_right": reaches("turn_right", -yaw, TURN_DEGREES),
        "look_up": reaches("look_up", pitch, UP_DEGREES),
        "close_eyes": is_frontal and _eye_opening(metrics, base) < eye_limit,
        "open_mouth": reaches(
            "open_mouth", metrics.mouth, max(_MOUTH_OPEN, base.mouth + _MOUTH_WIDENED)
        ),
    }
    return [action for action, is_performed in performed.items() if is_performed]


def _eye_opening(metrics: FacialMetrics, base: Baseline) -> float:
    """Opening of the wider eye, relative to its baseline; so a wink does not count as closed."""
    right = metrics.right_eye / max(base.right_eye, 1e-3)
    left = metrics.left_eye / max(base.left_eye, 1e-3)
    return max(right, left)


def _is_neutral(metrics: FacialMetrics, base: Baseline) -> bool:
    return (
        abs(metrics.yaw - base.yaw) < _NEUTRAL_YAW
        and abs(metrics.pitch - base.pitch) < _NEUTRAL_PITCH
        and _eye_opening(metrics, base) > _EYES_OPEN
        and metrics.mouth < base.mouth + _MOUTH_NEUTRAL
    )


def states_of(track: Track, base: Baseline | None) -> list[State]:
    """The state in each frame; without a baseline there is no face."""
    if base is None:
        return ["away"] * len(track.frames)
    states: list[State] = []
    for frame in track.frames:
        states.append(state_of(frame.metrics, base, states[-1] if states else "neutral"))
    return states


def holds_of(track: Track, states: Sequence[State]) -> list[Hold]:
    """Group the states into holds; a short gap between two holds of one state is ignored."""
    runs: list[Hold] = []
    first = 0
    for state, group in groupby(states):
        last = first + sum(1 for _ in group) - 1
        runs.append(_hold(track, state, first, last))
        first = last + 1
    holds: list[Hold] = []
    for run in runs:
        holds.append(run)
        if len(holds) < 3 or holds[-3].state != run.state:
            continue
        before, gap = holds[-3], holds[-2]
        pause = track.frames[run.first].time - track.frames[before.last].time
        if pause <= _max_gap_seconds(track, gap):
            holds[-3:] = [_hold(track, run.state, before.first, run.last)]
    return holds


def _max_gap_seconds(track: Track, gap: Hold) -> float:
    """Longest duration of a gap to ignore; at least one frame, however low the frame rate is."""
    is_single = gap.first == gap.last and gap.state in {"between", "away"}
    if not is_single or not track.frames:
        return _BRIDGED_SECONDS
    step = track.seconds / max(1, len(track.frames) - 1)
    return max(_BRIDGED_SECONDS, 2.5 * step)


def _hold(track: Track, state: State, first: int, last: int) -> Hold:
    return Hold(state, first, last, track.frames[last].time - track.frames[first].time)
