"""What the API is told of a conversion that cannot write."""

import errno
import json
import time
from typing import NoReturn
from unittest.mock import MagicMock

import pytest

from contracts.queue import redis_keys
from tests.valkey import RealValkey
from workers.inference import conversions


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_cannot_be_written_to_is_named(
    fault: int, valkey: RealValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(fault, "no")

    monkeypatch.setattr(conversions, "convert", fail)
    client = valkey.client()
    conversions.ConversionRunner(MagicMock(), client).submit("pets", fault, "onnx")
    key, until = redis_keys.conversion("pets", fault, "onnx"), time.monotonic() + 30
    while json.loads(client.get(key) or b"{}").get("state") != "failed":
        assert time.monotonic() < until
        time.sleep(0.05)
    failure = json.loads(client.get(key) or b"")
    assert failure["code"] == "dependency_unavailable"
    assert "disk of the worker" in failure["detail"]
