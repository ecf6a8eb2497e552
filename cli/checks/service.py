"""Redis, database, port, API and workers, as far as they run. None of them has to run."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from packaging.version import Version

from cli.access import MAKE_CLI_KEY, Access, access, cli_key_file, locked_text
from cli.checks.check import Check
from cli.clients.api import Api
from cli.home import Home
from cli.output import CommandError, counted
from cli.processes.valkey import running_url
from cli.startup import require_database, require_free_port, require_home, require_key
from contracts.errors import OpsinError
from contracts.inference.registry import SystemInfo
from contracts.queue import redis_keys
from contracts.queue.clock import MAX_AHEAD_SECONDS
from contracts.queue.heartbeat import read_heartbeats
from contracts.queue.installation import is_foreign
from contracts.settings import RELEASE, Settings

if TYPE_CHECKING:
    import redis

_REDIS_SECONDS = 3.0
_MIN_REDIS = Version("6.2")  # the first that pops several items of a list at once
_MIGRATE = "`opsin up` and `opsin serve`"


def service(settings: Settings) -> Iterator[Check]:
    """Check what runs, or why it could not."""
    yield _key(settings)
    yield _redis(settings)
    yield from _redis_file(settings)
    yield from _installation(settings)
    database = _database(settings)
    yield database
    if database.state == "ok":
        yield from _erasures(settings)
    api = Api(settings)
    runs = api.is_opsin()
    system = api.system() if runs else None
    yield from _releases(_worker_releases(settings), system)
    if not runs:
        yield _port(settings)
        return
    yield _readiness(api)
    yield from _versions(system)


def _key(settings: Settings) -> Check:
    if settings.api_key is not None:
        return Check("key", "ok", "OPSIN_API_KEY is set")
    from sqlalchemy.exc import SQLAlchemyError  # slow to load

    try:
        require_key(settings)
        found = access(settings)
    except CommandError as error:
        return Check("key", "fail", error.message, "Set OPSIN_API_KEY.")
    except (OpsinError, SQLAlchemyError):
        return Check("key", "ok", "unknown: see the database")
    return _key_of(settings, found)


def _key_of(settings: Settings, found: Access) -> Check:
    if found.state == "open":
        return Check("key", "ok", "none needed on this machine: there is no key")
    if found.state == "locked":
        return Check("key", "fail", "required, but none works", locked_text(settings))
    if found.cli_key is None:
        detail = "required, and the commands on this machine have none that works"
        return Check("key", "warn", detail, MAKE_CLI_KEY)
    file = cli_key_file(settings.home)
    if file.stat().st_mode & 0o077:
        return Check("key", "fail", f"others can read {file}", f"`chmod 600 {file}`")
    return Check("key", "ok", f"required; the commands on this machine use {file}")


def _redis(settings: Settings) -> Check:
    import redis  # slow to load; other commands do without

    url = settings.redis_url or running_url(Home(settings.home))
    if url is None:
        return Check("redis", "ok", "none configured: `opsin up` starts Valkey")
    try:
        with redis.Redis.from_url(
            url, socket_timeout=_REDIS_SECONDS, socket_connect_timeout=_REDIS_SECONDS
        ) as client:
            began = time.perf_counter()
            client.ping()
            milliseconds = (time.perf_counter() - began) * 1000
            server, memory = client.info("server"), client.info("memory")
    except redis.ResponseError:
        help_ = "Allow it, or make sure that it is 6.2 or later and never evicts keys."
        return Check("redis", "warn", "answers, but does not allow INFO", help_)
    except (redis.RedisError, OSError) as error:
        help_ = "Start it (`docker compose up -d redis`), or correct OPSIN_REDIS_URL."
        return Check("redis", "fail", f"does not answer ({type(error).__name__})", help_)
    number = str(server.get("valkey_version", server.get("redis_version", "0")))
    detail = f"{server.get('server_name', 'redis')} {number}, {milliseconds:.1f} ms"
    if Version(str(server.get("redis_version", "0"))) < _MIN_REDIS:
        help_ = f"Run Valkey, or Redis {_MIN_REDIS} or later (`make up` brings Valkey)."
        return Check("redis", "fail", f"{detail}: too old", help_)
    policy = memory.get("maxmemory_policy")
    if policy != "noeviction":
        help_ = "`valkey-cli CONFIG SET maxmemory-policy noeviction`, or queued work may be lost."
        return Check("redis", "fail", f"{detail}, evicts ({policy})", help_)
    return Check("redis", "ok", f"{detail}, noeviction")


def _installation(settings: Settings) -> Iterator[Check]:
    """Fail if the service that uses the Redis has another home."""
    import redis

    from database.installation import home_id  # SQLAlchemy

    url = settings.redis_url or running_url(Home(settings.home))
    if url is None:
        return
    try:
        with redis.Redis.from_url(
            url, socket_timeout=_REDIS_SECONDS, socket_connect_timeout=_REDIS_SECONDS
        ) as client:
            holder = client.get(redis_keys.INSTALLATION)
    except (redis.RedisError, OSError):
        return  # Redis is checked by `_redis`
    if is_foreign(home_id(settings.home), holder):
        help_ = "Set OPSIN_HOME to its home, or mount that disk, or correct OPSIN_REDIS_URL."
        detail = f"used by a service with another home than {settings.home}"
        yield Check("redis", "fail", detail, help_)


def _redis_file(settings: Settings) -> Iterator[Check]:
    """Warn if erased data stays in Redis' append-only file until its provider rewrites it."""
    import redis

    if settings.redis_url is None:
        return  # the embedded Valkey allows it
    try:
        with redis.Redis.from_url(
            settings.redis_url,
            socket_timeout=_REDIS_SECONDS,
            socket_connect_timeout=_REDIS_SECONDS,
        ) as client:
            if _may_rewrite(client):
                return
    except (redis.RedisError, OSError):
        return  # reported by `_redis`
    detail = "does not allow BGREWRITEAOF: what was erased stays in its file, if it writes one"
    yield Check("redis", "warn", detail, "Its provider rewrites the file when it has grown.")


