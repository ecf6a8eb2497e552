"""Puts the HTTP application together. Every line here connects; what things do is elsewhere."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware import Middleware

from contracts.release import RELEASE
from contracts.settings import Settings
from service import documentation, openapi, problems
from service.limits import body_limit, larger_bodies
from service.middleware.access_log import AccessLog
from service.middleware.body_limit import BodyLimit
from service.middleware.keys import KeyCheck
from service.middleware.request_id import RequestId
from service.middleware.security_headers import SecurityHeaders
from service.routes import (
    calibrations,
    challenges,
    datasets,
    explanation,
    faces,
    inference,
    jobs,
    layers,
    login,
    models,
    oip,
    operations,
    quantization,
    subjects,
    tfserving,
    trainings,
    versions,
)
from service.services import Opening


def create_app(settings: Settings, opening: Opening) -> FastAPI:
    """The application, which opens its services when it starts and closes them when it ends.

    Args:
        settings: The whole configuration.
        opening: Opens Redis, the database, the decoder and what stands on them.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with opening(settings) as services:
            app.state.services = services
            yield

    app = FastAPI(
        title="Opsin",
        version=RELEASE,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        middleware=[
            Middleware(SecurityHeaders),
            Middleware(RequestId),
            Middleware(AccessLog),
            Middleware(KeyCheck, settings.api_key),
            Middleware(BodyLimit, body_limit(settings), larger_bodies(settings)),
        ],
    )
    for routes in (
        inference,
        explanation,
        layers,
        jobs,
        datasets,
        trainings,
        faces,
        subjects,
        login,
        challenges,
        models,
        versions,
        quantization,
        calibrations,
        oip,
        tfserving,
        operations,
    ):
        app.include_router(routes.router)
    problems.install(app)
    documentation.install(app)
    openapi.install(app, settings)
    return app
