"""Every address of the service has a scope, and is closed to a key that has not."""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.routing import Mount

from contracts.keys import SCOPES, NewKey, Scope
from contracts.settings import Settings
from database.audit import COMMAND
from service.app import create_app
from service.auth.scopes import PUBLIC, RULES, Access, Doors, access_of
from tests.service.conftest import listening
from tests.service.parts import House

# Reasoned one by one in `service.auth.scopes`; an address more in here is a decision.
OPEN_TO_ALL = {
    *("/", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"),
    *("/docs", "/docs/start.js", "/docs/assets", "/openapi.json", "/.well-known/jwks.json"),
}


@dataclass(frozen=True)
class Door:
    method: str
    template: str
    access: Access

    @property
    def address(self) -> str:
        """One that the route takes, though there is nothing at it."""
        return re.sub(r"\{[^}]+\}", "1", self.template)


def doors() -> list[Door]:
    """Every method of every route there is."""
    app = create_app(Settings(_env_file=None), House().opening)
    found = []
    for context in iter_route_contexts(app.routes):
        if isinstance(context.original_route, Mount):
            continue
        for method in sorted(set(context.methods or ()) - {"HEAD"}):
            path = context.path or ""
            found.append(Door(method, path, access_of(method, path)))
    return found


DOORS = doors()
CLOSED = [door for door in DOORS if door.access != PUBLIC]


@dataclass(frozen=True)
class Locked:
    client: httpx.Client
    keys: dict[Scope, str]


@pytest.fixture(scope="module")
def house() -> House:
    return House()


@pytest.fixture(scope="module")
def locked(house: House) -> Iterator[Locked]:
    table = house.with_keys()
    made = {
        scope: table.create(NewKey(name=scope, scopes=[scope]), by=COMMAND).key or ""
        for scope in SCOPES
    }
    with (
        listening(Settings(_env_file=None), house) as url,
        httpx.Client(base_url=url, timeout=20) as client,
    ):
        yield Locked(client, made)


def test_all_routes_were_found() -> None:
    assert len(DOORS) > 50
    assert {door.template for door in DOORS if door.access == PUBLIC} <= OPEN_TO_ALL


def test_what_is_public_is_what_was_reasoned() -> None:
    public = {pattern for _, pattern, access in RULES if access == PUBLIC}
    matched = {one for one in OPEN_TO_ALL if access_of("GET", one) == PUBLIC}
    assert matched == OPEN_TO_ALL
    assert len(public) == 8


def test_a_route_without_a_scope_stops_the_start() -> None:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_api_route("/v1/forgotten", lambda: None, methods=["POST"])
    with pytest.raises(LookupError, match="POST /v1/forgotten"):
        Doors().learn(app.routes)


def test_a_method_of_a_known_address_needs_a_scope_of_its_own() -> None:
    with pytest.raises(LookupError):
        access_of("DELETE", "/v1/classify")


@pytest.mark.parametrize("door", CLOSED, ids=lambda door: f"{door.method} {door.template}")
def test_without_a_key_and_with_any_but_the_right_one_it_is_closed(
    locked: Locked, door: Door
) -> None:
    answer = locked.client.request(door.method, door.address)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    for scope in SCOPES:
        headers = {"X-API-Key": locked.keys[scope]}
        if door.template.endswith("/events"):
            headers["Last-Event-ID"] = "0"
        answer = locked.client.request(door.method, door.address, headers=headers)
        if scope in door.access or scope == "admin":
            assert answer.status_code not in {401, 403}, scope
        else:
            assert answer.status_code == 403, scope
            assert any(f"`{needed}`" in answer.text for needed in door.access)


def test_what_is_nowhere_needs_a_key_too(locked: Locked) -> None:
    assert locked.client.get("/nowhere").status_code == 401
    assert locked.client.post("/healthz").status_code == 401
    with_key = {"X-API-Key": locked.keys["infer"]}
    assert locked.client.get("/nowhere", headers=with_key).status_code == 404
    assert locked.client.put("/v1/classify", headers=with_key).status_code == 405


@pytest.mark.parametrize(
    "path",
    [
        "//v1/system",
        "/v1/system/",
        "/V1/system",
        "/v1/./system",
        "/healthz/../v1/system",
        "/docs/../v1/system",
        "/docs/assets/..%2f..%2fv1/system",
        "/%76%31/system",
        "/v1/system%00",
        "/v1/system%0A",
        "/v1/system;healthz",
        "/v2/health/../models/squeezenet",
    ],
)
def test_no_spelling_of_an_address_goes_round_the_check(locked: Locked, path: str) -> None:
    request = locked.client.build_request("GET", "/")
    request.url = request.url.copy_with(raw_path=path.encode())
    answer = locked.client.send(request)
    assert answer.status_code in {401, 404}
    assert "workers" not in answer.text


@pytest.mark.parametrize(
    "ending",
    [
        *("%0A", "%0a", "%0D", "%0D%0A", "%0A%0A", "%00", "%09", "%0B", "%0C", "%7F", "%20"),
        *("%C2%85", "%E2%80%A8", "%E2%80%A9", "%2F", "/", "//", "%3F", "%23", ";a", "%250A", "."),
    ],
)
def test_no_spelling_gives_a_key_more_than_its_scope(
    locked: Locked, house: House, ending: str
) -> None:
    """A `$` also matches before a last line feed: the router may see what a comparison does not."""
    body = {"name": "mine", "scopes": ["admin"]}
    before = house.keys.list().items
    for scope in set(SCOPES) - {"admin"}:
        for method, path in (
            ("POST", "/v1/keys"),
            ("GET", "/v1/keys"),
            ("GET", "/v1/audit"),
            ("POST", "/v1/classify"),
        ):
            if scope in access_of(method, path):
                continue
            request = locked.client.build_request(
                method, "/", json=body, headers={"X-API-Key": locked.keys[scope]}
            )
            request.url = request.url.copy_with(raw_path=(path + ending).encode())
            answer = locked.client.send(request)
            assert answer.status_code in {400, 403, 404, 405}, (method, path, scope)
    after = house.keys.list().items
    assert [one.id for one in after] == [one.id for one in before]


@pytest.mark.parametrize("path", ["/healthz%0A", "/%0A", "/docs%0A", "/v1/models%0A", "/%C2%9F"])
def test_a_control_character_is_refused_before_anything_else(locked: Locked, path: str) -> None:
    for headers in ({}, {"X-API-Key": locked.keys["admin"]}):
        request = locked.client.build_request("GET", "/", headers=headers)
        request.url = request.url.copy_with(raw_path=path.encode())
        answer = locked.client.send(request)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        assert "control characters" in answer.json()["detail"]


def test_an_address_is_matched_as_the_router_does() -> None:
    app = create_app(Settings(_env_file=None), House().opening)
    found: Doors = app.state.doors
    for door in DOORS:
        assert found.access(door.method, door.address) == door.access
        # The routes take it so, however the check before would refuse it.
        assert found.access(door.method, door.address + "\n") == door.access
    assert found.access("GET", "/nowhere") is None
    assert found.access("PUT", "/v1/classify") is None


def test_what_the_check_does_not_know_is_not_passed_on() -> None:
    """Even where the router would take it, and for a key that may do everything."""
    key = "a-key-of-sixteen-or-more"
    app = create_app(Settings(_env_file=None, api_key=key), House().opening)
    app.add_api_route("/v1/late", lambda: "open", methods=["GET"])

    async def ask() -> httpx.Response:
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(
                transport=httpx.ASGITransport(app), base_url="http://localhost"
            ) as client,
        ):
            return await client.get("/v1/late", headers={"X-API-Key": key})

    answer = asyncio.run(ask())
    assert answer.status_code in {404, 405}
    assert "open" not in answer.text
