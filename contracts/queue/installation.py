"""Which installation a Redis belongs to, so that no other one takes its images and jobs.

A worker with another home has other versions under the same names, and would answer wrongly. So the
API writes the id of its home (`database.installation`) to Redis for as long as it runs, before it
queues anything; a worker compares it with that of its own home. Its heartbeats name that too, and
the API ignores those of other homes.
"""

INSTALLATION_EXPIRE_SECONDS = 5.0
"""Another installation may use the Redis when no API has run for so long."""


def is_foreign(home_id: str | None, holder: object) -> bool:
    """Whether a process with this home may not take what is in Redis.

    Args:
        home_id: None if the home has no id: it is empty, or not mounted. An API has given one to
            its own.
        holder: What Redis has under `redis_keys.INSTALLATION`: bytes; None if no API runs, or one
            of an earlier release.
    """
    return isinstance(holder, bytes) and holder.decode("ascii", "replace") != home_id
