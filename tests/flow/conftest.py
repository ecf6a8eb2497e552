import os
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import httpx
import pytest

from models.faces.detection.finder import open_finder
from models.weights.catalog import Weights
from tests.collector import Collector, collecting
from tests.conftest import SHARED
from tests.flow.imports import copied_networks, from_either_end, import_networks, kept_store
from tests.flow.installation import READY_SECONDS, Installation
from tests.models.faces.rendering import Face, Puppet

RUNNING = ("efficientnet_lite0", "squeezenet")
Start = Callable[..., Installation]
Networks = Callable[..., Path]


@pytest.fixture(scope="session")
def fetched_home(fetched: Path) -> Path:
    """A home with EfficientNet-Lite0's weights, as after `make setup`."""
    if not list((fetched / "weights").glob("efficientnet*")):
        pytest.skip("EfficientNet-Lite0's weights are missing; run `make setup`")
    return fetched


@pytest.fixture(scope="session")
def networks(fetched_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Networks:
    """A function that answers a store of the networks it is given, without those that lack weights.

    Only what a test needs is imported: that takes longer than most tests.
    """
    weights = [fetched_home / "weights", *([SHARED / "weights"] if SHARED.is_dir() else [])]
    samples = fetched_home / "samples"
    kept = kept_store(weights, samples)
    stores: dict[tuple[str, ...], Path] = {}

    def store_of(*names: str) -> Path:
        if names not in stores:
            ordered = from_either_end(names, os.environ.get("PYTEST_XDIST_WORKER", ""))
            import_networks(kept, ordered, [samples, *weights])
            target = tmp_path_factory.mktemp("networks") / "store"
            stores[names] = copied_networks(kept, names, target)
        return stores[names]

    return store_of


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Receives the traces that a test asks `running` for; no other request is traced."""
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="session")
def running(
    fetched_home: Path,
    networks: Networks,
    collector: Collector,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Installation]:
    """One installation for all tests; none of them may leave it broken."""
    env = {
        "OPSIN_OTLP_ENDPOINT": collector.url,
        "OPSIN_TRACE_RATIO": "0",
        "OPSIN_MODELS": ",".join(RUNNING),
        "OPSIN_PRECISION": "float32",  # the answers are compared with those of the network
    }
    if SHARED.is_dir():
        env["OPSIN_WEIGHTS_DIR"] = str(SHARED / "weights")
    home = tmp_path_factory.mktemp("running") / "home"
    store = networks(*RUNNING)
    installation = Installation(home, fetched_home / "weights", env, store=store)
    try:
        installation.start()
        installation.wait_until(installation.is_settled, READY_SECONDS)
        yield installation
    finally:
        installation.close()


@pytest.fixture
def client(running: Installation) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=60) as client:
        yield client


@pytest.fixture
def start(fetched_home: Path, networks: Networks, tmp_path: Path) -> Iterator[Start]:
    """A function that starts an installation for one test, which the test may break."""
    started: list[Installation] = []

    def begin(**env: str) -> Installation:
        home = tmp_path / f"home{len(started)}"
        settings = {"OPSIN_MODELS": "efficientnet_lite0"} | env
        store = networks(*settings["OPSIN_MODELS"].split(","))
        started.append(Installation(home, fetched_home / "weights", settings, store=store))
        started[-1].start()
        return started[-1]

    yield begin
    for installation in started:
        installation.close()


@pytest.fixture
def puppets(fetched: Path, shared: Path) -> list[Puppet]:
    """A puppet of each of two people."""
    finder = open_finder(Weights(fetched / "weights", None, True), threads=1)
    puppets = []
    for name in ("person10", "person01"):
        path = min((shared / "data/caltech-faces" / name).iterdir())
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        puppets.append(Puppet(Face(image, finder.find(image, 1).faces[0].mesh)))
    return puppets
