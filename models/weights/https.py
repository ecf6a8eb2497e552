"""Files from a publisher's address: streamed, checked, and resumed where they broke off."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from models.weights.files import FetchError, matches, place

Progress = Callable[[int, int | None], None]
"""Called with the bytes had so far and, if known, the bytes in all."""


def unwatched(_done: int, _total: int | None) -> None:
    """The progress of a fetch that nobody looks at."""


_ATTEMPTS = 4
_PAUSE_SECONDS = 0.5
_TOO_SLOW = "was too slow; what came is kept for the next try"
_TIMEOUT = httpx.Timeout(30, connect=8)
_PASSING_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


class _TryAgainError(Exception):
    """A fault that may pass."""


def download(url: str, target: Path, digest: str, *, progress: Progress, deadline: float) -> None:
    """Fetch `url` to `target`, going on from ``<target>.part`` if an earlier try left one.

    Args:
        url: Where the file is.
        target: Where it shall be; appears only whole and with the right digest.
        digest: As `Check` takes it.
        progress: Told of the bytes as they come.
        deadline: When to give up, on `time.monotonic`'s clock. The part is kept.

    Raises:
        FetchError: The address gave no such file; says why.
    """
    part = target.with_name(f"{target.name}.part")
    fault = ""
    with httpx.Client(timeout=_TIMEOUT, follow_redirects=True) as client:
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_PAUSE_SECONDS * 2 ** (attempt - 1))
            if time.monotonic() >= deadline:
                raise FetchError(_TOO_SLOW)
            try:
                resumed = _stream(client, url, part, progress, deadline)
            except (httpx.TransportError, _TryAgainError) as error:
                fault = str(error) or type(error).__name__
                if attempt and isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
                    fault = "cannot be reached from this machine"
                    break
                continue
            if matches(part, digest):
                place(part, target)
                return
            part.unlink()
            fault = "what it sent is not the file it should be (digest differs)"
            if not resumed:  # a part that went bad earns a fresh start; a whole file does not
                break
    raise FetchError(fault)


@dataclass(frozen=True, slots=True)
class _Position:
    """Where an answer's bytes belong in the file."""

    start: int
    total: int | None


def _stream(
    client: httpx.Client, url: str, part: Path, progress: Progress, deadline: float
) -> bool:
    """Append what is missing to `part`; tell whether earlier bytes were kept.

    Raises:
        FetchError: The server refuses for good, or the deadline passed.
        _TryAgainError: The server refuses for now.
        httpx.TransportError: The connection failed.
    """
    held = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={held}-"} if held else {})
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return True  # nothing lies beyond the part: it is whole, or else its digest will tell
        position = _position(response, held)
        done = position.start
        with part.open("r+b" if done else "wb") as file:
            file.seek(done)
            for chunk in response.iter_bytes():
                file.write(chunk)
                done += len(chunk)
                progress(done, position.total)
                if time.monotonic() >= deadline:
                    raise FetchError(_TOO_SLOW)
    return position.start > 0


def _position(response: httpx.Response, held: int) -> _Position:
    """Read from the status and headers where the body starts and how long the file is."""
    status = response.status_code
    if status in _PASSING_STATUSES:
        raise _TryAgainError(f"answered {status}")
    if status == httpx.codes.PARTIAL_CONTENT:
        unit, _, total = response.headers.get("Content-Range", "").partition("/")
        if not unit.startswith(f"bytes {held}-"):
            raise FetchError("sent another range than was asked for")
        return _Position(held, int(total) if total.isdigit() else None)
    if status != httpx.codes.OK:
        raise FetchError(f"answered {status}")
    length = response.headers.get("Content-Length", "")
    return _Position(0, int(length) if length.isdigit() else None)
