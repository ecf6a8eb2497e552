import threading

import httpx
import pytest

from contracts.jobs import Artifact, Progress
from database.jobs.queries import JobEntry
from tests.service.parts import NOW, FakeServices


def test_jobs_are_listed_by_page(client: httpx.Client, fakes: FakeServices) -> None:
    for i in range(3):
        fakes.jobs.put(f"job_{i}", kind="embed" if i == 1 else "classify")
    first = client.get("/v1/jobs?limit=2").json()
    assert [job["id"] for job in first["items"]] == ["job_0", "job_1"]
    second = client.get("/v1/jobs", params={"cursor": first["next_cursor"]}).json()
    assert ([job["id"] for job in second["items"]], second["next_cursor"]) == (["job_2"], None)
    assert len(client.get("/v1/jobs?kind=embed&state=queued").json()["items"]) == 1


def test_a_job_is_cancelled_and_then_deleted(client: httpx.Client, fakes: FakeServices) -> None:
    fakes.jobs.put("job_1")
    assert client.delete("/v1/jobs/job_1").json()["code"] == "conflict"
    cancelled = client.post("/v1/jobs/job_1/cancel")
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    assert client.delete("/v1/jobs/job_1").status_code == 204
    assert client.get("/v1/jobs/job_1").status_code == 404


@pytest.mark.parametrize(
    ("method", "tail"),
    [
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/cancel"),
        ("GET", "/events"),
        ("GET", "/artifacts/result.png"),
    ],
)
def test_an_unknown_job_is_404(client: httpx.Client, method: str, tail: str) -> None:
    answer = client.request(method, "/v1/jobs/job_none" + tail)
    assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")


@pytest.mark.parametrize("job_id", ["x" * 65, "x" * 2000, "job_%F0%9F%98%80"])
def test_a_malformed_id_is_404(client: httpx.Client, job_id: str) -> None:
    answer = client.get(f"/v1/jobs/{job_id}")
    assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")


@pytest.mark.parametrize("job_id", ["job_%00", "%0A"])
def test_a_control_character_in_an_id_is_404(client: httpx.Client, job_id: str) -> None:
    answer = client.get(f"/v1/jobs/{job_id}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_an_unknown_artifact_is_404(client: httpx.Client, fakes: FakeServices) -> None:
    fakes.jobs.put("job_1")
    answer = client.get("/v1/jobs/job_1/artifacts/result.png")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_an_artifact_is_sent_with_its_media_type(client: httpx.Client, fakes: FakeServices) -> None:
    content = b"\x89PNG" + bytes(600_000)
    job_id = "job_1"
    fakes.files.store_artifact(job_id, "result.png", content)
    fakes.files.store_artifact(job_id, "page.html", b"<script>")
    made = [
        Artifact(name="result.png", media_type="image/png", size=len(content), url="/1"),
        Artifact(name="page.html", media_type="text/html", size=8, url="/2"),
        Artifact(name="gone.png", media_type="image/png", size=8, url="/3"),
    ]
    fakes.jobs.put(job_id, kind="dream", state="running", attempt=1, artifacts=made)
    answer = client.get(f"/v1/jobs/{job_id}/artifacts/result.png")
    assert answer.content == content
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["Content-Length"] == str(len(content))
    assert answer.headers["Content-Disposition"] == 'inline; filename="result.png"'
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    page = client.get(f"/v1/jobs/{job_id}/artifacts/page.html")
    assert page.headers["Content-Disposition"] == 'attachment; filename="page.html"'
    for missing in ("gone.png", "..%2Fpage.html", "other.png"):
        answer = client.get(f"/v1/jobs/{job_id}/artifacts/{missing}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), missing


def test_metrics_and_artifacts_are_events(client: httpx.Client, fakes: FakeServices) -> None:
    done = Progress(fraction=1)
    fakes.jobs.put("job_1", state="succeeded", attempt=1, started_at=NOW, progress=done)
    fakes.jobs.entries["job_1"] = [
        JobEntry(1, "metrics", {"epoch": 1}),
        JobEntry(2, "artifact", {"name": "result.png"}),
    ]
    answer = client.get("/v1/jobs/job_1/events")
    names = [name for name, _ in told(answer)]
    assert names == ["state", "progress", "metrics", "artifact", "state"]
    rest = client.get("/v1/jobs/job_1/events", headers={"Last-Event-ID": told(answer)[2][1]})
    assert told(rest) == told(answer)[3:]


def told(answer: httpx.Response) -> list[tuple[str, str]]:
    """(event, id) of each event, in order."""
    fields = [line.split(": ", 1) for line in answer.text.splitlines() if ": " in line]
    names = [value for key, value in fields if key == "event"]
    return list(zip(names, [value for key, value in fields if key == "id"], strict=True))


def test_a_finished_job_is_replayed_and_the_stream_ends(
    client: httpx.Client, fakes: FakeServices
) -> None:
    done = Progress(fraction=1, step=2, steps=2)
    fakes.jobs.put("job_1", state="succeeded", attempt=1, started_at=NOW, progress=done)
    answer = client.get("/v1/jobs/job_1/events")
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert [name for name, _ in told(answer)] == ["state", "progress", "state"]
    assert '"state":"succeeded"' in answer.text.replace(" ", "")
    seen = told(answer)[1][1]
    rest = client.get("/v1/jobs/job_1/events", headers={"Last-Event-ID": seen})
    assert told(rest) == told(answer)[2:]


def test_a_running_job_is_followed_to_its_end(client: httpx.Client, fakes: FakeServices) -> None:
    fakes.jobs.put("job_1")

    def live() -> None:
        fakes.jobs.wait_for_follower()
        half = Progress(fraction=0.5)
        fakes.jobs.put("job_1", state="running", attempt=1, started_at=NOW, progress=half)
        fakes.jobs.wait_for_follower()
        fakes.jobs.put("job_1", state="cancelled", attempt=1, started_at=NOW, progress=half)

    worker = threading.Thread(target=live)
    worker.start()
    answer = client.get("/v1/jobs/job_1/events")
    worker.join()
    assert [name for name, _ in told(answer)] == ["state", "state", "progress", "state"]
    ids = [int(i) for _, i in told(answer)]
    assert ids == sorted(set(ids))


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_an_event_source_ends_with_a_finished_job(
    client: httpx.Client, fakes: FakeServices, state: str
) -> None:
    """A browser comes back after every stream, until the response is 204."""
    fakes.jobs.put("job_1", state=state, attempt=1, started_at=NOW, finished_at=NOW)
    stream = client.get("/v1/jobs/job_1/events").text
    ids = [line.removeprefix("id: ") for line in stream.splitlines() if line.startswith("id: ")]
    assert len(ids) >= 2
    again = client.get("/v1/jobs/job_1/events", headers={"Last-Event-ID": ids[-1]})
    assert (again.status_code, again.content) == (204, b"")
    resumed = client.get("/v1/jobs/job_1/events", headers={"Last-Event-ID": ids[0]})
    assert resumed.status_code == 200
    assert state in resumed.text
    for foreign in ("", "x", "-1"):
        replay = client.get("/v1/jobs/job_1/events", headers={"Last-Event-ID": foreign})
        assert replay.text.count("id: ") == len(ids)
