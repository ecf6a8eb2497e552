"""Fixtures for all tests: images and weights, if available, a Valkey and a PostgreSQL server."""

import contextlib
import inspect
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, settings

from tests.postgresql import NoPostgresqlError, running_postgresql
from tests.valkey import RealValkey

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("OPSIN_SHARED_DIR", ROOT.parent / "shared"))

# httpx waits five seconds unless told, which a busy machine exceeds now and then.
_WAITS: httpx.Timeout = inspect.signature(httpx.Client).parameters["timeout"].default
_WAITS.connect = _WAITS.read = _WAITS.write = _WAITS.pool = 60

# Each client would read the certificates of all authorities, which takes longer than most requests.
_TRANSPORT = httpx._transports.default
_TRANSPORT.create_ssl_context = cache(_TRANSPORT.create_ssl_context)

# Hypothesis draws the same examples in each run, however long a busy machine takes for them.
settings.register_profile(
    "opsin",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("opsin")

_MAX_ID = 100


# First, since xdist reads the groups in a hook of the same name.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group the tests that one process runs, when several share the work (`-n`).

    The tests of a file stay together for their module's fixtures, and so do all tests that use the
    one running installation, so that it is started once. These take longest and run first. Those of
    `tests/service` come last: their files take seconds each, so all processes end at the same time.
    """
    for item in items:
        uses_installation = "running" in getattr(item, "fixturenames", ())
        group = "running" if uses_installation else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    folder = item.path.relative_to(ROOT / "tests").parts[0]
    if "running" in getattr(item, "fixturenames", ()):
        return 0
    return {"flow": 1, "service": 3}.get(folder, 2)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """A short name for a long parameter: the name of a test is in its processes' environment."""
    if isinstance(val, (bytes, str)) and len(val) > _MAX_ID:
        return f"{argname} of {len(val)}"
    return None


def pytest_collection_finish(session: pytest.Session) -> None:
    """Tests that are not grouped pass too, but set up everything in each process."""
    if session.config.getoption("loadgroup", default=False):
        assert all("@" in item.nodeid for item in session.items), "pytest-xdist does not group"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """The same random weights in each run, whichever tests this process has run before."""
    if (keras := sys.modules.get("keras")) is not None:
        keras.utils.set_random_seed(8)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Labeled images and weights next to the checkout; the test is skipped without them."""
    if not SHARED.is_dir():
        pytest.skip(f"no labeled images at {SHARED}; set OPSIN_SHARED_DIR")
    return SHARED


@pytest.fixture(scope="session")
def fetched() -> Path:
    """The data home that `make setup` has filled: fetched weights and sample photos."""
    return Path(os.environ.get("OPSIN_HOME", ROOT / "var"))


@pytest.fixture(scope="session")
def photos(fetched: Path) -> Path:
    """Free photos: cat.png, coffee.png, astronaut.png."""
    folder = fetched / "samples"
    if not (folder / "cat.png").is_file():
        pytest.skip("the sample photos are missing; run `make setup`")
    return folder


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[RealValkey]:
    server = RealValkey()
    server.start()
    yield server
    server.close()


@pytest.fixture
def valkey(valkey_server: RealValkey) -> Iterator[RealValkey]:
    """A running, empty Valkey."""
    valkey_server.client().flushall()
    yield valkey_server
    valkey_server.close_clients()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The address of a PostgreSQL server on a free port of the loopback address."""
    with contextlib.ExitStack() as stack:
        try:
            url = stack.enter_context(running_postgresql())
        except NoPostgresqlError as error:
            pytest.skip(str(error))
        yield url
