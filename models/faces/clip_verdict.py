"""From a file to a verdict: decode, follow the face, compare it with itself, judge."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from contracts.liveness import Action, Liveness
from contracts.messages import Vector
from models.faces.clip import Analyser, Watched, neutral_frames, watch
from models.faces.found import FoundFace
from models.faces.holds import baseline_of, states_of
from models.faces.liveness import judge, mean_of
from models.faces.looks import looks_kept
from models.faces.video import Frame

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
