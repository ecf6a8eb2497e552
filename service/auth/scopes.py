"""Which scope each address needs: one table, read from above, and nothing outside it is served.

A route that no line fits stops the start (`Doors.learn`), so none can be forgotten. The matching
is that of the router itself: the same patterns in the same order, for every address, since an
address that is compared in another way than it is routed is a way round the check.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute, Mount

from contracts.jobs import JobKind
from contracts.keys import SCOPES, Scope

# The scopes of which a key needs one; of none, an address needs no key.
Access = tuple[Scope, ...]
PUBLIC: Access = ()
ANY: Access = SCOPES

# Public is what must be asked before one has a key, and tells no more than the source code does:
# - /healthz, /readyz and their twins of the Open Inference Protocol: probes carry no key. They say
#   that something is missing, never where it lies;
# - /, /docs and /openapi.json: a browser sends no key when it opens a page. The document is that
#   of every installation of this release, but for its limits;
# - /.well-known/jwks.json: public keys, for those who check the tokens of a login.
# /metrics is not: it tells the names of models and how busy they are. Prometheus sends a key.
RULES: tuple[tuple[str, str, Access], ...] = (
    ("GET", "/", PUBLIC),
    ("GET", "/healthz", PUBLIC),
    ("GET", "/readyz", PUBLIC),
    ("GET", "/v2/health/*", PUBLIC),
    ("GET", "/docs", PUBLIC),
    ("GET", "/docs/*", PUBLIC),
    ("GET", "/openapi.json", PUBLIC),
    ("GET", "/.well-known/jwks.json", PUBLIC),
    ("*", "/v1/keys*", ("admin",)),
    ("GET", "/v1/audit", ("admin",)),
    ("PUT", "/v1/faces/threshold", ("admin",)),
    ("GET", "/v1/faces/events", ("admin",)),
    ("*", "/v1/faces*", ("faces",)),
    ("*", "/v1/datasets*", ("train",)),
    ("*", "/v1/trainings*", ("train",)),
    ("POST", "/v1/models/*/quantize", ("train",)),
    ("POST", "/v1/models/*:predict", ("infer",)),
    ("GET", "/v1/models/*/download", ("models",)),
    ("GET", "/v1/models*", ANY),
    ("*", "/v1/models/*", ("models",)),
    ("POST", "/v1/classify", ("infer",)),
    ("POST", "/v1/embed", ("infer",)),
    ("POST", "/v1/heatmap", ("infer",)),
    ("POST", "/v1/activations", ("infer",)),
    ("POST", "/v1/filters", ("infer",)),
    ("POST", "/v1/style_transfers", ("infer",)),
    ("POST", "/v1/dreams", ("infer",)),
    # Whose job it is decides the rest, see `scope_of_job`.
    ("*", "/v1/jobs*", ("infer", "train", "faces")),
    ("GET", "/v1/presets", ANY),
    ("GET", "/v1/system", ANY),
    ("GET", "/metrics", ANY),
    ("POST", "/v2/models/*/infer", ("infer",)),
    ("POST", "/v2/repository/index", ANY),
    ("GET", "/v2", ANY),
    ("GET", "/v2/models/*", ANY),
)
_TRAINING: frozenset[JobKind] = frozenset({"training", "dataset_import", "quantize"})
_FACES = frozenset({"enrollment", "calibration"})


def access_of(method: str, path: str) -> Access:
    """What a route needs, by its template, e.g. `/v1/models/{name}`.

    Raises:
        LookupError: No line of the table fits.
    """
    for methods, pattern, access in RULES:
        if methods in {"*", method} and fnmatchcase(path, pattern):
            return access
    raise LookupError(f"no line of service.auth.scopes.RULES says who may {method} {path}")


def scope_of_job(kind: str) -> Scope:
    """The scope that made a job of that kind, and so may look at it and stop it."""
    if kind in _TRAINING:
        return "train"
    return "faces" if kind in _FACES else "infer"


@dataclass(frozen=True, slots=True)
class _Pattern:
    regex: re.Pattern[str]
    methods: frozenset[str]
    access: Access


@dataclass(slots=True)
class Doors:
    """The same for the addresses of requests."""

    _patterns: list[_Pattern] = field(default_factory=list)
    # What the patterns say of the addresses without a parameter, so that most are found at once.
    _known: dict[tuple[str, str], Access] = field(default_factory=dict)

    def learn(self, routes: Iterable[BaseRoute]) -> None:
        """Take in all routes of an application.

        Raises:
            LookupError: A route is in no line of the table.
        """
        fixed = []
        for context in iter_route_contexts(list(routes)):
            if isinstance(context.original_route, Mount):
                # Files of ours, under an address of their own.
                access = access_of("GET", f"{context.path}/")
                methods = frozenset({"GET", "HEAD"})
                self._patterns.append(_Pattern(context.path_regex, methods, access))
                continue
            path = context.path or ""
            for method in context.methods or ():
                access = access_of("GET" if method == "HEAD" else method, path)
                self._patterns.append(_Pattern(context.path_regex, frozenset({method}), access))
                if "{" not in path:
                    fixed.append((method, path))
        for method, path in fixed:
            found = self._match(method, path)
            if found is not None:
                self._known[method, path] = found

    def access(self, method: str, path: str) -> Access | None:
        """What a request needs; None where no route takes it, which then may answer nobody."""
        known = self._known.get((method, path))
        return self._match(method, path) if known is None else known

    def _match(self, method: str, path: str) -> Access | None:
        for one in self._patterns:
            if method in one.methods and one.regex.match(path):
                return one.access
        return None
