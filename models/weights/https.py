"""Downloads files over HTTPS: streamed, verified, and resumed after an interruption."""

import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from models.weights.files import DownloadProgress, FetchError, has_digest, place

_ATTEMPTS = 4
_PAUSE_SECONDS = 0.5
_TOO_SLOW = "was too slow; the part that arrived is kept for the next attempt"
_TIMEOUT = httpx.Timeout(30, connect=8)
_TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


class _TransientError(Exception):
    """An error that may not occur again."""


def download(
    url: str,
    target: Path,
    digest: str,
    *,
    progress: DownloadProgress | None = None,
    deadline: float,
) -> None:
    """Download `url` to `target`, resuming from ``<target>.part`` if an earlier attempt left one.

    Args:
        target: Appears only when it is complete and has the right digest.
        digest: See `models.weights.files.DigestCheck`.
        deadline: When to give up, on the clock of `time.monotonic`. The part is kept.

    Raises:
        FetchError: The download failed; the message says why.
    """
    part = target.with_name(f"{target.name}.part")
    failure = ""
    with httpx.Client(timeout=_TIMEOUT, follow_redirects=True) as client:
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_PAUSE_SECONDS * 2 ** (attempt - 1))
            if time.monotonic() >= deadline:
                raise FetchError(_TOO_SLOW)
            try:
                resumed = _stream(client, url, part, progress, deadline)
            except (httpx.TransportError, _TransientError) as error:
                failure = str(error) or type(error).__name__
                if attempt and isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
                    failure = "cannot be reached from this machine"
                    break
                continue
            if has_digest(part, digest):
                place(part, target)
                return
            part.unlink()
            failure = "it sent a different file than expected (digest differs)"
            if not resumed:  # only a damaged part is worth another attempt
                break
    raise FetchError(failure)


@dataclass(frozen=True, slots=True)
class _Position:
    """Where the body of a response belongs in the file, in bytes."""

    start: int
    total: int | None


def _stream(
    client: httpx.Client,
    url: str,
    part: Path,
    progress: DownloadProgress | None,
    deadline: float,
) -> bool:
    """Append what is missing to `part`; return whether earlier bytes were kept.

    Raises:
        FetchError: The server refuses permanently, or the deadline has passed.
        _TransientError: The server refuses temporarily.
        httpx.TransportError: The connection failed.
    """
    held = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={held}-"} if held else {})
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return True  # the part is complete, or its digest will differ
        position = _position(response, held)
        done = position.start
        with part.open("r+b" if done else "wb") as file:
            file.seek(done)
            for chunk in response.iter_bytes():
                file.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, position.total)
                if time.monotonic() >= deadline:
                    raise FetchError(_TOO_SLOW)
    return position.start > 0


def _position(response: httpx.Response, held: int) -> _Position:
    """Determine from status and headers where the body starts and how long the file is."""
    status = response.status_code
    if status in _TRANSIENT_STATUSES:
        raise _TransientError(f"answered {status}")
    if status == httpx.codes.PARTIAL_CONTENT:
        unit, _, total = response.headers.get("Content-Range", "").partition("/")
        if not unit.startswith(f"bytes {held}-"):
            raise FetchError("sent another range than requested")
        return _Position(held, int(total) if total.isdigit() else None)
    if status != httpx.codes.OK:
        raise FetchError(f"answered {status}")
    length = response.headers.get("Content-Length", "")
    return _Position(0, int(length) if length.isdigit() else None)
