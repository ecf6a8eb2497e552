"""`/v1/faces/challenges`: what a person is to do before the camera."""

from fastapi import APIRouter, Request, Response

from contracts.faces.liveness import Challenge, NewChallenge
from service.dependencies import ServicesDep
from service.faces import examples as face_examples
from service.faces.challenges import challenge
from service.http import examples
from service.http.errors import problem_responses

router = APIRouter(prefix="/v1/faces/challenges", tags=["Faces"])


@router.post(
    "",
    operation_id="create_challenge",
    summary="Ask for a liveness challenge",
    status_code=201,
    responses={
        201: examples.shown("What to do, in this order, in one clip.", face_examples.CHALLENGE),
        **problem_responses(
            *("subject_not_found", "validation_error", "rate_limited", "dependency_unavailable")
        ),
    },
)
async def create_challenge(
    *, request: Request, response: Response, body: NewChallenge, services: ServicesDep
) -> Challenge:
    """Three actions in random order, with a nonce that serves once within 90 seconds.

    The actions are those of a subject for as long: who asks again is asked for the same.

    Send clip, id and nonce with the login or enrollment; a failed one uses the challenge up too.
    Begin and end with a quiet look into the camera, hold every action for half a second, and send
    the clip as it was recorded, not mirrored: left and right are the person's own.
    """
    response.headers["Cache-Control"] = "no-store"
    return await challenge(request, body, services)
