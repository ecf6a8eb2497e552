"""`/docs` and `/openapi.json`: the documentation, without files from other servers.

FastAPI's own page loads Swagger UI from a CDN, which fails without internet access, and starts it
with an inline script, which our content security policy forbids. The files come from the static
folder of `fastapi-offline`. All links are relative, so that the page works behind a proxy with a
path prefix.
"""

import asyncio
import importlib.util
import json
from functools import lru_cache
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse

from contracts.errors import NotFound
from contracts.public_paths import PREFIX
from service.http.assets import Asset
from service.http.body import JSON_TYPE
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
_ASSETS = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}
_REVALIDATED = {"Cache-Control": "no-cache"}


def install(app: FastAPI) -> None:
    """Serve the documentation of `app` under /docs, and its OpenAPI document."""
    building, assets = asyncio.Lock(), _assets()

    @lru_cache(maxsize=8)  # by prefix, which only trusted proxies choose
    def rendered(prefix: str) -> Asset:
        document = app.openapi()
        if prefix:
            servers = [server | {"url": prefix} for server in document["servers"]]
            document = document | {"servers": servers}
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        return Asset.of(text.encode(), JSON_TYPE)

    async def document(request: Request) -> Response:
        async with building:  # once, and beside the event loop: it takes a second of CPU time
            built = await run_in_threadpool(rendered, PREFIX.get())
        return built.response(request, _REVALIDATED)

    async def page() -> HTMLResponse:
        return HTMLResponse(_PAGE)

    async def start_script() -> Response:
        return Response(_START_SCRIPT, media_type="text/javascript")

    async def asset(request: Request, name: str) -> Response:
        found = assets.get(name)
        if found is None:
            raise NotFound("The documentation has no such file. Reload the page.")
        return found.response(request, _REVALIDATED)

    app.add_api_route("/openapi.json", document, include_in_schema=False)
    app.add_api_route("/docs", page, include_in_schema=False)
    app.add_api_route("/docs/start.js", start_script, include_in_schema=False)
    app.add_api_route("/docs/assets/{name:path}", asset, include_in_schema=False)


def _assets() -> dict[str, Asset]:
    """Swagger UI's files that the page loads, found without importing the package around them."""
    spec = importlib.util.find_spec("fastapi_offline")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("fastapi-offline is not installed; run `make setup`")
    folder = Path(spec.submodule_search_locations[0]) / "static"
    return {
        name: Asset.of((folder / name).read_bytes(), media_type, packs=False)
        for name, media_type in _ASSETS.items()
    }
