"""The evidence of a login, whichever of the two ways it was sent."""

from contracts.errors import ValidationFailed
from service.deadlines import Deadline
from service.faces.form import Form
from service.faces.login import Claim, Evidence, image_evidence
from service.services import Services


async def evidence_of(services: Services, form: Form, claim: Claim, deadline: Deadline) -> Evidence:
    """What a form shows of a person.

    Raises:
        OpsinError: It cannot be read or judged; that is no failure of the person.
    """
    del claim  # a clip's challenge is bound to it
    if form.files("video"):
        raise ValidationFailed("Send an 'image'; videos are not taken here yet.")
    return await image_evidence(services, form.files("image")[0], deadline)
