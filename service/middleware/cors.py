"""Admits pages of other sites, if the settings name some."""

from typing import Any

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from contracts.settings import Settings
from service.http.origins import ANY_ORIGIN, origin_pattern

# Headers of responses that a page's script may read; browsers hide all others.
_EXPOSED = (
    *("X-Request-Id", "Location", "Retry-After", "RateLimit", "RateLimit-Policy"),
    *("Preference-Applied", "Inference-Header-Content-Length", "Allow", "WWW-Authenticate"),
    *("Content-Disposition", "Content-Encoding", "Content-Range", "Accept-Ranges", "ETag"),
    *("Accept-Encoding", "Traceparent", "Server-Timing", "X-Cache"),
)


def cors(settings: Settings) -> list[Middleware]:
    """The middleware, if the settings name origins.

    It runs before authentication: a browser sends no key with a preflight request.
    """
    if not settings.cors_origins:
        return []
    return [Middleware(CORSMiddleware, **cors_options(settings))]


def cors_options(settings: Settings) -> dict[str, Any]:
    """The arguments of Starlette's middleware."""
    pattern = origin_pattern(settings.cors_origins)
    return {
        "allow_origins": [origin for origin in settings.cors_origins if origin == ANY_ORIGIN],
        "allow_origin_regex": pattern and pattern.pattern,
        "allow_methods": ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        "allow_headers": ["*"],
        "allow_credentials": False,  # keys are headers; nothing here reads a cookie
        "allow_private_network": True,  # pages of the named origins may call a private address
        "expose_headers": _EXPOSED,
        "max_age": 600,
    }
