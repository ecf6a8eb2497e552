from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flow.conftest import fetched_home, imported  # noqa: F401  (fixtures)
from tests.reliability.house import MODEL, House, opened


@pytest.fixture(scope="module")
def house(
    fetched_home: Path,  # noqa: F811
    imported: Path,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[House]:
    """A running `opsin up` that the tests of a file share; each leaves it well."""
    if not (imported / MODEL).is_dir():
        pytest.skip(f"the weights of {MODEL} are not here; set OPSIN_WEIGHTS_DIR")
    folder = tmp_path_factory.mktemp("house")
    env = {"OPSIN_HEATMAP_CACHE_MB": "0", "OPSIN_WORKER_MEMORY_MB": "8000"}
    with opened(House(folder, fetched_home, env, store=imported)) as running:
        yield running


@pytest.fixture(scope="module")
def pictures(fetched_home: Path) -> dict[str, bytes]:  # noqa: F811
    """The sample photos, by name."""
    files = sorted((fetched_home / "samples").glob("*.png"))
    if not files:
        pytest.skip("the sample photos are not there; run `make setup`")
    return {file.stem: file.read_bytes() for file in files}
