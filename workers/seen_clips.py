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
from contracts.errors import SubjectNotFound

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
            looks: As `models.faces.looks.looks_kept` keeps them.

        Raises:
            SubjectNotFound: The subject was erased meanwhile; nothing was kept.
        """
        keys = [names.clips_seen(subject_id), names.erased(subject_id)]
        told = json.dumps([clip_id, base64.b64encode(b"".join(looks)).decode()])
        args: list[str | int] = [told, MOST_CLIPS, KEEP_SECONDS]
        rows = cast(list[bytes] | None, self._put(keys=keys, args=args))
        if rows is None:
            raise SubjectNotFound("The subject was erased.")
        others = [looks for known, looks in map(json.loads, rows) if known != clip_id]
        return [_split(base64.b64decode(one)) for one in others]


def _split(joined: bytes) -> list[bytes]:
    from models.faces.looks import LOOK_BYTES  # noqa: PLC0415  OpenCV, when a clip has come

    return [joined[at : at + LOOK_BYTES] for at in range(0, len(joined), LOOK_BYTES)]