def _may_rewrite(client: "redis.Redis") -> bool:
    """Whether the server has BGREWRITEAOF and this user may call it, without calling it."""
    from redis.exceptions import NoPermissionError, ResponseError

    try:
        # redis-py's own method cannot read the answer for an unknown command.
        known: Any = client.execute_command("COMMAND INFO", "BGREWRITEAOF")  # type: ignore[no-untyped-call]
        if not known or known[0] is None:
            return False
        answer: Any = client.acl_dryrun(str(client.acl_whoami()), "BGREWRITEAOF")
    except NoPermissionError:
        return False
    except ResponseError:
        return True  # before Redis 7, it cannot be asked
    return answer in {b"OK", "OK", True}


def _database(settings: Settings) -> Check:
    from sqlalchemy.exc import SQLAlchemyError  # slow to load

    from database.migrations import current, is_known, newest

    kind = "postgresql" if (settings.database_url or "").startswith("postgresql") else "sqlite"
    if settings.database_url is None and not (settings.home / "opsin.db").exists():
        created = Check("database", "ok", "not created yet; `opsin up` and `opsin serve` create it")
        return _no_database(settings, created)
    try:
        revision, latest = current(settings.database), newest()
    except (OpsinError, SQLAlchemyError, ValueError, ImportError) as error:
        return _database_error(kind, error)
    if revision is None:
        empty = Check("database", "warn", f"{kind}, no tables yet", f"{_MIGRATE} create them.")
        return _no_database(settings, empty)
    if revision == latest:
        return _database_of_home(settings, f"{kind}, revision {revision}")
    if is_known(revision):
        detail = f"{kind}, not migrated: its tables are of {revision}, this release needs {latest}"
        return Check("database", "fail", detail, f"{_MIGRATE} bring them up to date; restart.")
    detail = f"{kind}, its tables ({revision}) are of a later release than this one"
    return Check("database", "fail", detail, "Run that release, or `opsin restore` a backup.")


def _no_database(settings: Settings, fresh: Check) -> Check:
    """The check of a database that does not exist: `fresh`, unless the home belongs to another."""
    try:
        require_database(settings)
    except CommandError as error:
        return Check("database", "fail", "there is none, and the home belongs to one", str(error))
    return fresh


def _database_of_home(settings: Settings, detail: str) -> Check:
    try:
        require_home(settings)
    except CommandError as error:
        return Check("database", "fail", "not that of this home", str(error))
    return Check("database", "ok", detail)


def _erasures(settings: Settings) -> Iterator[Check]:
    """Whether this role of PostgreSQL may rewrite the tables, as every erasure needs."""
    if settings.database_url is None:
        return
    from database.engine import open_engine
    from database.secure_delete import tables_of_others

    engine = open_engine(settings.database)
    try:
        others = tables_of_others(engine)
    except OpsinError:
        return  # the check of the database says so
    finally:
        engine.dispose()
    if others:
        detail = f"none ends: {', '.join(others)} belong to another role, so they are not rewritten"
        help_ = "As their owner: `ALTER TABLE … OWNER TO` the role of OPSIN_DATABASE_URL."
        yield Check("erasures", "fail", detail, help_)


