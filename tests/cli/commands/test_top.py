"""`opsin top` against a real API with services in memory."""

import json
from collections.abc import Iterator

import pytest

from cli.commands.top import top
from cli.output import CommandError
from contracts.jobs import Progress
from contracts.settings import Settings
from tests.service.conftest import listening
from tests.service.parts import FakeServices


@pytest.fixture
def fakes() -> FakeServices:
    return FakeServices()


@pytest.fixture
def server(fakes: FakeServices) -> Iterator[str]:
    with listening(Settings(_env_file=None), fakes) as url:
        yield url


def test_once_as_json(server: str, fakes: FakeServices, capsys: pytest.CaptureFixture[str]) -> None:
    half = Progress(fraction=0.5, phase="head", eta_seconds=130)
    fakes.jobs.put("job_2", kind="training", state="running", progress=half)
    capsys.readouterr()
    top(server, interval=0.2, once=True, as_json=True)
    out = capsys.readouterr().out  # after the lines of the service's log
    seen = json.loads(out[out.index("{\n") :])
    assert (seen["ready"], seen["release"]) == (True, "0.1.0")
    (job,) = seen["jobs"]["running"]
    assert (job["id"], job["phase"], job["fraction"]) == ("job_2", "head", 0.5)
    (worker,) = seen["workers"]
    assert (worker["id"], worker["models"]) == ("w1", ["squeezenet:None"])


def test_once_in_a_pipe_is_text(
    server: str, fakes: FakeServices, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes.jobs.put("job_" + "x" * 40, kind="training", state="running")
    top(server, interval=0.2, once=False, as_json=False)
    out = capsys.readouterr().out
    assert f"at {server}" in out
    assert "job_" + "x" * 40 in out, "an identifier is shown in full"


def test_json_needs_once(server: str) -> None:
    with pytest.raises(CommandError, match="--once"):
        top(server, as_json=True)


def test_without_a_service_it_says_so() -> None:
    with pytest.raises(CommandError, match="No server answers"):
        top("http://127.0.0.1:9", once=True)
