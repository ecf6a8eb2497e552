"""`/v1/keys` and `/v1/audit`, over real HTTP and a real database."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import httpx
import pytest

from contracts.errors import Unavailable
from contracts.settings import Settings
from database.keys import Keys
from tests.service.parts import FakeServices

StartService = Callable[[Settings, FakeServices], AbstractContextManager[str]]
NEW = {"name": "billing", "scopes": ["infer", "train"], "rate_per_minute": 60}


@pytest.fixture
def admin(served: StartService, fakes: FakeServices) -> Iterator[httpx.Client]:
    fakes.with_keys()
    settings = Settings(_env_file=None, api_key="a-key-of-sixteen-or-more")
    headers = {"X-API-Key": "a-key-of-sixteen-or-more"}
    with (
        served(settings, fakes) as url,
        httpx.Client(base_url=url, headers=headers, timeout=60) as client,
    ):
        yield client


def test_a_key_is_created_rotated_and_revoked(admin: httpx.Client) -> None:
    answer = admin.post("/v1/keys", json=NEW)
    assert (answer.status_code, answer.headers["Cache-Control"]) == (201, "no-store")
    made = answer.json()
    assert made["key"].startswith("opsin_")
    (listed,) = admin.get("/v1/keys").json()["items"]
    assert listed == {name: value for name, value in made.items() if name not in {"key", "note"}}
    rotated = admin.post(f"/v1/keys/{made['id']}/rotate", json={"grace_seconds": 0})
    assert rotated.status_code == 201
    for key, status in ((made["key"], 401), (rotated.json()["key"], 200)):
        assert (
            httpx.get(f"{admin.base_url}/v1/models", headers={"X-API-Key": key}).status_code
            == status
        )
    assert admin.post(f"/v1/keys/{made['id']}/rotate", json={}).status_code == 409
    assert admin.delete(f"/v1/keys/{rotated.json()['id']}").status_code == 204
    lines = admin.get("/v1/audit").json()["items"]
    assert [one["action"] for one in lines] == ["key_revoked", "key_rotated", "key_created"]
    assert {one["actor"] for one in lines} == {"bootstrap"}
    assert lines[2]["request_id"] == answer.headers["X-Request-Id"]
    assert made["key"] not in admin.get("/v1/audit").text + admin.get("/v1/keys").text


def test_the_same_idempotency_key_makes_one_key_and_shows_it_once(admin: httpx.Client) -> None:
    headers = {"Idempotency-Key": "once"}
    first = admin.post("/v1/keys", json=NEW, headers=headers).json()
    again = admin.post("/v1/keys", json=NEW, headers=headers)
    assert (again.status_code, again.json()) == (201, first | {"key": None})
    other = admin.post("/v1/keys", json=NEW | {"name": "x"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")


def test_a_rotation_sent_again_makes_one_key(admin: httpx.Client) -> None:
    url = f"/v1/keys/{admin.post('/v1/keys', json=NEW).json()['id']}/rotate"
    headers = {"Idempotency-Key": "once"}
    first = admin.post(url, json={"grace_seconds": 0}, headers=headers).json()
    again = admin.post(url, json={"grace_seconds": 0}, headers=headers)
    assert (again.status_code, again.json()) == (201, first | {"key": None})
    other = admin.post(url, json={"grace_seconds": 9}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    assert len(admin.get("/v1/keys").json()["items"]) == 2


def test_a_key_is_returned_even_if_the_keys_cannot_be_read_again(
    admin: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the only copy of a new key would be lost."""

    def away(self: Keys, known: object = None) -> None:
        raise Unavailable("The database is away.")

    with monkeypatch.context() as patched:
        patched.setattr(Keys, "snapshot", away)
        made = admin.post("/v1/keys", json=NEW)
        rotated = admin.post(f"/v1/keys/{made.json()['id']}/rotate", json={})
        revoked = admin.delete(f"/v1/keys/{made.json()['id']}")
    assert [one.status_code for one in (made, rotated, revoked)] == [201, 201, 204]
    until = time.monotonic() + 60
    shown = {"X-API-Key": rotated.json()["key"]}
    while httpx.get(f"{admin.base_url}/v1/models", headers=shown).status_code != 200:
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.parametrize(
    "body",
    [
        {"name": "x"},
        NEW | {"scopes": []},
        NEW | {"scopes": ["root"]},
        NEW | {"name": "two\nlines"},
        NEW | {"name": ""},
        NEW | {"rate_per_minute": 0},
        NEW | {"expires_at": "2020-01-01T00:00:00Z"},
        NEW | {"expires_at": "2030-01-01T00:00:00"},
        NEW | {"id": "key_000000000000"},
    ],
)
def test_an_invalid_key_is_refused(admin: httpx.Client, body: dict[str, object]) -> None:
    answer = admin.post("/v1/keys", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")
    assert admin.get("/v1/keys").json()["items"] == []


def test_an_unknown_key_is_404(admin: httpx.Client) -> None:
    assert admin.delete("/v1/keys/key_000000000000").json()["code"] == "not_found"
    assert admin.delete("/v1/keys/me").json()["code"] == "validation_error"
    assert admin.get("/v1/audit?cursor=x").json()["code"] == "validation_error"


def test_a_deletion_is_in_the_audit_log(admin: httpx.Client, fakes: FakeServices) -> None:
    made = admin.post("/v1/keys", json={"name": "m", "scopes": ["models"]}).json()
    answer = admin.delete("/v1/models/squeezenet/versions/1", headers={"X-API-Key": made["key"]})
    assert answer.status_code == 404  # not done, so not recorded
    actions = [one["action"] for one in admin.get("/v1/audit").json()["items"]]
    assert actions == ["key_created"]
