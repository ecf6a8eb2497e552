"""`/v1/faces/login`, and the keys by which anybody checks the token that it ends in."""

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from contracts.faces.recognition import JsonWebKeys, Login
from service.dependencies import ServicesDep
from service.faces import examples as face_examples
from service.faces.login import enter
from service.http import examples
from service.http.deadlines import Timed
from service.http.errors import problem_responses

router = APIRouter(tags=["Faces"])

_FORM: dict[str, Any] = face_examples.form(
    ["subject_id"],
    subject_id=face_examples.word("As whom."),
    image=face_examples.file("A picture of one clear face."),
    video=face_examples.file("In its place, the clip that answers a challenge."),
    challenge_id=face_examples.word("Of the challenge that the video answers."),
    nonce=face_examples.word("Of that challenge."),
    device_id=face_examples.word(
        "Tells the device; left out, the client's address does, which all behind one proxy share."
    ),
)
_SECONDS = 300  # for which verifiers may keep the keys; an unknown `kid` makes them ask again


@router.post(
    "/v1/faces/login",
    operation_id="login_by_face",
    summary="Log in by face",
    openapi_extra=_FORM,
    responses={
        200: examples.shown("Whether it is the subject.", face_examples.LOGIN),
        **problem_responses(
            *("bad_request", "subject_not_found", "conflict", "payload_too_large"),
            *("unsupported_media_type", "validation_error", "invalid_image", "image_too_large"),
            *("invalid_video", "no_face", "many_faces", "queue_full", "locked_out"),
            *("dependency_unavailable", "model_not_ready", "no_worker", "draining"),
            "deadline_exceeded",
        ),
    },
)
async def login(*, request: Request, deadline: Timed, services: ServicesDep) -> Login:
    """Whether the face is the subject's; with a match comes a signed token.

    `uncertain` means: try again, or another way. Five failures within three minutes lock the
    subject and the device out for half an hour. How near the faces were is told to nobody.
    """
    return await enter(request, deadline, services)


@router.get(
    "/.well-known/jwks.json",
    operation_id="get_jwks",
    summary="The keys of the tokens",
    responses={
        200: examples.shown("A JWK set (RFC 7517).", face_examples.JWKS),
        **problem_responses("dependency_unavailable"),
    },
)
async def get_jwks(response: Response, services: ServicesDep) -> JsonWebKeys:
    """The public keys by which tokens are checked; replaced ones stay while theirs are good."""
    response.headers["Cache-Control"] = f"public, max-age={_SECONDS}"
    return await run_in_threadpool(services.faces.tokens.public)
