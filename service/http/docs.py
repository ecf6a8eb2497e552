"""`/docs`: the interactive documentation, without files from other servers.

FastAPI's own page loads Swagger UI from a CDN, which fails without internet access, and starts it
with an inline script, which our content security policy forbids. The files come from the static
folder of `fastapi-offline`.
"""

import importlib.util
from pathlib import Path

from fastapi import FastAPI, Response
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Opsin API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/assets/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/assets/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_START_SCRIPT = """SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  presets: [SwaggerUIBundle.presets.apis],
  validatorUrl: null,
});
"""


def install(app: FastAPI) -> None:
    """Serve the documentation of `app` under /docs."""

    async def page() -> HTMLResponse:
        return HTMLResponse(_PAGE)

    async def start_script() -> Response:
        return Response(_START_SCRIPT, media_type="text/javascript")

    app.add_api_route("/docs", page, include_in_schema=False)
    app.add_api_route("/docs/start.js", start_script, include_in_schema=False)
    app.mount("/docs/assets", StaticFiles(directory=_assets()), name="docs_assets")


def _assets() -> Path:
    """The folder of Swagger UI's files, found without importing the package around it."""
    spec = importlib.util.find_spec("fastapi_offline")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("fastapi-offline is not installed; run `make setup`")
    return Path(spec.submodule_search_locations[0]) / "static"
