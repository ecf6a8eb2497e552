"""Files that are sent from memory: those of the console, its samples and the documentation.

From the disk, each request would take a thread, and hold an open file until its client has read it.
"""

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import Request, Response

from service.http.conditional import is_gzip_accepted
from service.http.files import FileContent, file_response


@dataclass(frozen=True, slots=True)
class Asset:
    """One file, as it is and, if that is worth it, compressed."""

    plain: bytes
    packed: bytes | None
    media_type: str
    digest: str

    @classmethod
    def of(cls, content: bytes, media_type: str, *, packs: bool = True) -> "Asset":
        packed = gzip.compress(content, mtime=0) if packs else None
        return cls(content, packed, media_type, hashlib.sha256(content).hexdigest()[:32])

    def response(self, request: Request, headers: Mapping[str, str]) -> Response:
        """The file, a part of it, or that the client has it already.

        Args:
            request: What the client has and wants.
            headers: Additional ones.
        """
        sent, content, etag = dict(headers), self.plain, f'"{self.digest}"'
        if self.packed is not None:
            sent["Vary"] = "Accept-Encoding"
            if is_gzip_accepted(request.headers):
                sent["Content-Encoding"] = "gzip"
                content, etag = self.packed, f'"{self.digest}-gzip"'
        whole = FileContent.of(content, etag)
        return file_response(request, whole, media_type=self.media_type, headers=sent)
