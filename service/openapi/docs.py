"""`/docs` and `/openapi.json`: the documentation, without files from other servers.

FastAPI's own page loads Swagger UI from a CDN, which fails without internet access, and starts it
with an inline script, which our content security policy forbids. The files come from the static
folder of `fastapi-offline`. All links are relative, so that the page works behind a proxy with a
path prefix.
"""

import asyncio
import gzip
import hashlib
import importlib.util
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from contracts.public_paths import PREFIX
from service.http.conditional import etag_matches, is_gzip_accepted
from service.http.files import with_one_range
from service.threads import run_in_threadpool

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Opsin API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/assets/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/assets/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START_SCRIPT = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  presets: [SwaggerUIBundle.presets.apis],
  validatorUrl: null,
});
"""


def install(app: FastAPI) -> None:
    """Serve the documentation of `app` under /docs, and its OpenAPI document."""
    building = asyncio.Lock()

    @lru_cache(maxsize=8)  # by prefix, which only trusted proxies choose
    def rendered(prefix: str) -> _Document:
        document = app.openapi()
        if prefix:
            servers = [server | {"url": prefix} for server in document["servers"]]
            document = document | {"servers": servers}
        return _Document.of(document)

    async def document(request: Request) -> Response:
        async with building:  # once, and beside the event loop: it takes a second of CPU time
            built = await run_in_threadpool(rendered, PREFIX.get())
        return built.response(request)

    async def page() -> HTMLResponse:
        return HTMLResponse(_PAGE)

    async def start_script() -> Response:
        return Response(_START_SCRIPT, media_type="text/javascript")

    app.add_api_route("/openapi.json", document, include_in_schema=False)
    app.add_api_route("/docs", page, include_in_schema=False)
    app.add_api_route("/docs/start.js", start_script, include_in_schema=False)
    app.mount("/docs/assets", _Assets(directory=_assets()), name="docs_assets")


class _Assets(StaticFiles):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__(with_one_range(scope), receive, send)


@dataclass(frozen=True, slots=True)
class _Document:
    """The OpenAPI document as it is sent: half a megabyte, or a tenth of that."""

    plain: bytes
    packed: bytes
    etag: str

    @classmethod
    def of(cls, document: dict[str, object]) -> "_Document":
        plain = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
        return cls(plain, gzip.compress(plain, mtime=0), hashlib.sha256(plain).hexdigest()[:32])

    def response(self, request: Request) -> Response:
        """304 if the client has it, otherwise the document."""
        packs = is_gzip_accepted(request.headers)
        etag = f'"{self.etag}-gzip"' if packs else f'"{self.etag}"'
        headers = {"ETag": etag, "Vary": "Accept-Encoding", "Cache-Control": "no-cache"}
        if etag_matches(request.headers, etag):
            return Response(status_code=304, headers=headers)
        if packs:
            headers["Content-Encoding"] = "gzip"
        return Response(self.packed if packs else self.plain, 200, headers, "application/json")


def _assets() -> Path:
    """The folder of Swagger UI's files, found without importing the package around it."""
    spec = importlib.util.find_spec("fastapi_offline")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("fastapi-offline is not installed; run `make setup`")
    return Path(spec.submodule_search_locations[0]) / "static"
