"""Which scopes each route needs: one table; the first matching rule counts.

A route without a rule stops the start (`ScopeTable.build`), so none can be forgotten. Requests are
matched with the router's own patterns in the router's own order: matching them in any other way
than they are routed would be a way around the check. What else depends on the path, such as the
limits of bodies, goes by the template that was found here: parts of a path may be any words.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from fastapi.params import Form
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.routing import BaseRoute
from starlette.types import Scope as RequestScope

from contracts.jobs import JobKind
from contracts.keys import SCOPES, Scope

# A key needs one of these scopes; an empty tuple means that no key is needed.
Access = tuple[Scope, ...]
Rule = tuple[str, str, Access]  # method, pattern of the route's template, access
PUBLIC: Access = ()
ANY: Access = SCOPES

# Planned for a later release: the scopes are decided, but no route exists yet.
PLANNED_RULES: tuple[Rule, ...] = ()
# Public is what a client needs before it has a key, and what reveals no more than the source code:
# - /healthz, /readyz and their equivalents of the Open Inference Protocol: probes send no key. They
#   say that something is missing, never where it is;
# - /, /_console, /docs and /openapi.json: a browser sends no key when it opens a page. The page of
#   the console holds no data; the document is the same for every installation of a release, apart
#   from its limits;
# - /.well-known/jwks.json: public keys, for services that verify login tokens;
# - /v1/faces/retention: how long faces are kept, which laws want the public to be told.
RULES: tuple[Rule, ...] = (
    ("GET", "/", PUBLIC),
    ("GET", "/_console/*", PUBLIC),
    ("GET", "/healthz", PUBLIC),
    ("GET", "/readyz", PUBLIC),
    ("GET", "/v2/health/*", PUBLIC),
    ("GET", "/docs", PUBLIC),
    ("GET", "/docs/*", PUBLIC),
    ("GET", "/openapi.json", PUBLIC),
    ("GET", "/.well-known/jwks.json", PUBLIC),
    ("*", "/v1/session", ANY),
    ("*", "/v1/keys*", ("admin",)),
    ("GET", "/v1/audit", ("admin",)),
    ("GET", "/v1/faces/retention", PUBLIC),
    ("PUT", "/v1/faces/threshold", ("admin",)),
    ("PUT", "/v1/faces/policy", ("admin",)),
    ("GET", "/v1/faces/events", ("admin",)),
    ("*", "/v1/faces*", ("faces",)),
    ("*", "/v1/datasets*", ("train",)),
    ("*", "/v1/trainings*", ("train",)),
    ("*", "/v1/sweeps*", ("train",)),
    ("POST", "/v1/models/*/quantize", ("train",)),
    ("POST", "/v1/models/*/evaluations", ("train",)),
    ("POST", "/v1/models/*:predict", ("infer",)),
    ("POST", "/v1/models/*:classify", ("infer",)),
    ("POST", "/v1/models/*:regress", ("infer",)),
    ("GET", "/v1/models/*/download", ("models",)),
    ("GET", "/v1/models*", ANY),
    ("*", "/v1/models/*", ("models",)),
    ("POST", "/v1/classify", ("infer",)),
    ("POST", "/v1/embed", ("infer",)),
    ("POST", "/v1/heatmap", ("infer",)),
    ("POST", "/v1/activations", ("infer",)),
    ("POST", "/v1/filters", ("infer",)),
    # The kind of the job decides which of these, see `scope_of_job`.
    ("*", "/v1/jobs*", ("infer", "train", "faces")),
    ("GET", "/v1/presets", ANY),
    ("GET", "/v1/system", ANY),
    # Not public: it tells the names of models and how busy they are. Prometheus can send a key.
    ("GET", "/metrics", ANY),
    ("POST", "/v2/models/*/infer", ("infer",)),
    # These change nothing.
    ("POST", "/v2/repository/*", ANY),
    ("POST", "/v2/models/*/trace/setting", ANY),
    ("*", "/v2/trace/setting", ANY),
    ("*", "/v2/logging", ANY),
    ("*", "/v2/systemsharedmemory/*", ANY),
    ("*", "/v2/cudasharedmemory/*", ANY),
    ("GET", "/v2", ANY),
    ("GET", "/v2/models/*", ANY),
    ("POST", "/v1/style_transfers", ("infer",)),
    ("POST", "/v1/dreams", ("infer",)),
    *PLANNED_RULES,
)
_TRAIN_KINDS: frozenset[JobKind] = frozenset(
    {"training", "sweep", "dataset_import", "dataset_video", "quantize", "evaluation"}
)
_FACE_KINDS: frozenset[JobKind] = frozenset({"enrollment", "calibration", "face_detection"})


def access_of(method: str, template: str) -> Access:
    """The scopes that a route needs, by its path template, e.g. `/v1/models/{name}`.

    Raises:
        LookupError: No rule matches.
    """
    for methods, pattern, access in RULES:
        if methods in {"*", method} and fnmatchcase(template, pattern):
            return access
    raise LookupError(f"no rule in service.auth.scopes.RULES matches {method} {template}")


def scope_of_job(kind: str) -> Scope:
    """The scope that is needed to create, read or cancel jobs of that kind."""
    if kind in _TRAIN_KINDS:
        return "train"
    return "faces" if kind in _FACE_KINDS else "infer"


@dataclass(frozen=True, slots=True)
class MatchedRoute:
    """The route that a request goes to.

    Attributes:
        template: Its path with the names of its parameters, e.g. `/v1/models/{name}`.
        access: The scopes that it needs.
        takes_json: Whether the framework reads its body, as JSON.
    """

    template: str
    access: Access
    takes_json: bool = False


_UNMATCHED = MatchedRoute("", ())


def matched_route(scope: RequestScope) -> MatchedRoute:
    """The route that `Authentication` has found for a request; one without a template if none."""
    found: MatchedRoute = scope.get("state", {}).get("matched", _UNMATCHED)
    return found


@dataclass(frozen=True, slots=True)
class _Pattern:
    regex: re.Pattern[str]
    methods: frozenset[str]
    route: MatchedRoute


class ScopeTable:
    """The routes of requests and the scopes they need, by method and path; made by `build`."""

    def __init__(self, patterns: Iterable[_Pattern], fixed: Iterable[tuple[str, str]]) -> None:
        self._patterns = tuple(patterns)
        # The results for paths without parameters, so that most requests need one look-up.
        self._fixed = {key: self._match(*key) for key in fixed}

    @classmethod
    def build(cls, routes: Iterable[BaseRoute]) -> "ScopeTable":
        """The table for all routes of an application.

        Raises:
            LookupError: A route has no rule.
        """
        patterns, fixed = [], []
        for context in iter_route_contexts(list(routes)):
            path = context.path or ""
            takes_json = _takes_json(context.original_route)
            for method in context.methods or ():
                access = access_of("GET" if method == "HEAD" else method, path)
                route = MatchedRoute(path, access, takes_json)
                patterns.append(_Pattern(context.path_regex, frozenset({method}), route))
                if "{" not in path:
                    fixed.append((method, path))
        return cls(patterns, fixed)

    def find(self, method: str, path: str) -> MatchedRoute | None:
        """The route of a request; None if no route matches, so nothing may answer it."""
        known = self._fixed.get((method, path))
        return self._match(method, path) if known is None else known

    def _match(self, method: str, path: str) -> MatchedRoute | None:
        for pattern in self._patterns:
            if method in pattern.methods and pattern.regex.match(path):
                return pattern.route
        return None


def _takes_json(route: object) -> bool:
    field = route.body_field if isinstance(route, APIRoute) else None
    return field is not None and not isinstance(field.field_info, Form)
