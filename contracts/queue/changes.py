"""The wire format of the change feed, by which API processes tell each other what has changed.

Each entry of the Redis stream names topics. A process that has read an entry reads again whatever
it holds in memory about them, and then sets its own key to the id of the entry. Whoever made the
change waits for that, so that the next request finds the change in every process.
"""

from collections.abc import Iterable, Mapping
from typing import Final, Literal

Topic = Literal["keys", "models", "faces"]
TOPICS: Final[tuple[Topic, ...]] = ("keys", "models", "faces")

EntryId = tuple[int, int]
"""Of an entry in the stream: milliseconds by the clock of Redis, and a number."""

NO_ENTRY: Final[EntryId] = (0, 0)
KEPT_ENTRIES = 1000

FRESH_SECONDS = 2.0
"""How long a process may use what it knows without a check of its own; see `service.changes`."""

API_PROCESS_EXPIRE_SECONDS = 3.0

_TOPICS, _SENDER = b"topics", b"by"


def pack_change(topics: Iterable[Topic], sender: str) -> dict[str, str]:
    """The fields of an entry.

    Args:
        topics: What has changed.
        sender: The process that made the change; it has applied it already.
    """
    return {_TOPICS.decode(): ",".join(topics), _SENDER.decode(): sender}


def topics_of(fields: Mapping[bytes, bytes]) -> frozenset[Topic]:
    """What an entry says has changed: everything, if it names a topic of a later release."""
    named = fields.get(_TOPICS, b"").decode(errors="replace").split(",")
    known = frozenset(topic for topic in TOPICS if topic in named)
    return known if len(known) == len(named) else frozenset(TOPICS)


def sender_of(fields: Mapping[bytes, bytes]) -> str:
    """The process that wrote an entry."""
    return fields.get(_SENDER, b"").decode(errors="replace")


def parse_entry_id(raw: bytes | str | None) -> EntryId:
    """The id of an entry as numbers, which compare in the order of the stream."""
    text = raw.decode(errors="replace") if isinstance(raw, bytes) else raw or ""
    milliseconds, _, number = text.partition("-")
    try:
        return int(milliseconds), int(number)
    except ValueError:
        return NO_ENTRY


def format_entry_id(entry: EntryId) -> str:
    """As Redis writes it."""
    return f"{entry[0]}-{entry[1]}"
