"""The threshold that somebody put in force, and where it came from."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import Engine

from contracts.faces.subjects import DEFAULT_THRESHOLD, Threshold
from database.engine import reading, writing
from database.tables import FaceSettingRecord

_KEY = "threshold"


class FaceThreshold:
    """One row. Unavailable without a database.

    Args:
        engine: The database.
        clock: What time it is.
    """

    def __init__(self, engine: Engine, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._clock = clock

    def get(self) -> Threshold:
        """What is in force: what was put there, or else the default one."""
        with reading(self._engine) as session:
            row = session.get(FaceSettingRecord, _KEY)
        return DEFAULT_THRESHOLD if row is None else Threshold.model_validate(row.value)

    def put(self, threshold: Threshold) -> Threshold:
        """Put it in force, from now on and in every process."""
        now = self._clock()
        told = threshold.model_copy(update={"updated_at": now})
        with writing(self._engine) as session:
            row = session.get(FaceSettingRecord, _KEY)
            if row is None:
                row = FaceSettingRecord(key=_KEY)
                session.add(row)
            row.value, row.updated_at = told.model_dump(mode="json"), now
        return told
