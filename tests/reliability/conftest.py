from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flow.conftest import Networks, fetched_home, networks  # noqa: F401  (fixtures)
from tests.reliability.deployment import MODEL, Deployment, started


@pytest.fixture(scope="module")
def deployment(
    fetched_home: Path,  # noqa: F811
    networks: Networks,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    """A running `opsin up` that the tests of a file share; each leaves it intact."""
    store = networks(MODEL)
    if not (store / MODEL).is_dir():
        pytest.skip(f"the weights of {MODEL} are not here; set OPSIN_WEIGHTS_DIR")
    folder = tmp_path_factory.mktemp("deployment")
    env = {"OPSIN_HEATMAP_CACHE_MB": "0", "OPSIN_WORKER_MEMORY_MB": "8000"}
    with started(Deployment(folder, fetched_home, env, store=store)) as running:
        yield running


@pytest.fixture(scope="module")
def images(fetched_home: Path) -> dict[str, bytes]:  # noqa: F811
    """The sample images, by name."""
    files = sorted((fetched_home / "samples").glob("*.png"))
    if not files:
        pytest.skip("the sample images are missing; run `make setup`")
    return {file.stem: file.read_bytes() for file in files}
