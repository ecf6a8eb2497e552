"""`opsin jobs` against a real API over parts in memory."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.commands import jobs
from cli.output import CommandError
from contracts.jobs import Artifact, JobError, Progress
from contracts.settings import Settings
from database.jobs.queries import Entry
from tests.service.conftest import listening
from tests.service.parts import NOW, House


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture
def api(house: House) -> Iterator[jobs.JobsApi]:
    settings = Settings(_env_file=None)
    with listening(settings, house) as url:
        yield jobs.JobsApi(settings, url)


def test_list_and_show(api: jobs.JobsApi, house: House, capsys: pytest.CaptureFixture[str]) -> None:
    house.shelf.put("job_1", kind="training", queue_position=2)
    half = Progress(fraction=0.5, eta_seconds=130)
    made = Artifact(name="curves.png", media_type="image/png", size=9, url="/x")
    row = {"epoch": 1, "loss": 0.25}
    house.shelf.put(
        "job_2", kind="dream", state="running", progress=half, artifacts=[made], metrics=[row]
    )
    jobs.show_list(api, None, None, 20)
    text = capsys.readouterr().out
    assert "place 2" in text
    assert "50%, 2:10 left" in text
    jobs.show(api, "job_2", as_json=False)
    text = capsys.readouterr().out
    assert "curves.png" in text
    assert "epoch 1  loss 0.25" in text
    with pytest.raises(CommandError, match="job"):
        jobs.show(api, "job_9", as_json=False)


def test_follow_to_the_end(
    api: jobs.JobsApi, house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    house.shelf.put("job_1", kind="training", state="running", attempt=1, started_at=NOW)
    house.shelf.entries["job_1"] = [Entry(1, "metrics", {"epoch": 1, "loss": 0.25})]
    error = JobError(code="not_trainable", detail="Too few pictures.")

    def live() -> None:
        time.sleep(0.7)
        house.shelf.entries["job_1"].append(Entry(2, "artifact", {"name": "curves.png"}))
        house.shelf.put(
            "job_1", kind="training", state="failed", attempt=1, started_at=NOW, error=error
        )

    worker = threading.Thread(target=live)
    worker.start()
    with pytest.raises(CommandError, match="Too few pictures"):
        jobs.follow(api, "job_1")
    worker.join()
    told = capsys.readouterr().err
    assert "epoch 1  loss 0.25" in told
    assert told.index("loss 0.25") < told.index("made curves.png")


def test_cancel_delete_and_fetch(api: jobs.JobsApi, house: House, tmp_path: Path) -> None:
    made = Artifact(name="a.png", media_type="image/png", size=3, url="/x")
    house.files.store_artifact("job_1", "a.png", b"png")
    house.shelf.put("job_1", kind="dream", state="running", attempt=1, artifacts=[made])
    jobs.fetch(api, "job_1", "a.png", tmp_path)
    assert (tmp_path / "a.png").read_bytes() == b"png"
    with pytest.raises(CommandError, match="artifacts"):
        jobs.fetch(api, "job_1", "b.png", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    with pytest.raises(CommandError, match="cancel"):
        jobs.delete(api, "job_1")
    jobs.cancel(api, "job_1")
    jobs.delete(api, "job_1")
    assert house.shelf.jobs == {}


def test_nobody_there_is_one_line() -> None:
    with pytest.raises(CommandError, match="opsin up"):
        jobs.JobsApi(Settings(_env_file=None), "http://127.0.0.1:9").get("job_1")
