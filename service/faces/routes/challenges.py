"""`/v1/faces/challenges`: what a person has to do in front of the camera."""

from fastapi import APIRouter, Request, Response

from contracts.faces.liveness import Challenge, NewChallenge
from service.dependencies import ServicesDep
from service.faces import examples as face_examples
from service.faces.locks.attempts import caller_of
from service.http.addresses import network_of
from service.http.errors import problem_responses
from service.http.headers import CreateKeyHeader
from service.openapi import examples
from service.threads import run_in_threadpool

router = APIRouter(prefix="/v1/faces/challenges", tags=["Faces"])


@router.post(
    "",
    operation_id="create_challenge",
    summary="Request a liveness challenge",
    status_code=201,
    responses={
        201: examples.json_response(
            "What to do, in this order, in one clip.", face_examples.CHALLENGE
        ),
        **problem_responses(
            *("subject_not_found", "validation_error", "rate_limited", "dependency_unavailable"),
            "idempotency_conflict",
        ),
    },
)
async def create_challenge(
    *,
    request: Request,
    response: Response,
    body: NewChallenge,
    services: ServicesDep,
    key: CreateKeyHeader = None,
) -> Challenge:
    """Three actions in random order, with a nonce that can be used once within 90 seconds.

    During that time the actions for a subject stay the same, however many challenges are requested.

    Send clip, id and nonce with the login or enrollment; a failed one uses up the challenge too.
    An error of the service (429 `queue_full`, 5xx) does not: send the same clip again.
    Begin and end by looking calmly into the camera, hold every action for half a second, and send
    the clip as it was recorded, not mirrored: left and right are the person's own.
    """
    response.headers["Cache-Control"] = "no-store"
    await run_in_threadpool(services.faces.subjects.get, body.subject_id)
    client = network_of(request.client.host) if request.client else "local"
    faces, caller = services.faces, await caller_of(services.faces, request, body.device_id)
    known = await faces.lockout.is_known(body.subject_id, caller)
    device = caller.known_as if known else ""
    return await faces.challenges.create(body, client, device, key=key)
