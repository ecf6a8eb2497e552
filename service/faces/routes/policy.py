"""`/v1/faces/policy` and `/v1/faces/retention`: what is required, and how long faces are kept."""

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse

from contracts.faces.consent import NewPolicy, Policy
from service.auth import audit
from service.dependencies import ServicesDep
from service.faces import examples as face_examples
from service.faces.privacy.retention import retention_text
from service.http.errors import problem_responses
from service.openapi import examples
from service.threads import run_in_threadpool

router = APIRouter(prefix="/v1/faces", tags=["Faces"])


@router.get(
    "/policy",
    operation_id="get_face_policy",
    summary="Get the policy for faces",
    responses={
        200: examples.json_response("The policy in force.", face_examples.POLICY),
        **problem_responses("dependency_unavailable"),
    },
)
async def get_policy(services: ServicesDep) -> Policy:
    """What enrollments and logins require, and after how long a subject is erased."""
    return await run_in_threadpool(services.faces.repositories.policy.get)


@router.put(
    "/policy",
    operation_id="set_face_policy",
    summary="Set the policy for faces",
    responses={
        200: examples.json_response("The policy in force now.", face_examples.POLICY),
        **problem_responses("validation_error", "dependency_unavailable"),
    },
)
async def set_policy(*, request: Request, body: NewPolicy, services: ServicesDep) -> Policy:
    """Set the policy for all API processes at once. It never weakens what the settings require.

    `retention_days` erases subjects who were not used for so long, within the next minutes; an
    erasure cannot be undone.
    """
    policy = await run_in_threadpool(services.faces.repositories.policy.set, body)
    await audit.record(request, services, "face_policy_set", body.model_dump_json()[:300])
    return policy


@router.get(
    "/retention",
    operation_id="get_face_retention",
    summary="Read how long faces are kept",
    response_class=PlainTextResponse,
    responses={
        200: {
            "description": "The retention policy, as text for everyone.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
        **problem_responses("dependency_unavailable"),
    },
)
async def get_retention(services: ServicesDep) -> PlainTextResponse:
    """The public retention policy; needs no key. `PUT /v1/faces/policy` can replace the text."""
    policy = await services.shared_reads.run("policy", services.faces.repositories.policy.get)
    return PlainTextResponse(retention_text(policy))
