"""A job worker with the handlers of `job_handlers`: ``python tests/workers/jobs/job_worker.py``."""

from contracts.settings import Settings
from workers.jobs.main import run

if __name__ == "__main__":
    run(Settings(), kinds="tests.workers.jobs.job_handlers:KINDS")
