"""`/v1/faces/login`, and the public keys for verifying its tokens."""

from typing import Any

from fastapi import APIRouter, Request, Response

from contracts.faces.recognition import JsonWebKeys, Login
from service.dependencies import ServicesDep
from service.faces import examples as face_examples
from service.faces import login as face_login
from service.http.deadlines import DeadlineDep
from service.http.errors import problem_responses
from service.openapi import examples

router = APIRouter(tags=["Faces"])

_FORM: dict[str, Any] = face_examples.form(
    ["subject_id"],
    subject_id=face_examples.word("The subject to log in as."),
    image=face_examples.file("An image of one clear face."),
    video=face_examples.file("Instead of an image, the clip that answers a challenge."),
    challenge_id=face_examples.word("Of the challenge that the video answers."),
    nonce=face_examples.word("Of that challenge."),
    device_id=face_examples.word(
        "Identifies the device. Clients at one address that send none share the limit of failures."
    ),
    signature=face_examples.word(
        "ES256 signature of the nonce by the key of that device, base64url; then an image may "
        "answer a challenge too."
    ),
)
_CACHE_SECONDS = 300  # verifiers fetch the keys again when they see an unknown `kid`


@router.post(
    "/v1/faces/login",
    operation_id="login_by_face",
    summary="Log in by face",
    openapi_extra=_FORM,
    responses={
        200: examples.json_response("Whether the face is the subject's.", face_examples.LOGIN),
        **problem_responses(
            *("bad_request", "subject_not_found", "conflict", "payload_too_large"),
            *("unsupported_media_type", "validation_error", "invalid_image", "image_too_large"),
            *("invalid_video", "no_face", "many_faces", "queue_full", "locked_out"),
            *("dependency_unavailable", "model_not_ready", "no_worker", "draining"),
            "deadline_exceeded",
        ),
    },
)
async def login(*, request: Request, deadline: DeadlineDep, services: ServicesDep) -> Login:
    """Decide whether the face is the subject's; a match returns a signed token.

    `uncertain` means: try again, or log in another way. Five failures within three minutes lock the
    device out for half an hour; an address and a subject have higher limits with growing waits.
    After 50 failures in a row (`PUT /v1/faces/policy`) the face is disabled, and another factor is
    needed. The similarity is not revealed.
    """
    return await face_login.login(request, deadline, services)


@router.get(
    "/.well-known/jwks.json",
    operation_id="get_jwks",
    summary="Get the public keys of the tokens",
    responses={
        200: examples.json_response("A JWK set (RFC 7517).", face_examples.JWKS),
        **problem_responses("dependency_unavailable"),
    },
)
async def get_jwks(response: Response, services: ServicesDep) -> JsonWebKeys:
    """The public keys for verifying tokens. A replaced key stays while its tokens are valid."""
    response.headers["Cache-Control"] = f"public, max-age={_CACHE_SECONDS}"
    return await services.shared_reads.run("token_keys", services.faces.tokens.public_keys)
