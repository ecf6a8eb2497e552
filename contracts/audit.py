"""One line of the audit log: who did what, to what, and when."""

from datetime import datetime
from typing import Literal, get_args

from pydantic import BaseModel, Field

Action = Literal[
    "key_created",
    "key_rotated",
    "key_revoked",
    "alias_set",
    "alias_deleted",
    "promotion_asked",
    "version_deleted",
    "dataset_deleted",
    "subject_erased",
    "subject_exported",
    "device_registered",
    "device_removed",
    "face_policy_set",
    "face_threshold_set",
    "consent_recorded",
    "consent_withdrawn",
    "face_disabled",
    "face_enabled",
    "frames_allowed",
    "frames_forbidden",
    "face_keys_rotated",
    "face_keys_replaced",
    "token_key_rotated",
]


class AuditEntry(BaseModel):
    """A recorded change."""

    id: int
    at: datetime
    actor: str = Field(
        description="A key's id; `bootstrap` for OPSIN_API_KEY, `open` where no key is needed, "
        "`command` for `opsin …` on the machine, `retention` for what was erased by its age."
    )
    action: str = Field(description="One of: " + ", ".join(get_args(Action)))
    subject: str = Field(description="What was changed, e.g. `squeezenet/3 champion`.")
    request_id: str | None = Field(description="The request's id in the log.")
