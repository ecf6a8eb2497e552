"""Assembles the HTTP application from its routes and middleware."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware import Middleware

from contracts.settings import MIB, RELEASE, Settings
from service.auth import audit_routes as audit
from service.auth import routes as keys
from service.auth import session_routes as sessions
from service.auth.scopes import ScopeTable
from service.console import page as console
from service.create import routes as create
from service.datasets import routes as datasets
from service.dependencies import OpenServices
from service.explanation import layer_routes as layers
from service.explanation import routes as explanation
from service.faces.routes import (
    calibrations,
    challenges,
    devices,
    faces,
    login,
    policy,
    subjects,
)
from service.http import errors
from service.http.body import disk_body_limits, max_request_bytes
from service.inference import routes as inference
from service.jobs import routes as jobs
from service.metrics.middleware import KeepRoute, RequestMetrics
from service.middleware.access_log import AccessLines, AccessLog
from service.middleware.authentication import Authentication
from service.middleware.body_limit import BodyLimit
from service.middleware.content_encoding import ContentEncoding
from service.middleware.cookies import Cookies
from service.middleware.cors import cors
from service.middleware.forwarded import forwarded
from service.middleware.full_queues import FullQueues
from service.middleware.memory_limit import UploadBudget
from service.middleware.paths import Paths
from service.middleware.request_id import RequestId
from service.middleware.row_room import RowRoom
from service.middleware.security_headers import SecurityHeaders
from service.openapi import docs
from service.openapi import document as openapi
from service.protocols import oip_routes as oip
from service.protocols import tfserving_routes as tfserving
from service.protocols import triton_routes as triton
from service.registry import evaluation_routes as evaluations
from service.registry import quantization_routes as quantization
from service.registry import routes as models
from service.registry import version_routes as versions
from service.system import routes as operations
from service.training import routes as trainings
from service.training import sweeps


def create_app(settings: Settings, open_services: OpenServices) -> FastAPI:
    """The application. It opens its services when it starts and closes them when it ends."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_services(settings) as services:
            app.state.services = services
            yield

    lines = AccessLines()
    app = FastAPI(
        title="Opsin",
        version=RELEASE,
        lifespan=lifespan,
        openapi_url=None,  # see `service.openapi.docs`
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # Opsin's own spans know its queues, and hold no query string and no client's address.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        middleware=[
            Middleware(Cookies),
            *forwarded(settings),
            Middleware(FullQueues, lines, max_request_bytes(settings)),
            Middleware(SecurityHeaders),
            Middleware(RequestId),
            Middleware(RequestMetrics),
            Middleware(AccessLog, lines),
            *cors(settings),
            Middleware(Paths),
            Middleware(Authentication, settings.cors_origins),
            Middleware(RowRoom, settings),
            Middleware(BodyLimit, max_request_bytes(settings), disk_body_limits(settings)),
            Middleware(ContentEncoding, max_request_bytes(settings), disk_body_limits(settings)),
            Middleware(
                UploadBudget, settings.upload_budget_mb * MIB, disk_body_limits(settings).keys()
            ),
            Middleware(KeepRoute),
        ],
    )
    for routes in (
        inference,
        explanation,
        layers,
        jobs,
        datasets,
        trainings,
        sweeps,
        faces,
        subjects,
        login,
        challenges,
        create,
        tfserving,  # before `models`, whose `/{name}` is also `/{model}:classify`
        models,
        versions,
        quantization,
        evaluations,
        calibrations,
        policy,
        devices,
        triton,  # before `oip`, whose `/models/{model}` is also `/models/stats`
        oip,
        operations,
        keys,
        sessions,
        audit,
    ):
        # As they are: `include_router` would build each of them a second time, which takes 0.1 s.
        app.router.routes.extend(routes.router.routes)
    errors.install(app)
    console.install(app, settings)
    docs.install(app)
    openapi.install(app, settings)
    app.state.scope_table = ScopeTable.build(app.routes)
    return app
