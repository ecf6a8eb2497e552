"""`opsin jobs` against a real API with services in memory."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.commands import jobs
from cli.output import CommandError
from contracts.jobs import Artifact, JobError, Progress
from contracts.settings import Settings
from database.jobs.queries import JobEntry
from tests.cli.commands.test_train import RESULT
from tests.service.conftest import listening
from tests.service.parts import NOW, FakeServices


@pytest.fixture
def fakes() -> FakeServices:
    return FakeServices()


@pytest.fixture
def server(fakes: FakeServices) -> Iterator[str]:
    with listening(Settings(_env_file=None), fakes) as url:
        yield url


def test_list_and_show(
    server: str, fakes: FakeServices, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes.jobs.put("job_1", kind="training", queue_position=2)
    half = Progress(fraction=0.5, eta_seconds=130)
    made = Artifact(name="curves.png", media_type="image/png", size=9, url="/x")
    row = {"epoch": 1, "loss": 0.25}
    fakes.jobs.put(
        "job_2", kind="dream", state="running", progress=half, artifacts=[made], metrics=[row]
    )
    jobs.list_jobs(server=server)
    text = capsys.readouterr().out
    assert "place 2" in text
    assert "50%, 2:10 left" in text
    jobs.show("job_2", server=server)
    text = capsys.readouterr().out
    assert "curves.png" in text
    assert "epoch 1  loss 0.25" in text
    with pytest.raises(CommandError, match="job"):
        jobs.show("job_9", server=server)


def test_a_job_in_the_list_takes_one_line_on_any_terminal(
    server: str,
    fakes: FakeServices,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    half = Progress(fraction=0.5, eta_seconds=130)
    fakes.jobs.put("job_1", kind="training", state="running", progress=half)
    monkeypatch.setenv("COLUMNS", "40")
    jobs.list_jobs(server=server)
    *_, headings, row = capsys.readouterr().out.splitlines()  # after the server's log
    assert headings.split("\t") == ["job", "kind", "state", "progress", "created", "about"]
    assert row.split("\t")[:4] == ["job_1", "training", "running", "50%, 2:10 left"]
    jobs.list_jobs(as_json=True, server=server)
    listed = capsys.readouterr().out.partition("\n{")[2]
    assert json.loads("{" + listed)["items"][0]["id"] == "job_1"


def test_follow_shows_a_job_until_its_end(
    server: str, fakes: FakeServices, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes.jobs.put("job_1", kind="training", state="running", attempt=1, started_at=NOW)
    fakes.jobs.entries["job_1"] = [JobEntry(1, "metrics", {"epoch": 1, "loss": 0.25})]
    error = JobError(code="not_trainable", detail="Too few pictures.")

    def live() -> None:
        fakes.jobs.wait_for_follower()
        fakes.jobs.entries["job_1"].append(JobEntry(2, "artifact", {"name": "curves.png"}))
        fakes.jobs.put(
            "job_1", kind="training", state="failed", attempt=1, started_at=NOW, error=error
        )

    worker = threading.Thread(target=live)
    worker.start()
    with pytest.raises(CommandError, match="Too few pictures"):
        jobs.follow("job_1", server=server)
    worker.join()
    printed = capsys.readouterr().err
    assert "epoch 1  loss 0.25" in printed
    assert printed.index("loss 0.25") < printed.index("made curves.png")


def test_follow_says_the_place_in_the_queue_and_shows_epochs_as_a_training_here(
    server: str, fakes: FakeServices, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes.jobs.put("job_1", kind="training", queue_position=3)
    row = {"phase": "head", "epoch": 1, "loss": 1.689, "accuracy": 0.3472}

    def live() -> None:
        fakes.jobs.wait_for_follower()
        begun = {"kind": "training", "attempt": 1, "started_at": NOW}
        half = Progress(fraction=0.5, phase="head", epochs=5, eta_seconds=80)
        fakes.jobs.put("job_1", state="running", progress=half, **begun)
        fakes.jobs.wait_for_follower()
        fakes.jobs.entries["job_1"] = [JobEntry(1, "metrics", row)]
        fakes.jobs.put("job_1", state="succeeded", finished_at=NOW, result=RESULT, **begun)

    worker = threading.Thread(target=live)
    worker.start()
    jobs.follow("job_1", server=server)
    worker.join()
    out, printed = capsys.readouterr()
    assert "test\t4\t75.0%" in out
    assert "pets version 3 is champion" in out
    assert "training: waits for its turn, place 3 …" in printed
    assert "training: head (50%, 1:20 left) …" in printed
    assert "1/5   training: loss 1.689, accuracy  34.7%" in printed


def test_an_epoch_of_unknown_number_and_a_result_of_an_earlier_release_are_shown(
    server: str, fakes: FakeServices, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"phase": "head", "epoch": 1, "loss": 1.689, "accuracy": 0.3472}
    fakes.jobs.put("job_1", kind="training", state="succeeded", metrics=[row], result={"model": 1})
    jobs.show("job_1", server=server)
    assert "/?" not in (text := capsys.readouterr().out)
    assert json.loads(text[text.index("{") :]) == {"model": 1}
    jobs.follow("job_1", server=server)
    assert "is done" in capsys.readouterr().err


def test_cancel_delete_and_fetch(server: str, fakes: FakeServices, tmp_path: Path) -> None:
    made = Artifact(name="a.png", media_type="image/png", size=3, url="/x")
    fakes.files.store_artifact("job_1", "a.png", b"png")
    fakes.jobs.put("job_1", kind="dream", state="running", attempt=1, artifacts=[made])
    jobs.fetch("job_1", "a.png", tmp_path, server=server)
    assert (tmp_path / "a.png").read_bytes() == b"png"
    with pytest.raises(CommandError, match="artifacts"):
        jobs.fetch("job_1", "b.png", tmp_path, server=server)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    with pytest.raises(CommandError, match="--yes"):
        jobs.delete("job_1", server=server)
    with pytest.raises(CommandError, match="cancel"):
        jobs.delete("job_1", yes=True, server=server)
    jobs.cancel("job_1", server=server)
    jobs.delete("job_1", yes=True, server=server)
    assert fakes.jobs.jobs == {}


def test_a_server_that_does_not_answer_is_one_line() -> None:
    with pytest.raises(CommandError, match="opsin up"):
        jobs.show("job_1", server="http://127.0.0.1:9")
