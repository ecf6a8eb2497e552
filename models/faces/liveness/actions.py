"""Which action a face does at each moment, measured against its own usual look, and how long.

The bounds are relative to the medians of the clip: eyes differ among people by more than an open
eye differs from a half shut one. The medians are the neutral face as long as no single action
takes up half of the clip.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np

from contracts.faces.liveness import Action
from models.faces.liveness.facial_metrics import Signals
from models.faces.liveness.tracking import Track

State = Action | Literal["between", "several", "away"]
"""`between`: on the way from one to another; `several`: two actions at once; `away`: no face."""

TURN_DEGREES = 20.0
UP_DEGREES = 12.0
_NEUTRAL_YAW, _NEUTRAL_PITCH = 10.0, 8.0
# Beyond this the far eye is foreshortened, and lids follow the look: eyes are not judged.
_EYES_YAW, _EYES_PITCH = 15.0, 10.0
# Of the usual opening: the mesh sees shut eyes at 0.48 to 0.66, a smile narrows them to 0.78.
_SHUT, _OPEN = 0.7, 0.76
_MOUTH_OPEN, _MOUTH_WIDER, _MOUTH_SHUT = 0.45, 0.25, 0.12
# What has begun goes on until it is clearly over: landmarks tremble.
_STAYING = 0.85
# One frame in which a landmark trembles over its bound does not end a hold.
_BRIDGED_SECONDS = 0.12


@dataclass(frozen=True, slots=True)
class Baseline:
    """The clip's own neutral face: medians."""

    yaw: float
    pitch: float
    right_eye: float
    left_eye: float
    mouth: float


@dataclass(frozen=True, slots=True)
class Hold:
    """A time through which a face stayed in one state.

    Attributes:
        state: Which.
        first: Index of its first frame.
        last: Of its last.
        seconds: From the one to the other.
    """

    state: State
    first: int
    last: int
    seconds: float


def baseline_of(track: Track) -> Baseline | None:
    """The medians of a track; None without a face."""
    seen = [frame.signals for frame in track.frames if frame.signals is not None]
    if not seen:
        return None
    rows = [(s.yaw, s.pitch, s.right_eye, s.left_eye, s.mouth) for s in seen]
    return Baseline(*(float(value) for value in np.median(rows, axis=0)))


def state_of(signals: Signals | None, base: Baseline, before: State = "neutral") -> State:
    """What a face does.

    Args:
        signals: Of the frame.
        base: Of the clip.
        before: What it did in the frame before.
    """
    if signals is None:
        return "away"
    doing = _actions(signals, base, before)
    if len(doing) > 1:
        return "several"
    return doing[0] if doing else "neutral" if _is_neutral(signals, base) else "between"


def _actions(signals: Signals, base: Baseline, before: State) -> list[Action]:
    yaw, pitch = signals.yaw - base.yaw, signals.pitch - base.pitch
    front = abs(yaw) < _EYES_YAW and abs(pitch) < _EYES_PITCH
    shut = _OPEN if before == "close_eyes" else _SHUT

    def beyond(action: Action, value: float, bound: float) -> bool:
        return value >= (bound * _STAYING if before == action else bound)

    doing: dict[Action, bool] = {
        "turn_left": beyond("turn_left", yaw, TURN_DEGREES),
        "turn_right": beyond("turn_right", -yaw, TURN_DEGREES),
        "look_up": beyond("look_up", pitch, UP_DEGREES),
        "close_eyes": front and _openness(signals, base) < shut,
        "open_mouth": beyond(
            "open_mouth", signals.mouth, max(_MOUTH_OPEN, base.mouth + _MOUTH_WIDER)
        ),
    }
    return [action for action, done in doing.items() if done]


def _openness(signals: Signals, base: Baseline) -> float:
    """Of the eye that is open wider, as a part of its usual opening: a wink shuts no eyes."""
    right = signals.right_eye / max(base.right_eye, 1e-3)
    left = signals.left_eye / max(base.left_eye, 1e-3)
    return max(right, left)


def _is_neutral(signals: Signals, base: Baseline) -> bool:
    return (
        abs(signals.yaw - base.yaw) < _NEUTRAL_YAW
        and abs(signals.pitch - base.pitch) < _NEUTRAL_PITCH
        and _openness(signals, base) > _OPEN
        and signals.mouth < base.mouth + _MOUTH_SHUT
    )


def states_of(track: Track, base: Baseline | None) -> list[State]:
    """What the face does in each frame; without a baseline there is none."""
    if base is None:
        return ["away"] * len(track.frames)
    states: list[State] = []
    for frame in track.frames:
        states.append(state_of(frame.signals, base, states[-1] if states else "neutral"))
    return states


def holds_of(track: Track, states: Sequence[State]) -> list[Hold]:
    """The states one after the other; a tremble between two times of one state is passed over."""
    runs: list[Hold] = []
    at = 0
    for state, group in groupby(states):
        last = at + sum(1 for _ in group) - 1
        runs.append(_hold(track, state, at, last))
        at = last + 1
    joined: list[Hold] = []
    for run in runs:
        joined.append(run)
        if len(joined) < 3 or joined[-3].state != run.state:
            continue
        before, gap = joined[-3], joined[-2]
        if track.frames[run.first].at - track.frames[before.last].at <= _bridge(track, gap):
            joined[-3:] = [_hold(track, run.state, before.first, run.last)]
    return joined


def _bridge(track: Track, gap: Hold) -> float:
    """Seconds that a gap may take to be passed over: one frame at least, however few there are."""
    single = gap.first == gap.last and gap.state in {"between", "away"}
    if not single or not track.frames:
        return _BRIDGED_SECONDS
    step = track.seconds / max(1, len(track.frames) - 1)
    return max(_BRIDGED_SECONDS, 2.5 * step)


def _hold(track: Track, state: State, first: int, last: int) -> Hold:
    return Hold(state, first, last, track.frames[last].at - track.frames[first].at)
