"""What became of the enrollment that answered a challenge."""

from sqlalchemy import Engine, select

from contracts.errors import CODES
from database.engine import reading
from database.jobs.queries import enrollments_of
from database.tables import JobRecord

_SERVER_ERROR = 500


def failed_by_service(engine: Engine, subject_id: str, challenge_id: str) -> bool:
    """Whether the newest job for it failed through the service's fault, such as a lost worker.

    Raises:
        Unavailable: The database does not answer.
    """
    query = (
        select(JobRecord.state, JobRecord.error_code)
        .where(
            enrollments_of([subject_id]),
            JobRecord.request["challenge", "id"].as_string() == challenge_id,
        )
        .order_by(JobRecord.created_at.desc(), JobRecord.id.desc())
        .limit(1)
    )
    with reading(engine) as session:
        newest = session.execute(query).first()
    if newest is None or newest.state != "failed":
        return False
    meaning = CODES.get(newest.error_code or "")
    return meaning is not None and meaning.status >= _SERVER_ERROR
