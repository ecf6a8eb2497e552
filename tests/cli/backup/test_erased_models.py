"""After a restore no version and no job is of a person who was erased since the backup."""

from pathlib import Path

import pytest

from cli.backup.deletions import repeat_erasures
from cli.commands.backup import restore_backup, write_backup
from contracts.errors import JobNotFound, Unavailable, VersionNotFound
from contracts.inference.manifest import CHAMPION, Provenance
from contracts.keys import Scope
from contracts.settings import Settings
from database.engine import open_engine
from database.jobs.files import JobFiles
from database.jobs.jobs import Jobs
from database.jobs.leases import Leases
from models.faces import provenance
from models.store.aliases import ALIASES
from models.store.manifest import MANIFEST
from models.store.store import Store
from service.faces.privacy.versions import delete_versions
from tests.cli.backup.furnished import now
from tests.cli.backup.test_deletions import elsewhere, meanwhile
from tests.cli.backup.test_restrictions import enroll, execute, opened
from tests.models.drafts import DRAFT, write_files

SCOPES: tuple[Scope, ...] = ("train", "faces")


def learn(settings: Settings, *subjects: str) -> str:
    """Publish and promote a version that was trained on subjects; returns the training's job."""
    engine, files, store = (
        open_engine(settings.database),
        JobFiles.of(settings),
        Store(settings.store_home),
    )
    jobs, leases = Jobs(engine, now, files), Leases(engine, now)
    request = {"model": "door", "subjects": list(subjects)}
    job_id = jobs.create("training", request, limit=9, scopes=SCOPES).job.id
    lease = leases.claim(job_id, "worker", 60)
    assert lease is not None
    with store.staging() as folder:
        write_files(folder)
        draft = DRAFT.model_copy(update={"provenance": Provenance(spec=request, job_id=job_id)})
        version = store.publish("door", folder, draft)
    store.promote("door", version)
    files.store_artifact(job_id, "confusion_matrix.png", b"names")
    leases.artifact(lease, "confusion_matrix.png", "image/png", 5)
    leases.succeed(lease, {"version": version, "labels": list(subjects)})
    (settings.event_logs_home / job_id).mkdir(parents=True)
    (settings.event_logs_home / job_id / "events").write_bytes(b"names")
    engine.dispose()
    return job_id


def wait_to_learn(settings: Settings, subject: str, *, running: bool) -> str:
    """The id of a training on a subject that has not ended."""
    engine, files = open_engine(settings.database), JobFiles.of(settings)
    request = {"model": "later", "subjects": [subject]}
    job_id = Jobs(engine, now, files).create("training", request, limit=9, scopes=SCOPES).job.id
    files.store_inputs(job_id, {"frame": b"a face"})
    if running:
        assert Leases(engine, now).claim(job_id, "worker", 600) is not None
    engine.dispose()
    return job_id


def erase(settings: Settings, subject: str) -> None:
    engine = open_engine(settings.database)
    store, jobs = Store(settings.store_home), Jobs(engine, now, JobFiles.of(settings))
    delete_versions(store, jobs, subject)
    with opened(settings) as faces:
        faces.subjects.erase(subject)
    engine.dispose()


def left(settings: Settings, *job_ids: str) -> list[str]:
    """Those of the jobs of which a row or a file is left."""
    engine, files = open_engine(settings.database), JobFiles.of(settings)
    found = []
    for job_id in job_ids:
        folders = [files.work(job_id).parent, settings.event_logs_home / job_id]
        try:
            Jobs(engine, now).get(job_id)
        except JobNotFound:
            if not any(folder.exists() for folder in folders):
                continue
        found.append(job_id)
    engine.dispose()
    return found


@pytest.mark.parametrize("row", ["in the backup", "not in the backup"])
def test_what_a_model_has_learned_of_an_erased_person_does_not_come_back(
    settings: Settings, out: Path, row: str, capfd: pytest.CaptureFixture[str]
) -> None:
    ada, bob = enroll(settings), enroll(settings)
    kept = learn(settings, bob)
    gone = [
        learn(settings, ada, bob),
        wait_to_learn(settings, ada, running=True),
        wait_to_learn(settings, ada, running=False),
    ]
    if row == "not in the backup":
        for table in ("face_devices", "subjects"):
            column = "id" if table == "subjects" else "subject_id"
            execute(settings, f"DELETE FROM {table} WHERE {column} = '{ada}'")
        with (settings.home / "erased-subjects").open("a") as file:
            file.write(f"\n{ada}\n")
    write_backup(settings, out, secrets=True)
    if row == "in the backup":
        erase(settings, ada)
    restore_backup(settings, out, force=True)
    store = Store(settings.store_home)
    assert store.versions("door") == [1]
    assert store.aliases("door") == {CHAMPION: 1}, "that of somebody who is still there"
    assert provenance.subjects_of(store) == {bob}
    assert left(settings, kept, *gone) == [kept]
    assert "deleted again: door/2" in " ".join(capfd.readouterr().err.split())


def test_the_versions_of_a_person_who_is_erased_while_a_backup_is_taken_do_not_come_back(
    settings: Settings, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another home learns of the erasure by the backup only."""
    ada = enroll(settings)
    job = learn(settings, ada)

    def record_erasure() -> None:
        with opened(settings) as faces:
            faces.subjects.erase(ada)

    with monkeypatch.context() as busy:
        meanwhile(busy, record_erasure)
        write_backup(settings, out, secrets=True)
    other = elsewhere(settings)
    restore_backup(other, out, force=True)
    assert Store(other.store_home).versions("door") == []
    assert left(other, job) == []


@pytest.mark.parametrize("damage", ["aliases", "manifest"])
def test_a_version_that_cannot_be_deleted_does_not_keep_a_restore_from_ending(
    settings: Settings, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The restore says so, and the store refuses the version."""
    ada = enroll(settings)
    job = learn(settings, ada)
    (settings.home / "erased-subjects").write_text(f"{ada}\n")
    folder = settings.store_home / "door" / "1"
    if damage == "aliases":
        (folder.parent / ALIASES).write_text("{")
    else:
        (folder / MANIFEST).rename(folder / "aside")
        (folder / MANIFEST).symlink_to(MANIFEST)  # too many levels of symbolic links
    repeat_erasures(settings, ())
    said = " ".join(capfd.readouterr().err.split())
    assert ("unused" if damage == "aliases" else "not used") in said
    assert left(settings, job) == []
    with pytest.raises((VersionNotFound, Unavailable)):
        Store(settings.store_home).path("door", 1)
