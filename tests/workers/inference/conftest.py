import pytest
import redis

from tests.valkey import RealValkey
from tests.workers.inference.queueing import Mean


@pytest.fixture
def client(valkey: RealValkey) -> redis.Redis:
    return valkey.client()


@pytest.fixture
def network() -> Mean:
    return Mean()
