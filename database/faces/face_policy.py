"""The policy that the operator set, and the minimum that the settings require."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import Engine

from contracts.faces.consent import NewPolicy, Policy
from contracts.settings import Settings
from database.engine import reading, writing
from database.setting_rows import setting_row
from database.tables import FaceSettingRecord

KEY = "policy"


class FacePolicy:
    """A setting in one row. Its methods raise `Unavailable` if the database does not answer."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime], settings: Settings) -> None:
        self._engine = engine
        self._clock = clock
        self._settings = settings

    def get(self) -> Policy:
        """Return the policy in force."""
        with reading(self._engine) as session:
            row = session.get(FaceSettingRecord, KEY)
        return self._in_force(Policy() if row is None else Policy.model_validate(row.value))

    def set(self, new: NewPolicy) -> Policy:
        """Set the policy, for every process at once; returns what is in force then."""
        now = self._clock()
        policy = Policy(**new.model_dump(), updated_at=now)
        with writing(self._engine) as session:
            row, _ = setting_row(session, KEY)
            row.value, row.updated_at = policy.model_dump(mode="json"), now
        return self._in_force(policy)

    def _in_force(self, policy: Policy) -> Policy:
        settings = self._settings
        days = [days for days in (policy.retention_days, settings.face_retention_days) if days]
        return policy.model_copy(
            update={
                "consent_required": policy.consent_required or settings.face_consent_required,
                "retention_days": min(days, default=None),
            }
        )
