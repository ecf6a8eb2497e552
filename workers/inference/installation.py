"""Ends a worker whose home is not that of the service in whose Redis it looks for work."""

from collections.abc import Callable
from pathlib import Path

import redis
import structlog

from contracts.queue import redis_keys
from contracts.queue.installation import is_foreign
from database.installation import home_id

log = structlog.get_logger()


class InstallationCheck:
    """Compares the two ids with each heartbeat, and before a task unless they are known to agree.

    Called with a connection to Redis, it raises its errors.

    Args:
        home: The worker's; it may get its id later, when the first API starts.
        end: Ends this process in an orderly way.
    """

    def __init__(self, home: Path, end: Callable[[], None]) -> None:
        self._home = home
        self._end = end
        self._id: str | None = None
        self._agrees = False
        self._ended = False

    def home_id(self) -> str | None:
        """The id of the home, which stays once it is known; None if it has none yet."""
        if self._id is None:
            self._id = home_id(self._home)
        return self._id

    def __call__(self, client: "redis.Redis") -> bool:
        self._agrees = False
        holder = client.get(redis_keys.INSTALLATION)
        own = self.home_id()
        if is_foreign(own, holder):
            if not self._ended:
                hint = "check OPSIN_HOME and its mount, and OPSIN_REDIS_URL"
                log.error("foreign_home", home=str(self._home), hint=hint)
                self._ended = True
                self._end()
            return False
        self._agrees = holder is not None
        return True

    def may_take(self, client: "redis.Redis") -> bool:
        """Whether a task may be done now."""
        return self._agrees or self(client)
