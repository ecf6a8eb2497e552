"""The operation `clip`: the video of a login in, a verdict and the face's embedding out.

The file is decoded in a process of its own; here its frames are followed one by one, and faster
queues are answered between any two of them.

Replays are recognized by perceptual hashes of earlier clips. They stay in Redis for a month: 32
bytes for each quarter of a second, from which no face can be reconstructed. They are removed with
the subject. Failed logins are limited by lockouts, so a thousand clips are more than anyone can
send in days to have an earlier one forgotten; enrollments, which are not, are kept apart.
"""

import base64
import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np
import redis
from pydantic import ValidationError

from contracts.errors import InternalError, SubjectNotFound
from contracts.faces.clips import ClipReply, ClipRequest, unpack_video
from contracts.faces.liveness import Purpose
from contracts.queue import redis_keys, scripts
from contracts.queue.messages import Item
from contracts.queue.redis_keys import QueueName
from contracts.settings import Settings
from workers.inference.faces import FacesOperation
from workers.inference.loaded_models import Predictor
from workers.inference.queue import Cancellation, ItemOutput

if TYPE_CHECKING:
    from models.faces.liveness.verdict import ClipVerdict

MAX_CLIPS = 1024  # of a subject, of its logins and of its enrollments: at most 3 MB each
KEEP_SECONDS = 30 * 24 * 3600

_CPU_SECONDS = 15  # of the decoder: many times what the twelve seconds of an answer take
_TOO_LATE = "Judging the clip took longer than the deadline. Allow more in X-Timeout-Ms."


class ClipOperation:
    """Judges videos; see `workers.inference.batcher.OperationHandler`."""

    def __init__(
        self,
        faces: FacesOperation,
        recent: "RecentClips",
        cancellation: Cancellation,
        settings: Settings,
    ) -> None:
        self._faces = faces
        self._recent = recent
        self._cancellation = cancellation
        self._settings = settings

    def compute(
        self,
        queue: QueueName,  # noqa: ARG002  there is only one
        predictor: Predictor,
        items: Sequence[Item],
        run_faster: Callable[[], None],
    ) -> Sequence[ItemOutput]:
        """One output for each item.

        Raises:
            InvalidVideo: The video cannot be read.
            OpsinError: The worker stops, or no client waits any more.
        """
        return [self._judge(predictor, item, run_faster) for item in items]

    def _judge(
        self, predictor: Predictor, item: Item, run_faster: Callable[[], None]
    ) -> ItemOutput:
        try:
            request = ClipRequest.model_validate_json(item.note)
            video = unpack_video(item.pixels, request.size)
        except (ValidationError, ValueError) as error:
            raise InternalError("The clip was sent by another release of Opsin.") from error

        def between() -> None:
            run_faster()
            self._cancellation.check([item], late=_TOO_LATE, retry="Ask for a new challenge.")

        verdict = self._verdict(predictor, request, video, between)
        reply = ClipReply(
            liveness=verdict.liveness,
            frames=len(verdict.clip.faces),
            matched=verdict.matched,
            face=verdict.best.face if verdict.best else None,
        )
        vector = np.zeros(0, np.float32) if verdict.embedding is None else verdict.embedding
        return ItemOutput(vector, reply.pack())

    def _verdict(
        self,
        predictor: Predictor,
        request: ClipRequest,
        video: memoryview,
        between: Callable[[], None],
    ) -> "ClipVerdict":
        from models.faces.analyzer import FaceAnalyzer  # OpenCV, LiteRT
        from models.faces.liveness.verdict import judge_clip
        from models.faces.liveness.video import VideoLimits, read_frames

        analyzer = FaceAnalyzer(
            self._faces.finder(), partial(predictor.run, "embed"), predictor.version
        )
        limits = replace(VideoLimits.of(self._settings), cpu_seconds=_CPU_SECONDS)
        with closing(read_frames(video, limits, between)) as frames:
            return judge_clip(
                frames,
                request.actions,
                analyzer,
                exchange_hashes=partial(self._recent.add, request.subject_id, request.challenge_id),
                check=between,
            )


class RecentClips:
    """The hashes of the clips that were recently sent for each subject.

    Args:
        client: A connection whose answers are bytes.
    """

    def __init__(self, client: "redis.Redis") -> None:
        self._add = client.register_script(scripts.ADD_CLIP)

    def add(
        self,
        subject_id: str,
        clip_id: str,
        hashes: Sequence[bytes],
        *,
        purpose: Purpose = "login",
    ) -> list[list[bytes]]:
        """Store a clip's hashes and return those of the subject's other clips.

        The clip is stored before it is judged, so that of one clip sent twice at the same time
        neither is accepted.

        Args:
            subject_id: For whom it was sent.
            clip_id: What is stored under the same id, from an earlier attempt, is the same clip
                and is not returned.
            hashes: From `models.faces.liveness.perceptual_hash.sample_hashes`.
            purpose: What it was sent for. Clips of both purposes are returned.

        Raises:
            SubjectNotFound: The subject was erased in the meantime; nothing was stored.
        """
        both: list[Purpose] = ["login", "enroll"]
        clips = {one: redis_keys.recent_clips(subject_id, one) for one in both}
        others = [key for one, key in clips.items() if one != purpose]
        keys = [clips[purpose], redis_keys.erased(subject_id), *others]
        clip = json.dumps([clip_id, base64.b64encode(b"".join(hashes)).decode()])
        args: list[str | int] = [clip, MAX_CLIPS, KEEP_SECONDS]
        rows = cast(list[bytes] | None, self._add(keys=keys, args=args))
        if rows is None:
            raise SubjectNotFound("The subject was erased.")
        others = [encoded for known, encoded in map(json.loads, rows) if known != clip_id]
        return [_split(base64.b64decode(encoded)) for encoded in others]


def _split(joined: bytes) -> list[bytes]:
    from models.faces.liveness.perceptual_hash import HASH_BYTES  # imports OpenCV

    return [joined[start : start + HASH_BYTES] for start in range(0, len(joined), HASH_BYTES)]
