"""The framework parses no JSON of more than a megabyte, whatever words are in a path."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Message

from contracts.settings import Settings
from service.app import create_app
from service.http.body import max_request_bytes
from service.middleware.body_limit import MAX_JSON_BYTES
from service.protocols.oip_routes import infer
from service.protocols.tfserving_routes import predict
from tests.service.adversarial_paths import filled, words
from tests.service.parts import FakeServices

SETTINGS = Settings(_env_file=None, max_images=4, max_image_bytes=500_000)
JSON = "application/json"
PIECE = 64 * 1024
BODY = b'{"name": "' + b"a" * MAX_JSON_BYTES + b'"}'
_APP = create_app(SETTINGS, FakeServices().open_services)
ROUTES = [
    (method, route.path)
    for route in _APP.routes
    if isinstance(route, APIRoute)
    for method in sorted(route.methods - {"GET", "HEAD"})
]
WORDS = words(_APP)


@dataclass
class Sent:
    """What became of a request.

    Attributes:
        status: Of the response.
        taken: Bytes of the body that were asked for.
    """

    status: int = 0
    taken: int = 0


@asynccontextmanager
async def running() -> AsyncIterator[FastAPI]:
    app = create_app(SETTINGS, FakeServices().open_services)
    async with app.router.lifespan_context(app):
        yield app


async def send(
    app: FastAPI, method: str, path: str, body: bytes, headers: dict[str, str], length: int | None
) -> Sent:
    found = Sent()

    async def receive() -> Message:
        if found.taken == len(body):
            await asyncio.Event().wait()  # the client stays
        piece = body[found.taken : found.taken + PIECE]
        found.taken += len(piece)
        return {"type": "http.request", "body": piece, "more_body": found.taken < len(body)}

    async def answer(message: Message) -> None:
        found.status = message.get("status", found.status)

    sent = {"host": "localhost", **({} if length is None else {"content-length": str(length)})}
    await app(
        {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(k.encode(), v.encode()) for k, v in (sent | headers).items()],
            "client": ("127.0.0.1", 5000),
            "server": ("127.0.0.1", 8000),
        },
        receive,
        answer,
    )
    return found


def routed(app: FastAPI, method: str, path: str) -> APIRoute:
    """The route by the router itself."""
    scope = {"type": "http", "method": method, "path": path, "headers": []}
    found = next(route for route in app.routes if route.matches(scope)[0] is Match.FULL)
    assert isinstance(found, APIRoute)
    return found


def paths_of(template: str) -> Sequence[str]:
    return [filled(template, word) for word in WORDS] if "{" in template else [template]


@pytest.mark.parametrize(("method", "template"), ROUTES)
def test_a_declared_length_is_refused_unread(method: str, template: str) -> None:
    async def check() -> None:
        async with running() as app:
            largest = max_request_bytes(SETTINGS)
            for path in paths_of(template):
                takes_tensors = routed(app, method, path).endpoint in {infer, predict}
                for media_type in (JSON, "Application/Vnd.x+JSON; charset=x"):
                    headers = {"content-type": media_type}
                    long = await send(app, method, path, BODY, headers, len(BODY))
                    if takes_tensors:
                        assert long.status != 413, path
                    else:
                        assert (long.status, long.taken) == (413, 0), path
                    longest = await send(app, method, path, BODY, headers, largest + 1)
                    assert (longest.status, longest.taken) == (413, 0), path

    asyncio.run(check())


@pytest.mark.parametrize(("method", "template"), ROUTES)
@pytest.mark.parametrize("packed", [False, True])
def test_no_more_than_a_megabyte_is_read(method: str, template: str, packed: bool) -> None:
    """Without a declared length, or compressed: neither says how much will come."""

    async def check() -> None:
        async with running() as app:
            body = gzip.compress(BODY, 1) if packed else BODY
            coding = {"content-encoding": "gzip"} if packed else {}
            for path in paths_of(template):
                route = routed(app, method, path)
                if route.endpoint in {infer, predict}:
                    continue
                for media_type in types_of(route):
                    typed = coding | ({"content-type": media_type} if media_type else {})
                    sent = await send(app, method, path, body, typed, None)
                    assert sent.taken <= MAX_JSON_BYTES + PIECE, path
                    if route.body_field is not None:
                        assert sent.status == 413, (path, media_type)

    asyncio.run(check())


def types_of(route: APIRoute) -> Iterable[str]:
    """Where the framework reads the body, it does so whatever its type is."""
    return (JSON, "text/plain", "") if route.body_field is not None else (JSON,)


def test_the_routes_of_tensors_take_more_and_still_not_everything() -> None:
    async def check() -> None:
        async with running() as app:
            for path in ("/v2/models/squeezenet/infer", "/v1/models/squeezenet:predict"):
                headers = {"content-type": JSON}
                sent = await send(app, "POST", path, BODY, headers, None)
                assert sent.status != 413
                assert sent.taken == len(BODY)
                more = b" " * (max_request_bytes(SETTINGS) + 1)
                assert (await send(app, "POST", path, more, headers, None)).status == 413

    asyncio.run(check())
