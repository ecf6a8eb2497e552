"""The lane `clip`: a login's video in, a verdict and the face's embedding out.

The file is decoded by a process of its own; here its frames are followed one by one, and between
any two of them whoever needs only a moment goes first.

The looks of clips that were sent for a subject, so that none is taken twice.

They lie in Redis for a month, the last sixteen of each subject: 32 bytes for each quarter of a
second, from which no face can be had. They go when the subject goes.
"""

import base64
import json
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, cast

import numpy as np
import redis
from pydantic import ValidationError

from contracts.errors import DeadlineExceeded, Draining, InternalError, SubjectNotFound
from contracts.faces.clips import ClipAsk, ClipNote, as_video
from contracts.queue import redis_keys
from contracts.queue.messages import Item
from workers.inference.loaded_models import Predictor
from workers.inference.queue import Answer, LaneName

if TYPE_CHECKING:
    from models.faces.detection.finder import FaceFinder
    from models.faces.liveness.video import VideoLimits


class SeenClips:
    """All of them.

    Args:
        client: A connection whose answers are bytes.
    """

    def __init__(self, client: "redis.Redis") -> None:
        self._put = client.register_script(_PUT)

    def put(self, subject_id: str, clip_id: str, looks: Sequence[bytes]) -> list[list[bytes]]:
        """Keep a clip's looks, and give back those of the others.

        It is put there first, so that of one clip sent twice at once neither is taken.

        Args:
            subject_id: For whom it was sent.
            clip_id: Of this clip; what is there under it already, from an attempt before, is the
                same clip and is not given back.
            looks: As `models.faces.liveness.perceptual_hash.looks_kept` keeps them.

        Raises:
            SubjectNotFound: The subject was erased meanwhile; nothing was kept.
        """
        keys = [redis_keys.clips_seen(subject_id), redis_keys.erased(subject_id)]
        told = json.dumps([clip_id, base64.b64encode(b"".join(looks)).decode()])
        args: list[str | int] = [told, MOST_CLIPS, KEEP_SECONDS]
        rows = cast(list[bytes] | None, self._put(keys=keys, args=args))
        if rows is None:
            raise SubjectNotFound("The subject was erased.")
        others = [looks for known, looks in map(json.loads, rows) if known != clip_id]
        return [_split(base64.b64decode(one)) for one in others]


_CPU_SECONDS = 15  # of the decoder: many times what the twelve seconds of an answer take


class Clips:
    """Answers the lane `clip`, see `workers.inference.batcher.Answerer`.

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
        from models.faces.analyser import FaceAnalyser  # OpenCV, LiteRT
        from models.faces.liveness.verdict import verdict_of
        from models.faces.liveness.video import read_frames

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


MOST_CLIPS = 16
KEEP_SECONDS = 30 * 24 * 3600

# In one script: of an erasure meanwhile it is either before, and swept away, or after, and refused.
_PUT = """
if redis.call('EXISTS', KEYS[2]) == 1 then return false end
redis.call('LPUSH', KEYS[1], ARGV[1])
redis.call('LTRIM', KEYS[1], 0, ARGV[2] - 1)
redis.call('EXPIRE', KEYS[1], ARGV[3])
return redis.call('LRANGE', KEYS[1], 0, -1)
"""


def _split(joined: bytes) -> list[bytes]:
    from models.faces.liveness.perceptual_hash import LOOK_BYTES  # OpenCV, when a clip has come

    return [joined[at : at + LOOK_BYTES] for at in range(0, len(joined), LOOK_BYTES)]
