import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from models.catalog import CATALOG
from models.store.locks import locked
from tests.conftest import SHARED
from tests.flow.running import READY_SECONDS, ROOT, Running

Start = Callable[..., Running]


@pytest.fixture(scope="session")
def fetched_home(fetched: Path) -> Path:
    """A home with EfficientNet-Lite0's weights, as `make setup` leaves it."""
    if not list((fetched / "weights").glob("efficientnet*")):
        pytest.skip("EfficientNet-Lite0's weights are not there; run `make setup`")
    return fetched


@pytest.fixture(scope="session")
def imported(fetched_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the networks whose weights are here, so that no installation imports again."""
    base = tmp_path_factory.getbasetemp()
    process = os.environ.get("PYTEST_XDIST_WORKER", "")
    # Where several processes run the tests, they have this folder's parent in common, and begin
    # from either end.
    root = (base.parent if process else base) / "imported"
    for network in reversed(CATALOG) if process.endswith("1") else CATALOG:
        done = root / f"{network}.done"
        with locked(root / f"{network}.lock", timeout=600):
            if not done.exists():
                _import(network, root / "store", fetched_home)
                done.touch()
    return root / "store"


def _import(network: str, store: Path, fetched_home: Path) -> None:
    folders = [store, fetched_home / "samples", fetched_home / "weights"]
    if SHARED.is_dir():
        folders.append(SHARED / "weights")
    # A network without weights fails here, and is said to be unavailable by the worker.
    subprocess.run(
        [sys.executable, "-m", "models.export.import_child", network, *map(str, folders)],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="session")
def running(
    fetched_home: Path, imported: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """One installation that the tests share: none of them may leave it broken."""
    env = {
        "OPSIN_MODELS": "efficientnet_lite0,squeezenet,vgg16",
        "OPSIN_PRECISION": "float32",  # its answers are compared with the network's own
    }
    if SHARED.is_dir():
        env["OPSIN_WEIGHTS_DIR"] = str(SHARED / "weights")
    home = tmp_path_factory.mktemp("running") / "home"
    installation = Running(home, fetched_home / "weights", env, store=imported)
    try:
        installation.start()
        installation.await_that(installation.nothing_loads, READY_SECONDS)
        yield installation
    finally:
        installation.close()


@pytest.fixture
def client(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=60) as client:
        yield client


@pytest.fixture
def start(fetched_home: Path, imported: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts an installation of the test's own, to be broken at will."""
    started: list[Running] = []

    def begin(**env: str) -> Running:
        home = tmp_path / f"home{len(started)}"
        settings = {"OPSIN_MODELS": "efficientnet_lite0"} | env
        started.append(Running(home, fetched_home / "weights", settings, store=imported))
        started[-1].start()
        return started[-1]

    yield begin
    for installation in started:
        installation.close()
