"""Redis, database, port, API and workers, as far as they run. None of them has to."""

import time
from collections.abc import Iterator

from cli.api import Api
from cli.checks.check import Check
from cli.failure import CommandError
from cli.home import Home
from cli.up import require_free_port, require_key
from cli.valkey import running
from contracts.registry import SystemInfo
from contracts.release import RELEASE
from contracts.settings import Settings

_REDIS_SECONDS = 3.0


def service(settings: Settings) -> Iterator[Check]:
    """Looks at what runs, or why it could not."""
    yield _key(settings)
    yield _redis(settings)
    yield _database(settings)
    api = Api(settings)
    if not api.is_opsin():
        yield _port(settings)
        return
    yield _readiness(api)
    yield from _versions(api)


def _key(settings: Settings) -> Check:
    try:
        require_key(settings)
    except CommandError as error:
        return Check("key", "fail", error.message)
    return Check("key", "ok", "not needed on loopback" if settings.api_key is None else "set")


def _redis(settings: Settings) -> Check:
    import redis  # noqa: PLC0415 (slow to load; other commands do without)

    url = settings.redis_url or running(Home(settings.home))
    if url is None:
        return Check("redis", "ok", "none configured: `opsin up` brings its own Valkey")
    try:
        with redis.Redis.from_url(
            url, socket_timeout=_REDIS_SECONDS, socket_connect_timeout=_REDIS_SECONDS
        ) as client:
            began = time.perf_counter()
            client.ping()
            milliseconds = (time.perf_counter() - began) * 1000
            server, memory = client.info("server"), client.info("memory")
    except redis.RedisError as error:
        help_ = "Start it, or correct OPSIN_REDIS_URL."
        return Check("redis", "fail", f"does not answer ({error})", help_)
    detail = (
        f"{server.get('server_name', 'redis')} "
        f"{server.get('valkey_version', server['redis_version'])}, {milliseconds:.1f} ms"
    )
    policy = memory.get("maxmemory_policy")
    if policy != "noeviction":
        help_ = "Set maxmemory-policy noeviction, or queued work may vanish."
        return Check("redis", "fail", f"{detail}, evicts ({policy})", help_)
    return Check("redis", "ok", f"{detail}, noeviction")


def _database(settings: Settings) -> Check:
    from sqlalchemy import create_engine, inspect, text  # noqa: PLC0415 (slow to load)
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    if settings.database_url is None and not (settings.home / "opsin.db").exists():
        return Check("database", "ok", "not made yet; `opsin up` and `opsin serve` make it")
    try:
        engine = create_engine(settings.database)
        with engine.connect() as connection:
            migrated = inspect(connection).has_table("alembic_version")
            revision = (
                connection.scalar(text("SELECT version_num FROM alembic_version"))
                if (migrated)
                else None
            )
        engine.dispose()
    except (SQLAlchemyError, ImportError) as error:
        help_ = "Start it, or correct OPSIN_DATABASE_URL."
        return Check("database", "fail", f"does not answer ({type(error).__name__})", help_)
    if revision is None:
        help_ = "`opsin up` and `opsin serve` make them."
        return Check("database", "warn", f"{engine.dialect.name}, no tables yet", help_)
    return Check("database", "ok", f"{engine.dialect.name}, revision {revision}")


def _port(settings: Settings) -> Check:
    try:
        require_free_port(settings)
    except CommandError as error:
        return Check("port", "fail", error.message)
    return Check("port", "ok", f"{settings.host}:{settings.port} is free; nothing runs there")


def _readiness(api: Api) -> Check:
    state = api.readiness()
    if state is not None and state.ready:
        return Check("api", "ok", f"ready at {api.url}")
    why = "says nothing of its state" if state is None else (state.detail or "not ready")
    return Check("api", "fail", f"{api.url}: {why}", "The logs are in $OPSIN_HOME/logs.")


def _jobs(system: SystemInfo) -> Iterator[Check]:
    waiting = sum(queue.queued for queue in system.job_queues or ())
    running = sum(queue.running for queue in system.job_queues or ())
    depth = f"{running} running, {waiting} waiting"
    if system.job_workers:
        yield Check("jobs", "ok", f"{_counted(len(system.job_workers), 'job worker')}, {depth}")
    else:
        help_ = "Start one with `opsin worker --jobs`; `opsin up` brings its own."
        yield Check("jobs", "warn", f"no job worker, {depth}", help_)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _versions(api: Api) -> Iterator[Check]:
    system = api.system()
    if system is None:
        yield Check("versions", "warn", "/v1/system does not answer", "Set OPSIN_API_KEY.")
        return
    found = {f"API {system.version}"} | {
        f"worker {one.release}" for one in (*system.workers, *system.job_workers)
    }
    differs = {one.split()[1] for one in found} != {RELEASE}
    help_ = f"This command is {RELEASE}; restart the others." if differs else ""
    yield Check("versions", "warn" if differs else "ok", ", ".join(sorted(found)), help_)
    yield from _jobs(system)
    for model in system.models:
        detail = f"{model.state}. {model.reason or ''}".strip()
        yield Check(f"model {model.name}", "ok" if model.state == "ready" else "warn", detail)
