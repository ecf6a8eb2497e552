"""`/`: the console's page and its files.

The page holds no data, so it needs no key; its scripts fetch everything from the API, with the
session or, on an open service, without. The policy permits our own files only: no inline script or
style, no other origin, and nothing that turns text into HTML.
"""

import mimetypes
import re
from html import escape
from pathlib import Path
from string import Template

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse

from contracts.errors import NotFound
from contracts.public_paths import PREFIX
from contracts.settings import RELEASE, Settings
from models.weights.sources import sample_files
from service.console.assets import LANGUAGES, load_assets, texts
from service.http.assets import Asset
from service.http.lists import items_of

LANGUAGE_COOKIE = "opsin_language"
PAGES = ("classify", "learn", "faces", "create", "jobs", "system")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_FOREVER = "public, max-age=31536000, immutable"
_PAGE = Template(
    (Path(__file__).with_name("page.html")).read_text("utf-8"),
)


def install(app: FastAPI, settings: Settings) -> None:
    """Serve the console of `app`."""
    samples = Samples(settings.home / "samples")

    def page(request: Request) -> Response:
        return _page(request, samples)

    app.add_api_route("/", page, include_in_schema=False)
    app.add_api_route("/_console/samples/{name}", samples.respond, include_in_schema=False)
    app.add_api_route("/_console/{digest}/{path:path}", _asset, include_in_schema=False)


class Samples:
    """The sample photos that `opsin weights pull` has fetched."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names = sorted(row.file for row in sample_files())
        self._photos: dict[str, tuple[int, Asset]] = {}  # by name, and by when they were written

    def available(self) -> list[str]:
        return [name for name in self._names if (self._folder / name).is_file()]

    def respond(self, request: Request, name: str) -> Response:
        """The photo of that name.

        Raises:
            NotFound: There is none.
        """
        if name not in self.available():
            raise NotFound("There is no such sample. `opsin weights pull` fetches the samples.")
        return self._photo(name).response(request, {"Cache-Control": "public, max-age=86400"})

    def _photo(self, name: str) -> Asset:
        path = self._folder / name
        written = path.stat().st_mtime_ns
        before, photo = self._photos.get(name, (None, None))
        if photo is None or before != written:
            media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
            photo = Asset.of(path.read_bytes(), media_type, packs=False)
            self._photos[name] = written, photo
        return photo


def _page(request: Request, samples: Samples) -> Response:
    language = language_of(request)
    return HTMLResponse(
        _render(language, load_assets().digest, " ".join(samples.available())),
        headers={
            "Cache-Control": "no-cache",
            "Content-Language": language,
            "Content-Security-Policy": _POLICY,
            "Vary": "Accept-Language, Cookie",
        },
    )


async def _asset(request: Request, digest: str, path: str) -> Response:
    assets = load_assets()
    found = assets.files.get(path) if digest == assets.digest else None
    if found is None:
        raise NotFound("The console has no such file in this release. Reload the page.")
    return found.response(request, {"Cache-Control": _FOREVER})


def language_of(request: Request) -> str:
    """The language that the user chose, otherwise the browser's, otherwise English."""
    # Not by `http.cookies`, which takes seconds for a value of quotes (CVE-2024-7592), and this
    # page needs no key.
    for item in request.headers.get("Cookie", "").split(";"):
        name, _, value = item.strip().partition("=")
        if name == LANGUAGE_COOKIE and value in LANGUAGES:
            return value
    for item in items_of(request.headers.getlist("Accept-Language")):
        if (match := re.match(r"\s*([a-z]{2})\b", item)) and match[1] in LANGUAGES:
            return match[1]
    return LANGUAGES[0]


def _render(language: str, digest: str, samples: str) -> str:
    catalog = texts(language)
    # Relative without a known prefix, so that it works behind a proxy that says nothing of its own.
    base = PREFIX.get() + "/" if PREFIX.get() else ""
    links = "".join(
        f'<a href="#/{name}" data-page="{name}">{escape(catalog[f"nav.{name}"])}</a>'
        for name in PAGES
    )
    return _PAGE.substitute(
        language="zh-Hans" if language == "zh" else language,
        code=language,
        assets=f"{base}_console/{digest}",
        samples=escape(samples),
        version=escape(RELEASE),
        links=links,
        docs=f"{base}docs",
        title=escape(catalog["app.title"]),
        tagline=escape(catalog["app.tagline"]),
        skip=escape(catalog["app.skip"]),
        navigation=escape(catalog["app.navigation"]),
        no_script=escape(catalog["app.noscript"]),
        loading=escape(catalog["app.loading"]),
    )
