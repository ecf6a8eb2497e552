"""Devices whose keys sign logins, and the copy of everything that is held on a person."""

import base64
import re
from datetime import datetime
from functools import partial
from typing import Annotated, Any
from urllib.parse import unquote

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from contracts.bodies import Body
from contracts.faces.faces import Quality
from contracts.faces.subjects import ErasedModel, FaceEvent, Subject
from contracts.jobs import Job
from contracts.names import opaque_id

MAX_DEVICES = 16
"""Devices per subject."""
MAX_DEVICE_ID_LENGTH = 128
DeviceId = Annotated[
    str,
    Field(min_length=1, max_length=MAX_DEVICE_ID_LENGTH),
    AfterValidator(partial(opaque_id, most=MAX_DEVICE_ID_LENGTH)),
]
"""A client's name of a device."""


def decode_base64(text: str) -> bytes:
    """Decode base64 or base64url, with or without padding.

    Raises:
        ValueError: It is neither.
    """
    text = re.sub(r"\s", "", text).rstrip("=").replace("-", "+").replace("_", "/")
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def canonical_key(jwk: dict[str, str]) -> dict[str, str]:
    """A JWK with its numbers in base64url without padding; what is no number stays as it is.

    Earlier releases stored the spelling that was sent, so compare keys by this.
    """
    return {name: _canonical(text) if name in {"x", "y"} else text for name, text in jwk.items()}


def _canonical(number: str) -> str:
    try:
        return base64.urlsafe_b64encode(decode_base64(number)).decode().rstrip("=")
    except ValueError:
        return number


class NewDevice(Body):
    """Request to register a device."""

    model_config = ConfigDict(frozen=True)

    device_id: DeviceId = Field(
        pattern=r"^[^/\x00-\x1f]+$",
        description="The device_id that its challenges and logins carry, in visible characters.",
        examples=["iphone-5f0c"],
    )
    public_key: dict[str, Any] = Field(
        description="JWK of the device's public key for ES256: kty EC, crv P-256, x, y.",
        examples=[
            {
                "kty": "EC",
                "crv": "P-256",
                "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
                "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
            }
        ],
    )

    @field_validator("device_id")
    @classmethod
    def _is_no_dot_segment(cls, value: str) -> str:
        """HTTP clients resolve `…/devices/..`, so that removing it would erase the person."""
        if unquote(value).strip() in {".", ".."}:
            raise ValueError("a device's id is part of a path, so it cannot be '.' or '..'")
        return value


class Device(BaseModel):
    """A registered device."""

    device_id: str
    public_key: dict[str, str]
    created_at: datetime
    last_used_at: datetime | None = None


class Devices(BaseModel):
    """The devices of a subject, oldest first."""

    items: list[Device]


class ExportedTemplate(BaseModel):
    """One embedding."""

    id: str
    embedder: str
    source: str
    quality: Quality
    vector: str = Field(description="Little-endian float32 numbers, base64.")
    frame_id: str | None
    created_at: datetime


class ExportedFrame(BaseModel):
    """One stored image."""

    id: str
    media_type: str
    content: str = Field(description="The file, base64.")
    created_at: datetime


class SubjectExport(BaseModel):
    """Everything that is held on a person."""

    exported_at: datetime
    subject: Subject
    devices: list[Device]
    templates: list[ExportedTemplate]
    frames: list[ExportedFrame]
    unreadable: list[str] = Field(
        description="Ids of stored images and embeddings that are damaged or missing, so that "
        "they are not in `frames` and `templates`."
    )
    jobs: list[Job] = Field(description="The enrollments that are still recorded.")
    events: list[FaceEvent] = Field(description="The audit, newest first.")
    models: list[ErasedModel] = Field(
        description="Model versions that were trained on the stored images."
    )
