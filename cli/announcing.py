"""Tells a running service what a command has changed, so that the next request finds it."""

from cli.home import Home
from cli.processes.valkey import running_url
from contracts.queue.changes import Topic
from contracts.settings import Settings

_CONNECT_SECONDS = 1.0


def announce_change(settings: Settings, topic: Topic) -> None:
    """Wait until all API processes know; without Redis, they notice within two seconds."""
    url = settings.redis_url or running_url(Home(settings.home))
    if url is None:
        return  # nothing runs
    import redis  # slow to load

    from contracts.queue.announcing import announce

    try:
        with redis.Redis.from_url(
            url, socket_timeout=_CONNECT_SECONDS, socket_connect_timeout=_CONNECT_SECONDS
        ) as client:
            announce(client, topic)
    except (redis.RedisError, OSError):
        return
