"""Submits style transfers and dreams; a request that cannot succeed is refused before it waits."""

import json
import math
from collections.abc import Sequence
from typing import cast

from fastapi import Request

from contracts.create.requests import (
    CONTENT,
    CONTENT_FILE,
    DREAM_SIDE,
    IMAGE,
    IMAGE_FILE,
    MAX_SECONDS,
    MAX_STYLES,
    STYLE,
    DreamRequest,
    StyleTransferRequest,
    style_file,
)
from contracts.errors import ValidationFailed
from contracts.jobs import Job, JobKind
from contracts.settings import Settings
from models.create.dream_source import DreamSource, check_class, resolve_source
from models.create.images import required, scaled_size
from models.create.layer_names import required_layer
from models.create.memory import check_style_memory, check_tiled_memory
from models.create.style.size import result_size
from models.create.style.weights import FAST_WEIGHTS, MINIMUM_SIDES, available_network
from models.images.resize import Size, within
from models.memory.machine import memory_limit
from models.weights.catalog import Weights, WeightsMissing
from service.auth.face_models import require_usable
from service.auth.principal import principal_of, quota_key
from service.create.form import ImageField, image_size, read_images
from service.dependencies import Services
from service.http.deadlines import Deadline
from service.http.disconnect import while_connected
from service.http.uploads import Upload, request_fingerprint
from service.threads import run_in_threadpool

STYLE_FIELDS = (
    ImageField(CONTENT, "The image to paint."),
    ImageField(STYLE, "One to four images in whose style to paint it.", MAX_STYLES),
)
DREAM_FIELDS = (ImageField(IMAGE, "The image to dream about."),)
_SHARE_OF_TIME = 0.95  # of what the worker allows; the rest is for loading and saving


async def submit_style_transfer(
    request: Request, services: Services, deadline: Deadline, key: str | None
) -> Job:
    """Queue a style transfer, or return the one that the same key and request made before.

    Raises:
        OpsinError: The request cannot succeed; the route lists why. Nothing was queued.
        ClientDisconnect: The client disconnected.
    """
    async with deadline.enforced():
        await services.job_queue.require_room_unread(
            "style_transfer", key, quota_key(request.scope)
        )
        uploads, options = await read_images(request, STYLE_FIELDS, StyleTransferRequest, services)
        body = cast(StyleTransferRequest, options)
        content, styles = uploads[CONTENT][0], uploads[STYLE]
        _check_shares(body, len(styles))
        size = await while_connected(request, image_size(content, services, deadline))
        sizes = [
            await while_connected(request, image_size(style, services, deadline))
            for style in styles
        ]
        await run_in_threadpool(_check_style, body, size, sizes, services.settings)
        sent = body.model_dump(mode="json", exclude_none=True) | {"styles": len(styles)}
        parameters = sent | ending(body, services.settings)
        files = {CONTENT_FILE: content} | {style_file(i): one for i, one in enumerate(styles)}
        return await _submit(
            "style_transfer",
            parameters,
            files,
            request=request,
            services=services,
            key=key,
            sent=sent,
        )


