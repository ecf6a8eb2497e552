"""The match threshold that the operator set, and where it came from."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import Engine

from contracts.faces.subjects import DEFAULT_THRESHOLD, Threshold
from database.engine import reading, writing
from database.setting_rows import setting_row
from database.tables import FaceSettingRecord

KEY = "threshold"


class FaceThreshold:
    """A setting in one row. Its methods raise `Unavailable` if the database does not answer."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._clock = clock

    def get(self) -> Threshold:
        """Return the threshold that was set, or the default one."""
        with reading(self._engine) as session:
            row = session.get(FaceSettingRecord, KEY)
        return DEFAULT_THRESHOLD if row is None else Threshold.model_validate(row.value)

    def set(self, threshold: Threshold) -> Threshold:
        """Set the threshold, for every process at once; returns it with the current time."""
        now = self._clock()
        stored = threshold.model_copy(update={"updated_at": now})
        with writing(self._engine) as session:
            row, _ = setting_row(session, KEY)
            row.value, row.updated_at = stored.model_dump(mode="json"), now
        return stored
