"""The bound on every body, before it is known what is in it."""

from contracts.settings import Settings
from models.catalog import CATALOG
from service.protocols.oip import most_bytes
from service.protocols.signature import signature_of
from service.uploads import FORM_OVERHEAD, form_limit


def body_limit(settings: Settings) -> int:
    """The bytes that the largest permitted request has: a form of files, or a tensor as JSON."""
    signatures = [signature_of(network, settings.max_images) for network in CATALOG.values()]
    return max(form_limit(settings), *map(most_bytes, signatures))


def larger_bodies(settings: Settings) -> dict[str, int]:
    """The addresses that take more than that, and how much: whole archives, kept on the disk."""
    return {"/v1/datasets": settings.max_dataset_upload_bytes + FORM_OVERHEAD}
