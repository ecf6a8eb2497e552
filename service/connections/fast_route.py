"""A route that answers ordinary requests without FastAPI's dependency resolution.

FastAPI resolves every parameter for every request. For the few parameters of a classification that
costs more than everything else the API does for it, apart from decoding. A request without the
special headers needs only its query read, by the same model; all other requests, and queries that
the model refuses, take FastAPI's way, which also makes the error response. The documentation is
that of any route.
"""

from typing import Any, get_type_hints

from fastapi import Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.types import Receive, Scope, Send

from service.dependencies import services_of
from service.http.deadlines import deadline_of

SPECIAL_HEADERS = frozenset({b"x-timeout-ms", b"prefer", b"idempotency-key"})
"""What `DeadlineDep`, `PrefersAsync` and `JobKeyHeader` read; without them each has its default."""


class FastRoute(APIRoute):
    """For handlers of `request`, `query`, `deadline`, `deferred`, `services` and `key`.

    Their dependencies may have nothing to close, as FastAPI's stacks for that are left out too.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._model: type[BaseModel] = get_type_hints(self.endpoint)["query"]

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; an `OpsinError` is answered by the application's handler."""
        request = Request(scope, receive, send)
        is_method = self.methods is not None and scope["method"] in self.methods
        query = _read_query(request, self._model) if is_method else None
        if query is None:
            await super().handle(scope, receive, send)
            return
        services = await services_of(request)
        response = await self.endpoint(
            request=request,
            query=query,
            deadline=await deadline_of(request, services),
            deferred=False,
            services=services,
            key=None,
        )
        await response(scope, receive, send)


def _read_query(request: Request, model: type[BaseModel]) -> BaseModel | None:
    """The query of an ordinary request; None if FastAPI has to read the request."""
    if any(name in SPECIAL_HEADERS for name, _ in request.scope["headers"]):
        return None
    pairs = request.query_params.multi_items()
    values = dict(pairs)
    if len(values) != len(pairs):
        return None
    try:
        return model.model_validate(values)
    except ValidationError:
        return None
