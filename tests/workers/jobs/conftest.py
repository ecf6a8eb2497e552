from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.valkey import RealValkey
from tests.workers.jobs.installation import Installation


@pytest.fixture
def installation(tmp_path: Path, valkey: RealValkey) -> Iterator[Installation]:
    installation = Installation(tmp_path, valkey)
    yield installation
    installation.close()
