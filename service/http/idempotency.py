"""Whether two requests under one `Idempotency-Key` are the same."""

import hashlib
from collections.abc import Sequence

from service.http.uploads import Upload


def digest_of(asked: str, uploads: Sequence[Upload]) -> str:
    """Equal for equal requests.

    Args:
        asked: All that was asked, in one unambiguous text.
        uploads: The images; each one's name and bytes count.
    """
    digest = hashlib.sha256(asked.encode())
    for upload in uploads:
        data = upload.data if isinstance(upload.data, bytes) else upload.data.code.encode()
        digest.update(repr((upload.name, len(data))).encode())
        digest.update(data)
    return digest.hexdigest()
