"""Below `/v1/faces/subjects/{id}`: keys of devices, and a copy of all that is held."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from contracts.faces.devices import Device, Devices, NewDevice, SubjectExport
from contracts.faces.subjects import SUBJECT_ID
from contracts.names import composed
from service.auth import audit
from service.auth.principal import actor_of
from service.dependencies import ServicesDep
from service.faces import examples as face_examples
from service.faces.device_keys import register
from service.faces.locks.attempts import caller_of
from service.faces.privacy.export import export
from service.faces.subjects import embedder_in_force
from service.http.errors import problem_responses
from service.http.headers import CreateKeyHeader
from service.http.large_responses import ReadingDep
from service.openapi import examples
from service.threads import run_in_threadpool

router = APIRouter(prefix="/v1/faces/subjects/{subject_id}", tags=["Faces"])

SubjectId = Annotated[
    str,
    Path(description="A subject's id.", pattern=SUBJECT_ID, examples=[face_examples.SUBJECT_ID]),
]
_MISSING = problem_responses("subject_not_found", "validation_error", "dependency_unavailable")


@router.post(
    "/devices",
    operation_id="register_device",
    summary="Register a person's device",
    status_code=201,
    responses={
        201: examples.json_response("The device.", face_examples.DEVICE),
        **_MISSING,
        **problem_responses("conflict", "idempotency_conflict"),
    },
)
async def register_device(
    *,
    request: Request,
    subject_id: SubjectId,
    body: NewDevice,
    services: ServicesDep,
    key: CreateKeyHeader = None,
) -> Device:
    """Register the public key of a device, once the person has proved who they are.

    Its logins carry `signature`, the ES256 signature of a challenge's nonce, as the bytes of its
    text. WebCrypto's 64 bytes and the DER of Android and iOS are accepted. Keep the private key in
    the device's key store, where it cannot be exported.
    """
    device = await run_in_threadpool(register, services.faces, subject_id, body, key)
    await audit.record(request, services, "device_registered", subject_id)
    return device


@router.get(
    "/devices",
    operation_id="list_devices",
    summary="List a person's devices",
    responses={
        200: examples.json_response(
            "The devices, oldest first.", {"items": [face_examples.DEVICE]}
        ),
        **_MISSING,
    },
)
async def list_devices(subject_id: SubjectId, services: ServicesDep) -> Devices:
    """The registered devices with their public keys, at most 16."""
    devices = services.faces.repositories.devices
    return Devices(items=await run_in_threadpool(devices.list, subject_id))


@router.delete(
    "/devices/{device_id}",
    operation_id="delete_device",
    summary="Remove a person's device",
    status_code=204,
    responses={204: {"description": "Removed."}, **_MISSING, **problem_responses("not_found")},
)
async def delete_device(
    *,
    request: Request,
    subject_id: SubjectId,
    device_id: Annotated[str, Path(max_length=128, description="As it was registered.")],
    services: ServicesDep,
) -> Response:
    """Remove a device, for example a lost one. Its signatures count no longer.

    A login from it is then one from an unknown device.
    """
    faces, devices = services.faces, services.faces.repositories.devices
    caller = await caller_of(faces, request, composed(device_id))
    await faces.lockout.forget_device(subject_id, caller)
    await run_in_threadpool(devices.remove, subject_id, device_id, actor=actor_of(request))
    return Response(status_code=204)


@router.get(
    "/export",
    operation_id="export_subject",
    summary="Export everything held on a person",
    response_model=SubjectExport,
    responses={
        200: {"description": "The record, devices, templates, frames, jobs, audit and models."},
        **_MISSING,
        **problem_responses("queue_full", "deadline_exceeded", "draining"),
    },
)
async def export_subject(
    *, request: Request, subject_id: SubjectId, services: ServicesDep, reading: ReadingDep
) -> Response:
    """Everything that is held on a person, decrypted, for the person who asks for it.

    It contains the person's embeddings and images: send it to nobody else. The audit log keeps that
    it was made.
    """
    embedder = await embedder_in_force(services)
    response = await reading.respond(
        lambda _reserve: export(services, subject_id, embedder).model_dump_json(), is_long=True
    )
    response.headers["Cache-Control"] = "no-store"
    await audit.record(request, services, "subject_exported", subject_id)
    return response
