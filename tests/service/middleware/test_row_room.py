"""Requests that add to the database are refused while the disk is nearly full."""

import re
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from fastapi.routing import iter_route_contexts

from contracts.settings import MIB, Settings
from database.engine import open_engine
from database.tables import Record
from service.app import create_app
from service.jobs import disk_room
from service.middleware import row_room
from service.middleware.row_room import additions_of
from tests.service.parts import FakeServices, datasets_in

# What is not here needs the room for rows.
NOTHING = {
    "POST /v1/activations",
    "POST /v1/classify",
    "POST /v1/embed",
    "POST /v1/faces/challenges",
    "POST /v1/faces/detect",
    "POST /v1/filters",
    "POST /v1/heatmap",
    "POST /v1/jobs/{job_id}/cancel",
    "POST /v1/keys",
    "POST /v1/keys/{key_id}/rotate",
    "POST /v1/session",
    "PUT /v1/faces/policy",
    "PUT /v1/faces/threshold",
}
LINES = {
    "GET /v1/faces/subjects/{subject_id}/export",
    "PATCH /v1/faces/subjects/{subject_id}",
    "POST /v1/faces/identify",
    "POST /v1/faces/login",
    "POST /v1/faces/verify",
}
IMAGES = re.compile(r"\w+ /v2/.*|POST /v1/models/.*:(predict|classify|regress)")
"""The routes of standard protocols."""
CHANGING = {"POST", "PUT", "PATCH"}


@pytest.fixture
def fakes(tmp_path: Path) -> FakeServices:
    datasets = datasets_in(tmp_path)
    engine = open_engine(f"sqlite:///{tmp_path / 'opsin.db'}")
    Record.metadata.create_all(engine)
    engine.dispose()
    return FakeServices(datasets=datasets)


def test_every_route_that_changes_something_needs_room_unless_it_is_listed() -> None:
    app = create_app(Settings(_env_file=None), FakeServices().open_services)
    routes = [
        (method, context.path or "")
        for context in iter_route_contexts(app.routes)
        for method in context.methods or ()
    ]
    adds = {f"{method} {path}": additions_of(method, path) for method, path in routes}
    changing = {
        route for route in adds if route.split(" ")[0] in CHANGING and not IMAGES.fullmatch(route)
    }
    assert len(changing) > len(NOTHING | LINES) + 10
    assert {route for route in changing if adds[route] == "nothing"} == NOTHING
    assert {route for route, added in adds.items() if added == "lines"} == LINES
    assert {route for route, added in adds.items() if added == "rows"} == changing - NOTHING - LINES


def test_a_nearly_full_disk_is_noticed_within_a_second_and_before_the_body(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, now, asked = [10**12], [1e12], list[Path]()

    def free_of(home: Path, *, for_files: bool) -> int:
        assert not for_files
        asked.append(home)
        return free[0]

    monkeypatch.setattr(disk_room, "free_of", free_of)
    monkeypatch.setattr(row_room, "time", SimpleNamespace(monotonic=lambda: now[0]))
    name = {"name": "pets"}
    made = client.post("/v1/datasets", json=name)
    assert made.status_code == 201
    free[0] = 127 * MIB
    now[0] += 0.5
    assert client.post("/v1/datasets", json=name).status_code != 503
    assert len(asked) == 1
    now[0] += 0.6
    for answer in (
        client.post("/v1/datasets", json=name),
        client.post("/v1/models/pets/aliases", json={"alias": "champion"}),
        client.post("/v1/trainings", content=b"not read"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (503, "dependency_unavailable")
        assert answer.headers["Retry-After"] == "60"
        assert "has 127 MB left" in answer.json()["detail"]
    assert client.delete(made.headers["Location"]).status_code == 204
    assert client.get("/v1/datasets").status_code == 200
