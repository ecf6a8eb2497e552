"""From the form of a login to its answer."""

from functools import partial

from fastapi import Request

from contracts.errors import ValidationFailed
from contracts.recognition import Login
from contracts.settings import Settings
from service.connection import while_connected
from service.deadlines import Deadline
from service.faces.evidence import evidence_of
from service.faces.form import TEXT, Allowed, Form, read_form
from service.faces.login import Claim, log_in
from service.faces.roster import require_subject
from service.services import Services


async def enter(request: Request, deadline: Deadline, services: Services) -> Login:
    """Judge the login that a request describes.

    Raises:
        OpsinError: As the route tells.
        ClientDisconnect: The client hung up.
    """
    async with deadline.enforced():
        # Nobody uploads a video to log in as somebody who is not there.
        heard = {"subject_id": partial(require_subject, services)}
        form = await read_form(request, _fields(services.settings), heard)
        claim = _claim(request, form)
        gather = partial(evidence_of, services, form, claim, deadline)
        return await while_connected(request, log_in(services, claim, gather))


def _fields(settings: Settings) -> dict[str, Allowed]:
    return {
        "subject_id": TEXT,
        "image": Allowed(settings.max_image_bytes),
        "video": Allowed(settings.max_video_bytes),
        "challenge_id": TEXT,
        "nonce": TEXT,
        "device_id": TEXT,
    }


def _claim(request: Request, form: Form) -> Claim:
    images, videos = form.files("image"), form.files("video")
    if bool(images) == bool(videos):
        raise ValidationFailed("Send an 'image' or a 'video', and not both.")
    subject_id = form.text("subject_id")
    if subject_id is None:
        raise ValidationFailed("Send subject_id: as whom to log in.")
    address = request.client.host if request.client else ""
    return Claim(
        subject_id=subject_id,
        device=form.text("device_id") or address,
        content=(images or videos)[0],
        request_id=request.state.request_id,
    )
