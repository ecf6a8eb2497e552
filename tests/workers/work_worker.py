"""A real job worker with the tests' kinds: ``python tests/workers/work_worker.py``."""

from contracts.settings import Settings
from workers.jobs.main import run

if __name__ == "__main__":
    run(Settings(), kinds="tests.workers.work_kinds:KINDS")
