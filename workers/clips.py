"""The lane `clip`: a login's video in, a verdict and the face's embedding out.

The file is decoded by a process of its own; here its frames are followed one by one, and between
any two of them whoever needs only a moment goes first.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from threading import Event
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from contracts.clips import ClipAsk, ClipNote, as_video
from contracts.errors import DeadlineExceeded, Draining, InternalError
from contracts.messages import Item
from workers.answers import Answer
from workers.held import Predictor
from workers.lane import LaneName
from workers.seen_clips import SeenClips

if TYPE_CHECKING:
    from models.faces.finder import FaceFinder
    from models.faces.video import VideoLimits

_CPU_SECONDS = 15  # of the decoder: many times what the twelve seconds of an answer take


class Clips:
    """Answers the lane `clip`, see `workers.drain.Answerer`.

    Args:
        open_finder: What finds faces, read once.
        limits: How much of a video is read; called when the first comes.
        seen: The clips that were sent before.
        is_abandoned: Whether the client has gone.
        stopping: Set when the worker was told to stop.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        open_finder: "Callable[[], FaceFinder]",
        limits: "Callable[[], VideoLimits]",
        seen: SeenClips,
        *,
        is_abandoned: Callable[[Item], bool],
        stopping: Event,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._open_finder = open_finder
        self._limits = limits
        self._seen = seen
        self._is_abandoned = is_abandoned
        self._stopping = stopping
        self._clock = clock

    def __call__(
        self,
        lane: LaneName,  # noqa: ARG002  there is one only
        predictor: Predictor,
        items: Sequence[Item],
        give_way: Callable[[], None],
    ) -> Sequence[Answer]:
        """One answer an item.

        Raises:
            InvalidVideo: The video cannot be read.
            OpsinError: The worker stops, or nobody waits any more.
        """
        return [self._answer(predictor, item, give_way) for item in items]

    def _answer(self, predictor: Predictor, item: Item, give_way: Callable[[], None]) -> Answer:
        from models.faces.analyser import FaceAnalyser  # noqa: PLC0415  OpenCV, LiteRT
        from models.faces.clip_verdict import verdict_of  # noqa: PLC0415
        from models.faces.video import read_frames  # noqa: PLC0415

        try:
            ask = ClipAsk.model_validate_json(item.note)
            video = as_video(item.pixels, ask.size)
        except (ValidationError, ValueError) as error:
            raise InternalError("The clip came in a form of another release.") from error

        def between() -> None:
            give_way()
            self._require_somebody(item)

        analyser = FaceAnalyser(
            self._open_finder(), partial(predictor.run, "embed"), predictor.version
        )
        limits = replace(self._limits(), cpu_seconds=_CPU_SECONDS)
        with closing(read_frames(video, limits, between)) as frames:
            verdict = verdict_of(
                frames,
                ask.actions,
                analyser,
                earlier=lambda looks: self._seen.put(ask.subject_id, ask.challenge_id, looks),
                between=between,
            )
        note = ClipNote(
            liveness=verdict.liveness,
            frames=len(verdict.watched.found),
            matched=verdict.matched,
            face=verdict.best.face if verdict.best else None,
        )
        vector = np.zeros(0, np.float32) if verdict.embedding is None else verdict.embedding
        return Answer(vector, note.pack())

    def _require_somebody(self, item: Item) -> None:
        if self._stopping.is_set():
            raise Draining("The worker is shutting down. Ask for a new challenge.")
        if item.deadline <= self._clock() or self._is_abandoned(item):
            raise DeadlineExceeded(
                "Judging the clip took longer than the deadline. Allow more in X-Timeout-Ms."
            )
