"""The request that caused a piece of work; it travels with an image, and in a job's row.

`TraceContext` is the header `traceparent` of W3C Trace Context.
"""

import json
import re
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Self

_HEADER = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1
# Printable ASCII, so that an id can neither split a header nor forge a log line.
REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A span, as the parent of others.

    Attributes:
        trace_id: 32 hexadecimal digits.
        span_id: 16 hexadecimal digits.
        flags: 2 hexadecimal digits, as they were sent.
    """

    trace_id: str
    span_id: str
    flags: str

    @classmethod
    def parse(cls, header: str) -> Self | None:
        """The context of a header `traceparent`; None if it is not valid."""
        match = _HEADER.fullmatch(header.strip())
        if match is None or (match[1] == "00" and match[5]):
            return None
        if not match[2].strip("0") or not match[3].strip("0"):
            return None
        return cls(match[2], match[3], match[4])

    @property
    def header(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"

    @property
    def is_sampled(self) -> bool:
        """Whether its spans are recorded."""
        return bool(int(self.flags, 16) & _SAMPLED)


@dataclass(frozen=True, slots=True)
class Origin:
    """A request, and its part of a trace.

    Attributes:
        request_id: As in its `X-Request-Id`; empty if unknown.
        trace: None without a trace.
    """

    request_id: str = ""
    trace: TraceContext | None = None

    @property
    def log_fields(self) -> dict[str, str]:
        """For log lines about work of this origin."""
        fields = {"request_id": self.request_id} if self.request_id else {}
        return fields | ({"trace_id": self.trace.trace_id} if self.trace else {})

    @property
    def sampled(self) -> TraceContext | None:
        """Its trace, if that is recorded."""
        return self.trace if self.trace is not None and self.trace.is_sampled else None

    def as_json(self) -> dict[str, str]:
        """As it is stored; without what is unknown."""
        stored = {"request_id": self.request_id} if self.request_id else {}
        return stored | ({"traceparent": self.trace.header} if self.trace else {})

    @classmethod
    def of_json(cls, stored: object) -> Self:
        """What `as_json` gave, possibly of another release; whatever is not valid is left out."""
        if not isinstance(stored, Mapping):
            return cls()
        request_id, header = stored.get("request_id"), stored.get("traceparent")
        known = isinstance(request_id, str) and REQUEST_ID.fullmatch(request_id)
        trace = TraceContext.parse(header) if isinstance(header, str) else None
        return cls(str(request_id) if known else "", trace)


NO_ORIGIN = Origin()

_CURRENT: ContextVar[Origin] = ContextVar("origin", default=NO_ORIGIN)


def current_origin() -> Origin:
    """The request that is being answered."""
    return _CURRENT.get()


def set_origin(origin: Origin) -> None:
    """From now on in this task, and in those that it starts."""
    _CURRENT.set(origin)


# A JSON object is what workers of the release before expect; they ignore a member they do not know.
_MEMBER = b'{"origin":'
_DECODER = json.JSONDecoder()
# The usual member, without escapes: reading it as JSON takes five times as long.
_USUAL = re.compile(
    rb'\{"origin":\{"request_id":"([!#-\[\]-~]{1,128})"'
    rb'(?:,"traceparent":"([0-9a-f-]{55})")?\}([,}])'
)


def with_origin(note: bytes, origin: Origin) -> bytes:
    """An item's note with its origin as the first member."""
    stored = origin.as_json()
    if not stored or (note and not (note[:1] == b"{" and len(note) > 2)):
        return note
    if '"' in origin.request_id or "\\" in origin.request_id:
        text = json.dumps(stored, separators=(",", ":"))
    else:
        members = ",".join(f'"{name}":"{value}"' for name, value in stored.items())
        text = f"{{{members}}}"
    member = _MEMBER + text.encode()
    return member + (b"," + note[1:] if note else b"}")


def split_origin(note: bytes) -> tuple[bytes, Origin]:
    """An item's note as it was before `with_origin`, and the origin."""
    if not note.startswith(_MEMBER):
        return note, NO_ORIGIN
    if usual := _USUAL.match(note):
        header = usual[2]
        trace = TraceContext.parse(header.decode()) if header else None
        rest = b"" if usual[3] == b"}" else b"{" + note[usual.end() :]
        return rest, Origin(usual[1].decode(), trace)
    try:
        text = note.decode()
        stored: Any
        stored, end = _DECODER.raw_decode(text, len(_MEMBER))
    except ValueError:
        return note, NO_ORIGIN
    others = text[end:]
    return (b"" if others == "}" else b"{" + others[1:].encode()), Origin.of_json(stored)
