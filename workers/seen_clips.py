"""The looks of clips that were sent for a subject, so that none is taken twice.

They lie in Redis for a month, the last sixteen of each subject: 32 bytes for each quarter of a
second, from which no face can be had. They go when the subject goes.
"""

import base64
import json
from collections.abc import Sequence
from typing import cast

import redis

from contracts import names
from models.faces.looks import LOOK_BYTES

MOST_CLIPS = 16
KEEP_SECONDS = 30 * 24 * 3600


class SeenClips:
    """All of them.

    Args:
        client: A connection whose answers are bytes.
    """

    def __init__(self, client: "redis.Redis") -> None:
        self._client = client

    def put(self, subject_id: str, clip_id: str, looks: Sequence[bytes]) -> list[list[bytes]]:
        """Keep a clip's looks, and give back those of the others.

        It is put there first, so that of one clip sent twice at once neither is taken.

        Args:
            subject_id: For whom it was sent.
            clip_id: Of this clip; what is there under it already, from an attempt before, is the
                same clip and is not given back.
            looks: As `models.faces.looks.looks_kept` keeps them.
        """
        key = names.clips_seen(subject_id)
        told = json.dumps([clip_id, base64.b64encode(b"".join(looks)).decode()])
        pipe = self._client.pipeline()
        pipe.lpush(key, told)
        pipe.ltrim(key, 0, MOST_CLIPS - 1)
        pipe.expire(key, KEEP_SECONDS)
        pipe.lrange(key, 0, -1)
        rows = cast(list[bytes], pipe.execute()[-1])
        others = [looks for known, looks in map(json.loads, rows) if known != clip_id]
        return [_split(base64.b64decode(one)) for one in others]


def _split(joined: bytes) -> list[bytes]:
    return [joined[at : at + LOOK_BYTES] for at in range(0, len(joined), LOOK_BYTES)]
