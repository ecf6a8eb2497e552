"""What clients and operators are told when Redis refuses a command or does not answer."""

from collections.abc import Iterator
from contextlib import contextmanager

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from contracts.errors import DiskUnusable, NeedsOperator, Unavailable
from contracts.queue.retries import is_refusal

_SILENT = "The queue does not answer. Retry shortly."
_ASK = "Ask the service's operator."
_REFUSED = "Redis refuses the password or the rights in OPSIN_REDIS_URL."
# Part of what Redis answers, and what it means.
_ANSWERS: tuple[tuple[str, type[Unavailable], str], ...] = (
    ("MISCONF", DiskUnusable, "Redis cannot write to its disk, which is full or broken."),
    ("maxmemory", NeedsOperator, "Redis has no memory left (maxmemory)."),
    ("read only replica", NeedsOperator, "Redis is a read-only replica, which is no use here."),
    ("enough good replicas", NeedsOperator, "Redis has too few replicas (min-replicas-to-write)."),
    ("max number of clients", Unavailable, "Redis has as many clients as it accepts (maxclients)."),
    ("is loading", Unavailable, "Redis is loading its data."),
)


def redis_fault(error: BaseException) -> tuple[type[Unavailable], str] | None:
    """What Redis has answered, as a kind of error and a sentence; None if it did not answer."""
    if is_refusal(error):
        return NeedsOperator, _REFUSED
    said = str(error)
    return next(((kind, text) for part, kind, text in _ANSWERS if part in said), None)


def redis_unavailable(error: Exception, detail: str = _SILENT) -> Unavailable:
    """The error for clients when Redis, or Celery's connection to it, has failed.

    Args:
        error: What was raised.
        detail: What to tell if Redis did not answer.
    """
    fault = redis_fault(error)
    if fault is None:
        return Unavailable(detail, retry_after=2)
    kind, text = fault
    if issubclass(kind, NeedsOperator):
        return kind(f"{text} {_ASK}", retry_after=60)
    return kind(f"{text} Retry shortly.", retry_after=2)


@contextmanager
def redis_required(detail: str = _SILENT) -> Iterator[None]:
    """Turn the errors of a Redis that does not answer into an error for the client.

    Args:
        detail: As for `redis_unavailable`.

    Raises:
        Unavailable: Redis, or Celery's connection to it, does not answer, or it cannot write.
    """
    try:
        yield
    except (RedisError, OperationalError, OSError) as error:
        raise redis_unavailable(error, detail) from error
