"""Paths that look like those of other routes: what decides by a part of a path decides wrongly."""

import re
from collections.abc import Iterator

from fastapi import FastAPI

_PARAMETER = re.compile(r"\{[^}]+\}")
_VARIANTS = (
    lambda path: path,
    lambda path: path + "/",
    lambda path: path + "//",
    lambda path: "/" + path,
    lambda path: path.replace("/", "//", 2),
    lambda path: path.upper(),
    lambda path: path + ";a=1",
    lambda path: path.replace("/v1/", "/v1;a/"),
    lambda path: path + "/..",
    lambda path: path + "%2Finfer",
)


def templates(app: FastAPI) -> list[tuple[str, str]]:
    """Method and template of all routes."""
    return [
        (method, getattr(route, "path", ""))
        for route in app.routes
        for method in sorted(getattr(route, "methods", None) or {"GET"})
    ]


def words(app: FastAPI) -> list[str]:
    """Values of parameters: every literal part of any path, and what a whole path may end in."""
    parts = {part for _, path in templates(app) for part in path.split("/")}
    literal = {part for part in parts if part and "{" not in part}
    verbs = {f"x:{part.partition(':')[2]}" for part in parts if "}:" in part}
    return sorted({*literal, *verbs, "x", "..", ";", "%2F", "INFER", ":predict", "1:predict;"})


def filled(template: str, word: str) -> str:
    """The path with a word for every parameter."""
    return _PARAMETER.sub(lambda _: word, template)


def adversarial_requests(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Method and path, as the application sees it, of every route with every word and spelling."""
    known = words(app)
    for method, template in templates(app):
        for variant in _VARIANTS:
            yield method, variant(filled(template, "x:predict"))
        for word in known if "{" in template else ():
            yield method, filled(template, word)
