"""Pages of jobs with their results, which the service sends as they are stored."""

from typing import Any

from contracts.jobs import Job
from contracts.pages import Page
from database.jobs.jobs import Jobs


def listed(jobs: Jobs, **asked: Any) -> Page[Job]:
    """As `Jobs.page`."""
    page = jobs.page(**asked)
    return Page(items=[one.whole() for one in page.items], next_cursor=page.next_cursor)
