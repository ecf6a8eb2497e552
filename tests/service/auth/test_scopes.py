"""Every route has a scope, and a key without that scope cannot use it."""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import get_args

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.routing import Match

from contracts.jobs import WORK_QUEUES, JobKind
from contracts.keys import SCOPES, NewKey, Scope
from contracts.settings import Settings
from database.audit import COMMAND
from service.app import create_app
from service.auth.scopes import (
    PLANNED_RULES,
    PUBLIC,
    RULES,
    Access,
    Rule,
    ScopeTable,
    access_of,
)
from tests.service.adversarial_paths import adversarial_requests
from tests.service.conftest import listening
from tests.service.parts import FakeServices
from workers.jobs.handlers import KINDS

# The reasons are in `service.auth.scopes`; adding a path here is a decision.
PUBLIC_PATHS = {
    *("/", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"),
    *("/docs", "/docs/start.js", "/docs/assets/{name:path}", "/openapi.json"),
    *("/.well-known/jwks.json", "/v1/faces/retention"),
    *("/_console/{digest}/{path:path}", "/_console/samples/{name}"),
}
INFERENCE_KINDS = {"classify", "embed"}  # run by inference workers, which need no handler table


@dataclass(frozen=True)
class Route:
    method: str
    template: str
    access: Access

    @property
    def path(self) -> str:
        """A path that the route matches, though nothing exists there."""
        return re.sub(r"\{[^}]+\}", "1", self.template)


def all_routes() -> list[Route]:
    """Every method of every route."""
    app = create_app(Settings(_env_file=None), FakeServices().open_services)
    routes = []
    for context in iter_route_contexts(app.routes):
        for method in sorted(set(context.methods or ()) - {"HEAD"}):
            template = context.path or ""
            routes.append(Route(method, template, access_of(method, template)))
    return routes


def rule_of(route: Route) -> Rule:
    """The first rule that matches, as in `access_of`."""
    return next(
        rule
        for rule in RULES
        if rule[0] in {"*", route.method} and fnmatchcase(route.template, rule[1])
    )


ROUTES = all_routes()
CLOSED_ROUTES = [route for route in ROUTES if route.access != PUBLIC]


@dataclass(frozen=True)
class Client:
    client: httpx.Client
    keys: dict[Scope, str]


@pytest.fixture(scope="module")
def fakes() -> FakeServices:
    return FakeServices()


@pytest.fixture(scope="module")
def keyed(fakes: FakeServices) -> Iterator[Client]:
    table = fakes.with_keys()
    made = {
        scope: table.create(NewKey(name=scope, scopes=[scope]), actor=COMMAND).key or ""
        for scope in SCOPES
    }
    with (
        listening(Settings(_env_file=None), fakes) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        yield Client(client, made)


def test_only_the_listed_paths_are_public() -> None:
    assert len(ROUTES) > 50
    assert {route.template for route in ROUTES if route.access == PUBLIC} <= PUBLIC_PATHS


def test_every_listed_path_is_public() -> None:
    public = {pattern for _, pattern, access in RULES if access == PUBLIC}
    matched = {one for one in PUBLIC_PATHS if access_of("GET", one) == PUBLIC}
    assert matched == PUBLIC_PATHS
    assert len(public) == 10


def test_every_rule_has_a_route_unless_it_is_planned() -> None:
    used = {rule_of(route) for route in ROUTES}
    assert set(RULES) - used == set(PLANNED_RULES)


def test_every_job_kind_has_a_handler_unless_it_is_planned() -> None:
    kinds = set(get_args(JobKind))
    assert set(KINDS) == kinds - INFERENCE_KINDS
    assert set(WORK_QUEUES) == kinds - INFERENCE_KINDS


def test_a_route_without_a_scope_stops_the_start() -> None:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_api_route("/v1/forgotten", lambda: None, methods=["POST"])
    with pytest.raises(LookupError, match="POST /v1/forgotten"):
        ScopeTable.build(app.routes)


def test_another_method_of_a_known_path_needs_its_own_rule() -> None:
    with pytest.raises(LookupError):
        access_of("DELETE", "/v1/classify")


@pytest.mark.parametrize(
    "route", CLOSED_ROUTES, ids=lambda route: f"{route.method} {route.template}"
)
def test_a_route_is_closed_without_a_key_with_its_scope(keyed: Client, route: Route) -> None:
    answer = keyed.client.request(route.method, route.path)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    for scope in SCOPES:
        headers = {"X-API-Key": keyed.keys[scope]}
        if route.template.endswith("/events"):
            headers["Last-Event-ID"] = "0"
        answer = keyed.client.request(route.method, route.path, headers=headers)
        if scope in route.access or scope == "admin":
            assert answer.status_code not in {401, 403}, scope
        else:
            assert answer.status_code == 403, scope
            assert any(f"`{needed}`" in answer.text for needed in route.access)


def test_an_unknown_path_needs_a_key_too(keyed: Client) -> None:
    assert keyed.client.get("/nowhere").status_code == 401
    assert keyed.client.post("/healthz").status_code == 401
    with_key = {"X-API-Key": keyed.keys["infer"]}
    assert keyed.client.get("/nowhere", headers=with_key).status_code == 404
    assert keyed.client.put("/v1/classify", headers=with_key).status_code == 405


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
def test_no_spelling_of_a_path_avoids_the_check(keyed: Client, path: str) -> None:
    request = keyed.client.build_request("GET", "/")
    request.url = request.url.copy_with(raw_path=path.encode())
    answer = keyed.client.send(request)
    assert answer.status_code in {401, 404}
    assert "workers" not in answer.text


@pytest.mark.parametrize(
    "ending",
    [
        *("%0A", "%0a", "%0D", "%0D%0A", "%0A%0A", "%00", "%09", "%0B", "%0C", "%7F", "%20"),
        *("%C2%85", "%E2%80%A8", "%E2%80%A9", "%2F", "/", "//", "%3F", "%23", ";a", "%250A", "."),
    ],
)
def test_no_spelling_gives_a_key_more_than_its_scopes(
    keyed: Client, fakes: FakeServices, ending: str
) -> None:
    """A `$` also matches before a final line feed, so a router may match what `==` does not."""
    body = {"name": "mine", "scopes": ["admin"]}
    before = fakes.keys.list().items
    for scope in set(SCOPES) - {"admin"}:
        for method, path in (
            ("POST", "/v1/keys"),
            ("GET", "/v1/keys"),
            ("GET", "/v1/audit"),
            ("POST", "/v1/classify"),
        ):
            if scope in access_of(method, path):
                continue
            request = keyed.client.build_request(
                method, "/", json=body, headers={"X-API-Key": keyed.keys[scope]}
            )
            request.url = request.url.copy_with(raw_path=(path + ending).encode())
            answer = keyed.client.send(request)
            assert answer.status_code in {400, 403, 404, 405}, (method, path, scope)
    after = fakes.keys.list().items
    assert [one.id for one in after] == [one.id for one in before]


@pytest.mark.parametrize("path", ["/healthz%0A", "/%0A", "/docs%0A", "/v1/models%0A", "/%C2%9F"])
def test_a_control_character_is_refused_first(keyed: Client, path: str) -> None:
    for headers in ({}, {"X-API-Key": keyed.keys["admin"]}):
        request = keyed.client.build_request("GET", "/", headers=headers)
        request.url = request.url.copy_with(raw_path=path.encode())
        answer = keyed.client.send(request)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        assert "control characters" in answer.json()["detail"]


def test_paths_are_matched_as_the_router_does() -> None:
    app = create_app(Settings(_env_file=None), FakeServices().open_services)
    table: ScopeTable = app.state.scope_table
    for route in ROUTES:
        for ending in ("", "\n"):  # the router matches both; the second is refused before
            found = table.find(route.method, route.path + ending)
            assert found is not None
            assert (found.template, found.access) == (route.template, route.access)
    assert table.find("GET", "/nowhere") is None
    assert table.find("PUT", "/v1/classify") is None


def test_no_word_in_a_path_is_matched_otherwise_than_the_router_does() -> None:
    app = create_app(Settings(_env_file=None), FakeServices().open_services)
    table: ScopeTable = app.state.scope_table
    checked = 0
    for method, path in adversarial_requests(app):
        scope = {"type": "http", "method": method, "path": path, "headers": []}
        routed = (route for route in app.routes if route.matches(scope)[0] is Match.FULL)
        first = next(routed, None)
        found = table.find(method, path)
        if first is None:
            assert found is None, (method, path)
            continue
        assert found is not None, (method, path)
        assert found.template == first.path, (method, path)  # type: ignore[attr-defined]
        checked += 1
    assert checked > 1000


def test_a_route_that_is_not_in_the_table_is_not_reached() -> None:
    """Even if the router would match it, and for a key with all scopes."""
    key = "a-key-of-sixteen-or-more"
    app = create_app(Settings(_env_file=None, api_key=key), FakeServices().open_services)
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
