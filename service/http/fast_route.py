"""A route whose ordinary requests skip the general way to a handler's arguments.

FastAPI finds every argument of every request anew: for the few of a classification that costs
more than all else the API does for it, decoding aside. A request that sends none of the special
headers leaves but its query to be read, by the same model; all others, and whatever that model
refuses, go the general way, which also makes the error. The documentation is as for any route.
"""

from collections.abc import Callable, Coroutine
from typing import Any, get_type_hints

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

from service.dependencies import services_of
from service.http.deadlines import deadline_of

# What `Timed`, `Deferred` and `IdempotencyKey` read; without them each has its default.
_SPECIAL = frozenset({b"x-timeout-ms", b"prefer", b"idempotency-key"})


class PlainRoute(APIRoute):
    """For handlers of `request`, `query`, `deadline`, `deferred`, `services` and `key`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of a request, see `APIRoute`."""
        general = super().get_route_handler()
        model: type[BaseModel] = get_type_hints(self.endpoint)["query"]

        async def handle(request: Request) -> Response:
            query = _read(request, model)
            if query is None:
                return await general(request)
            services = await services_of(request)
            answer: Response = await self.endpoint(
                request=request,
                query=query,
                deadline=await deadline_of(request, services),
                deferred=False,
                services=services,
                key=None,
            )
            return answer

        return handle


def _read(request: Request, model: type[BaseModel]) -> BaseModel | None:
    """The query of an ordinary request; None where the general way has to be gone."""
    if any(name in _SPECIAL for name, _ in request.scope["headers"]):
        return None
    pairs = request.query_params.multi_items()
    given = dict(pairs)
    if len(given) != len(pairs):
        return None
    try:
        return model.model_validate(given)
    except ValidationError:
        return None
