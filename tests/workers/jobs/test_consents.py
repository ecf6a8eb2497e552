"""A consent may be withdrawn while a job waits, for the memory or for the jobs before it."""

from typing import Any

import pytest

from contracts.faces.consent import NewConsent, NewPolicy
from contracts.faces.subjects import NewSubject, SubjectChange
from contracts.jobs import JobKind
from database.faces.repositories import FaceRepositories
from models.store.store import Store
from tests.models.drafts import DRAFT, write_files
from tests.workers.jobs.installation import Installation

CONSENT = NewConsent(version="2026-01", text_digest="sha256:ab")
VERSIONS: list[tuple[JobKind, dict[str, Any]]] = [
    ("filters", {"version": 1}),
    ("heatmap", {"version": 1}),
    ("activations", {"version": 1}),
    ("quantize", {"version": 1}),
    ("evaluation", {"version": 1}),
    ("evaluation", {"version": 2, "against": 1}),
    ("dream", {"version": "1"}),
]


@pytest.fixture
def faces(installation: Installation) -> FaceRepositories:
    """Version 1 of `door` was trained on Ada, version 2 on nobody."""
    faces = FaceRepositories.of(installation.settings, installation.engine, installation.now)
    faces.subjects.create(NewSubject(name="Ada", external_id="ada", consent=CONSENT))
    faces.policy.set(NewPolicy(consent_required=True))
    store = Store(installation.settings.store_home)
    for spec in ({"subjects": [_ada(faces)]}, None):
        provenance = DRAFT.provenance.model_copy(update={"spec": spec})
        with store.staging() as folder:
            write_files(folder)
            store.publish("door", folder, DRAFT.model_copy(update={"provenance": provenance}))
    return faces


def _ada(faces: FaceRepositories) -> str:
    return faces.subjects.list(external_id="ada").items[0].id


def test_a_consent_that_was_withdrawn_while_jobs_waited_counts(
    installation: Installation, faces: FaceRepositories
) -> None:
    jobs = [installation.submit(kind, model="door", **sent) for kind, sent in VERSIONS]
    steps: dict[str, Any] = {"model": "door", "steps": 1, "pause": 0}
    others = [
        installation.submit("activations", version=2, **steps),
        installation.submit("activations", version=9, **steps),  # whose handler says so
        installation.submit("training", **steps),
    ]
    faces.subjects.change(_ada(faces), SubjectChange(consent=None))
    installation.worker()
    for job_id in jobs:
        job = installation.finish(job_id)
        assert job.error is not None, job
        assert (job.error.code, "consent" in job.error.detail) == ("conflict", True), job
        assert job.artifacts == []
    for job_id in others:
        assert installation.finish(job_id).state == "succeeded"
    faces.subjects.change(_ada(faces), SubjectChange(consent=CONSENT))
    again = installation.submit("activations", version=1, **steps)
    assert installation.finish(again).state == "succeeded"