async def submit_dream(
    request: Request, services: Services, deadline: Deadline, key: str | None
) -> Job:
    """Queue a dream, or return the one that the same key and request made before.

    Raises:
        OpsinError: As `submit_style_transfer`.
        ClientDisconnect: The client disconnected.
    """
    async with deadline.enforced():
        await services.job_queue.require_room_unread("dream", key, quota_key(request.scope))
        uploads, options = await read_images(request, DREAM_FIELDS, DreamRequest, services)
        body = cast(DreamRequest, options)
        if body.layer_weights is not None and len(body.layer_weights) != len(body.layers or ()):
            raise ValidationFailed("layer_weights: send one for each of `layers`.")
        source = await run_in_threadpool(_dream_source, body, services)
        classes: int | None = None
        least = 0
        if source.version is not None:
            manifest = await run_in_threadpool(
                services.store.manifest, source.model, source.version
            )
            await require_usable(services, principal_of(request), manifest)
            classes = manifest.classes
            if body.class_index is not None:
                least = math.prod(manifest.input_size)  # as `input_pixels`
        check_class(source, body.class_index, classes or 0)
        for layer in body.layers or ():
            if source.version is None:
                required_layer(source.model, layer)
            else:
                await services.layers.require(source.model, source.version, layer)
        image = uploads[IMAGE][0]
        size = await while_connected(request, image_size(image, services, deadline))
        full = within(size, DREAM_SIDE) if body.size is None else scaled_size(size, body.size)
        limit = memory_limit(services.settings.training_memory_mb)
        check_tiled_memory(full, limit, body.tile_size, least)
        sent = body.model_dump(mode="json", exclude_none=True)
        version = {} if source.version is None else {"version": str(source.version)}
        resolved = sent | {"model": source.model} | version | ending(body, services.settings)
        return await _submit(
            "dream",
            resolved,
            {IMAGE_FILE: image},
            request=request,
            services=services,
            key=key,
            sent=sent,
        )


async def _submit(
    kind: JobKind,
    parameters: dict[str, object],
    files: dict[str, Upload],
    *,
    request: Request,
    services: Services,
    key: str | None,
    sent: dict[str, object],
) -> Job:
    """Queue a job. Its fingerprint is of what was sent, since an alias may move in between."""
    idempotency = None
    if key is not None:
        text = json.dumps(sent, sort_keys=True)
        digest = await run_in_threadpool(request_fingerprint, text, list(files.values()))
        idempotency = (key, digest)
    inputs = {name: one.data for name, one in files.items() if isinstance(one.data, bytes)}
    return await services.job_queue.submit_work(
        kind, parameters, inputs=inputs, idempotency=idempotency, client=quota_key(request.scope)
    )


def ending(body: StyleTransferRequest | DreamRequest, settings: Settings) -> dict[str, float]:
    """When the job ends with the image it has: before the worker would end it without one."""
    limit = min(settings.picture_max_hours, settings.job_max_hours) * 3600
    return {"max_seconds": min(body.max_seconds or MAX_SECONDS, _SHARE_OF_TIME * limit)}


def _check_shares(body: StyleTransferRequest, styles: int) -> None:
    weights: Sequence[float] | None = body.style_weights
    if weights is None:
        return
    if len(weights) != styles:
        raise ValidationFailed(
            f"style_weights: {len(weights)} were sent for {styles} images 'style'. Send one for "
            "each, in their order."
        )
    if not sum(weights):
        raise ValidationFailed("style_weights: all are 0. Send at least one above 0.")


def _check_style(
    body: StyleTransferRequest, size: Size, styles: Sequence[Size], settings: Settings
) -> None:
    """Weights and memory, as far as this machine can tell; blocks for a moment."""
    weights = Weights.of(settings)
    if body.method == "fast" or body.init == "fast":
        _require_fast_weights(weights)
    limit = memory_limit(settings.training_memory_mb)
    if body.method == "fast":
        check_tiled_memory(result_size(body, size, None), limit)
    else:
        network = available_network(weights, body.network)
        for layer in (*(body.content_layers or ()), *(body.style_layers or ())):
            required_layer(network, layer)
        full = result_size(body, size, network)
        if body.content_layers is None or body.style_layers is None:
            required(full, MINIMUM_SIDES[network])
        check_style_memory(full, network, limit, body.style_scale, styles)


def _require_fast_weights(weights: Weights) -> None:
    try:
        weights.find(FAST_WEIGHTS)
    except WeightsMissing as missing:
        advice = "Or send method=optimize, without init=fast, which needs none of them."
        raise WeightsMissing(f"{missing} {advice}") from None


def _dream_source(body: DreamRequest, services: Services) -> DreamSource:
    return resolve_source(
        body.model,
        body.version,
        store=services.store,
        weights=Weights.of(services.settings),
        models=services.settings.models,
    )
