import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import SHARED
from tests.flow.running import Running

Start = Callable[..., Running]


@pytest.fixture(scope="session")
def fetched_home(fetched: Path) -> Path:
    """A home with EfficientNet-Lite0's weights, as `make setup` leaves it."""
    if not list((fetched / "weights").glob("efficientnet*")):
        pytest.skip("EfficientNet-Lite0's weights are not there; run `make setup`")
    return fetched


@pytest.fixture(scope="session")
def running(fetched_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One installation that the tests share: none of them may leave it broken."""
    env = {"OPSIN_MODELS": "efficientnet_lite0,squeezenet,vgg16"}
    if SHARED.is_dir():
        env["OPSIN_WEIGHTS_DIR"] = str(SHARED / "weights")
    home = tmp_path_factory.mktemp("running") / "home"
    installation = Running(home, fetched_home / "weights", env)
    try:
        installation.start()
        yield installation
    finally:
        installation.close()


@pytest.fixture
def client(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=60) as client:
        yield client


@pytest.fixture
def start(fetched_home: Path, tmp_path: Path, running: Running) -> Iterator[Start]:
    """Starts an installation of the test's own, to be broken at will.

    It begins with the version that the shared one has imported, for that takes half a minute.
    """
    started: list[Running] = []

    def begin(**env: str) -> Running:
        home = tmp_path / f"home{len(started)}"
        settings = {"OPSIN_MODELS": "efficientnet_lite0"} | env
        started.append(Running(home, fetched_home / "weights", settings))
        shutil.copytree(
            running.home / "store" / "efficientnet_lite0", home / "store" / "efficientnet_lite0"
        )
        started[-1].start()
        return started[-1]

    yield begin
    for installation in started:
        installation.close()