def _database_error(kind: str, error: Exception) -> Check:
    from database.engine import DamagedDatabaseError  # SQLAlchemy

    if isinstance(error, DamagedDatabaseError):
        help_ = "Stop Opsin, and `opsin restore --force` a backup, which moves the file aside."
        return Check("database", "fail", "sqlite, the file is damaged or not a database", help_)
    if kind == "sqlite" and isinstance(error, OpsinError):
        what, _, help_ = error.detail.partition(". ")
        return Check("database", "fail", f"{kind}: {what[0].lower()}{what[1:].rstrip('.')}", help_)
    help_ = "Start it, or correct OPSIN_DATABASE_URL."
    return Check("database", "fail", f"does not answer ({type(error).__name__})", help_)


def _port(settings: Settings) -> Check:
    try:
        require_free_port(settings)
    except CommandError as error:
        help_ = f"`ss -ltnp sport = :{settings.port}` shows which process listens there."
        return Check("port", "fail", error.message, help_)
    return Check("port", "ok", f"{settings.host}:{settings.port} is free; nothing runs there")


def _readiness(api: Api) -> Check:
    state = api.readiness()
    if state is not None and state.ready:
        return Check("api", "ok", f"ready at {api.url}")
    reason = "does not report its state" if state is None else (state.detail or "not ready")
    if state is not None and state.worker == "loading" and state.redis == state.database == "ok":
        names = ", ".join(state.loading or [])
        help_ = f"Wait, it is still starting{f' ({names})' if names else ''}; then check again."
        return Check("api", "warn", f"{api.url}: {reason}", help_)
    return Check("api", "fail", f"{api.url}: {reason}", "The logs are in $OPSIN_HOME/logs.")


def _worker_releases(settings: Settings) -> set[str]:
    """The releases of all living workers, even if the API cannot read their heartbeats."""
    import redis

    url = settings.redis_url or running_url(Home(settings.home))
    if url is None:
        return set()
    try:
        with redis.Redis.from_url(
            url, socket_timeout=_REDIS_SECONDS, socket_connect_timeout=_REDIS_SECONDS
        ) as client:
            return read_heartbeats(client).releases()
    except (redis.RedisError, OSError, ValueError, AttributeError):
        return set()  # Redis is checked by `_redis`


def _releases(workers: set[str], system: SystemInfo | None) -> Iterator[Check]:
    """Compare the releases of API and workers, which their heartbeats name."""
    api = {system.version} if system else set()
    if not (workers or api):
        return
    parts = [f"API {release}" for release in api]
    text = ", ".join(parts + [f"worker {release}" for release in sorted(workers)])
    if len(workers | api) > 1:
        help_ = "Restart the older part (`opsin up`, `docker compose up -d`): all need one release."
        yield Check("versions", "fail", f"{text}: they may not understand each other", help_)
    elif workers | api != {RELEASE}:
        help_ = f"This command is {RELEASE}: restart the service with `opsin up`."
        yield Check("versions", "warn", text, help_)
    else:
        yield Check("versions", "ok", text)


def _jobs(system: SystemInfo) -> Iterator[Check]:
    queued = sum(queue.queued for queue in system.job_queues or ())
    active = sum(queue.running for queue in system.job_queues or ())
    depth = f"{active} running, {queued} waiting"
    if system.job_workers:
        yield Check("jobs", "ok", f"{counted(len(system.job_workers), 'job worker')}, {depth}")
    else:
        help_ = "Start one with `opsin worker --jobs`; `opsin up` starts one."
        yield Check("jobs", "warn", f"no job worker, {depth}", help_)


def _clocks(system: SystemInfo) -> Iterator[Check]:
    """Name the hosts of workers whose clock is not that of Redis."""
    ahead = {
        worker.host: worker.clock_ahead
        for worker in (*system.workers, *system.job_workers)
        if worker.clock_ahead is not None and abs(worker.clock_ahead) > MAX_AHEAD_SECONDS
    }
    for host, seconds in sorted(ahead.items()):
        detail = f"{host}: {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} Redis"
        help_ = "Nothing fails, but times in logs and records differ. Run NTP on all hosts."
        yield Check("clock", "warn", detail, help_)


def _versions(system: SystemInfo | None) -> Iterator[Check]:
    if system is None:
        help_ = f"It may need a key: see the line `key`. {MAKE_CLI_KEY}"
        yield Check("system", "warn", "/v1/system does not answer", help_)
        return
    yield from _jobs(system)
    yield from _clocks(system)
    for model in system.models:
        partly = model.state == "unavailable" and model.operations
        state = f"partly: {', '.join(model.operations)}" if partly else model.state
        detail = f"{state}. {model.reason}" if model.reason else state
        yield Check(f"model {model.name}", "ok" if model.state == "ready" else "warn", detail)
