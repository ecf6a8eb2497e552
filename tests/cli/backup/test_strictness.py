"""A restored backup loosens neither policy nor threshold nor keep_frames."""

from pathlib import Path

import numpy as np
import pytest

from cli.backup import placing
from cli.backup.restrictions import complete_restore
from cli.commands.backup import restore_backup, write_backup
from cli.output import CommandError, notes
from contracts.faces.consent import NewPolicy
from contracts.faces.faces import Quality
from contracts.faces.subjects import (
    DEFAULT_THRESHOLD,
    EMBEDDING_SIZE,
    NewSubject,
    NewTemplate,
    StoredFrame,
    SubjectChange,
    Threshold,
)
from contracts.settings import Settings
from database.audit import Audit
from database.engine import open_engine
from database.faces.face_files import FaceFiles
from database.restrictions import Restrictions
from database.taken_back import TakenBack
from tests.cli.backup.conftest import with_both
from tests.cli.backup.furnished import now
from tests.cli.backup.test_restrictions import execute, opened

NET, OTHER = "facenet@1", "facenet@2"
GOOD = Quality(
    sharpness=9, brightness=9, yaw=0, pitch=0, roll=0, size=9, acceptable=True, reasons=()
)


def person(settings: Settings) -> str:
    with opened(settings) as faces:
        ada: str = faces.subjects.create(NewSubject(name="Ada", keep_frames=True))["id"]
        vector = np.eye(1, EMBEDDING_SIZE, dtype=np.float32)[0]
        frames = [StoredFrame("image/png", content) for content in (b"one", b"two")]
        made = [NewTemplate(vector, GOOD, "image", frame) for frame in frames]
        faces.templates.add(ada, made, embedder=NET)
    return ada


def forget_frames(settings: Settings, subject: str) -> None:
    with opened(settings) as faces:
        faces.subjects.change(subject, SubjectChange(keep_frames=False))


def kept(settings: Settings, subject: str) -> tuple[bool, int, int]:
    """keep_frames, and the rows and files of the frames; no template is lost."""
    with opened(settings) as faces:
        found = faces.subjects.get(subject)
    assert found.templates.current == 2
    return found.keep_frames, found.files, len(list((settings.faces_home / subject).glob("*")))


def set_policy(settings: Settings, policy: NewPolicy) -> None:
    with opened(settings) as faces:
        faces.policy.set(policy)


def policy_of(settings: Settings) -> NewPolicy:
    with opened(settings) as faces:
        return NewPolicy(**faces.policy.get().model_dump(exclude={"updated_at"}))


STRICT = NewPolicy(
    consent_required=True,
    device_key_required=True,
    liveness_required=True,
    max_failures=10,
    retention_days=30,
    retention_text="For a month.",
)
LAX = NewPolicy(max_failures=90, retention_days=900, retention_text="For years.")


@pytest.mark.parametrize("before", [None, LAX, NewPolicy()])
def test_a_policy_that_became_stricter_since_a_backup_stays_so(
    settings: Settings, out: Path, before: NewPolicy | None, capfd: pytest.CaptureFixture[str]
) -> None:
    if before is not None:
        set_policy(settings, before)
    write_backup(settings, out, secrets=True)
    set_policy(settings, STRICT)
    restore_backup(settings, out, force=True)
    assert policy_of(settings) == STRICT
    said = " ".join(capfd.readouterr().err.split())
    assert (
        "stays: consent_required true, device_key_required true, liveness_required true, " in said
    )
    assert "max_failures 10, retention_days 30, retention_text." in said
    engine = open_engine(settings.database)
    assert "face_policy_set" in {line.action for line in Audit(engine, now).list().items}
    engine.dispose()


def test_each_field_has_the_stricter_value_of_both(settings: Settings, out: Path) -> None:
    set_policy(settings, NewPolicy(liveness_required=True, max_failures=20, retention_days=30))
    write_backup(settings, out, secrets=True)
    set_policy(settings, NewPolicy(device_key_required=True, max_failures=30, retention_text="?"))
    restore_backup(settings, out, force=True)
    both = {"liveness_required": True, "device_key_required": True}
    assert policy_of(settings) == NewPolicy(**both, max_failures=20, retention_days=30)


def test_a_backup_that_is_as_strict_is_restored_as_it_is(
    settings: Settings, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ada = person(settings)
    set_policy(settings, STRICT)
    write_backup(settings, out, secrets=True)
    set_policy(settings, LAX)
    restore_backup(settings, out, force=True)
    assert policy_of(settings) == STRICT
    assert kept(settings, ada) == (True, 2, 2)
    said = capfd.readouterr().err
    assert "stays" not in said
    assert "frames" not in said


THRESHOLDS = [
    (None, (0.96, 0.0, NET), (0.96, 0.0, NET)),
    (None, (0.9, 0.05, NET), (0.9, 0.05, NET)),
    ((0.95, 0.02, NET), (0.96, 0.03, NET), (0.96, 0.03, NET)),
    ((0.96, 0.02, NET), (0.95, 0.03, NET), (0.96, 0.03, NET)),
    ((0.96, 0.03, NET), (0.95, 0.02, NET), (0.96, 0.03, NET)),
    ((0.9, 0.02, None), (0.95, 0.02, NET), (0.95, 0.02, NET)),
    ((0.9, 0.02, OTHER), (0.95, 0.03, NET), (0.9, 0.02, OTHER)),
]


@pytest.mark.parametrize(
    ("settings", "before", "since", "expected"),
    with_both(THRESHOLDS, on_postgresql=[THRESHOLDS[0], THRESHOLDS[3], THRESHOLDS[6]]),
    indirect=["settings"],
)
def test_the_stricter_threshold_stays_if_both_are_of_one_embedder(
    settings: Settings,
    out: Path,
    before: tuple[float, float, str | None] | None,
    since: tuple[float, float, str | None],
    expected: tuple[float, float, str | None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    fields = ("similarity", "margin", "embedder")
    with opened(settings) as faces:
        if before is not None:
            faces.threshold.set(Threshold(**dict(zip(fields, before, strict=True))))
    write_backup(settings, out, secrets=True)
    with opened(settings) as faces:
        faces.threshold.set(Threshold(**dict(zip(fields, since, strict=True))))
    restore_backup(settings, out, force=True)
    with opened(settings) as faces:
        found = faces.threshold.get()
    assert (found.similarity, found.margin, found.embedder) == expected
    said = capfd.readouterr().err
    is_other = before is not None and before[2] == OTHER
    assert ("cannot be compared" in " ".join(said.split())) == is_other
    assert ("similarity 0.9" in said) == (not is_other and expected[0] == since[0])


def test_frames_that_may_no_longer_be_stored_do_not_come_back(
    settings: Settings, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ada, bea = person(settings), person(settings)
    write_backup(settings, out, secrets=True)
    forget_frames(settings, ada)
    restore_backup(settings, out, force=True)
    assert kept(settings, ada) == (False, 0, 0)
    assert kept(settings, bea) == (True, 2, 2)
    assert "keep_frames false are deleted again: 2." in " ".join(capfd.readouterr().err.split())


def test_files_of_frames_that_the_backup_says_are_not_stored_are_deleted(
    settings: Settings, out: Path
) -> None:
    """The process was killed as it deleted them, and the home had no more to say."""
    ada = person(settings)
    execute(settings, "UPDATE subjects SET keep_frames = false")
    write_backup(settings, out, secrets=True)
    restore_backup(settings, out, force=True)
    assert kept(settings, ada) == (False, 0, 0)


def test_a_restore_that_could_not_delete_the_frames_is_not_complete(
    settings: Settings, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = person(settings)
    write_backup(settings, out, secrets=True)
    forget_frames(settings, ada)

    def fail(*_: object) -> None:
        raise PermissionError

    with monkeypatch.context() as undeletable:
        undeletable.setattr(FaceFiles, "remove_all", fail)
        with pytest.raises(CommandError):
            restore_backup(settings, out, force=True)
    assert placing.is_incomplete(settings.home)
    complete_restore(settings, notes())
    assert kept(settings, ada) == (False, 0, 0)


@pytest.mark.parametrize("between", ["", "the database is deleted"])
def test_what_became_stricter_stays_so_after_the_wrong_backup_was_restored_first(
    settings: Settings, tmp_path: Path, between: str
) -> None:
    wrong, right = tmp_path / "1.tar", tmp_path / "2.tar"
    write_backup(settings, wrong, secrets=True)
    ada = person(settings)
    set_policy(settings, LAX)
    write_backup(settings, right, secrets=True)
    forget_frames(settings, ada)
    set_policy(settings, STRICT)
    with opened(settings) as faces:
        faces.threshold.set(Threshold(similarity=0.97, embedder=NET))
    restore_backup(settings, wrong, force=True)
    if between and settings.database_url is None:
        (settings.home / "opsin.db").unlink()
    restore_backup(settings, right, force=True)
    assert kept(settings, ada) == (False, 0, 0)
    assert policy_of(settings) == STRICT
    with opened(settings) as faces:
        assert faces.threshold.get().similarity == 0.97


def test_what_was_loosened_after_the_wrong_restore_is_not_tightened_by_the_file(
    settings: Settings, tmp_path: Path
) -> None:
    """A backup of that time is newer than what the file of earlier restores says."""
    wrong, later = tmp_path / "1.tar", tmp_path / "2.tar"
    write_backup(settings, wrong, secrets=True)
    set_policy(settings, STRICT)
    restore_backup(settings, wrong, force=True)
    set_policy(settings, LAX)
    write_backup(settings, later, secrets=True)
    if settings.database_url is None:  # then only the file knows anything
        (settings.home / "opsin.db").unlink()
    restore_backup(settings, later, force=True)
    assert policy_of(settings) == LAX


def test_a_wrong_backup_of_another_embedder_does_not_loosen_the_threshold(
    settings: Settings, tmp_path: Path
) -> None:
    wrong, right = tmp_path / "1.tar", tmp_path / "2.tar"
    set_threshold(settings, 0.9, NET)
    write_backup(settings, wrong, secrets=True)
    set_threshold(settings, 0.93, OTHER)
    write_backup(settings, right, secrets=True)
    set_threshold(settings, 0.97, OTHER)
    restore_backup(settings, wrong, force=True)
    for _ in range(2):
        restore_backup(settings, right, force=True)
        with opened(settings) as faces:
            found = faces.threshold.get()
        assert (found.similarity, found.embedder) == (0.97, OTHER)


def test_no_default_of_a_wrong_backup_is_taken_for_a_decision(
    settings: Settings, tmp_path: Path
) -> None:
    """Here the defaults are stricter than what was set, but nobody has decided them."""
    wrong, right = tmp_path / "1.tar", tmp_path / "2.tar"
    write_backup(settings, wrong, secrets=True)
    decided = Threshold(similarity=0.9, margin=0.05, embedder=NET)
    with opened(settings) as faces:
        faces.threshold.set(decided)
    set_policy(settings, NewPolicy(liveness_required=True, max_failures=30))
    write_backup(settings, right, secrets=True)
    for backup in (wrong, right):
        restore_backup(settings, backup, force=True)
        with opened(settings) as faces:
            found = faces.threshold.get()
        assert found.model_copy(update={"updated_at": None}) == decided
        assert policy_of(settings) == NewPolicy(liveness_required=True, max_failures=30)
        engine = open_engine(settings.database)
        lines = Audit(engine, now).list(action="face_threshold_set").items
        engine.dispose()
        restored = ["0.9, margin 0.05 (manual)"] if backup == wrong else []
        assert [line.subject for line in lines] == restored


def test_a_default_that_an_earlier_release_has_stored_is_none(
    settings: Settings, out: Path
) -> None:
    with opened(settings) as faces:
        faces.threshold.set(Threshold(similarity=0.9, embedder=NET))
    write_backup(settings, out, secrets=True)
    with opened(settings) as faces:
        faces.threshold.set(DEFAULT_THRESHOLD)
    restore_backup(settings, out, force=True)
    with opened(settings) as faces:
        assert faces.threshold.get().similarity == 0.9
    newer = DEFAULT_THRESHOLD.model_copy(update={"updated_at": now()})
    noted = (Threshold(similarity=0.9, embedder=NET), newer)
    engine = open_engine(settings.database)
    assert TakenBack(thresholds=noted).applying_to(engine, []).threshold is None
    engine.dispose()


def set_threshold(settings: Settings, similarity: float, embedder: str) -> None:
    with opened(settings) as faces:
        faces.threshold.set(Threshold(similarity=similarity, embedder=embedder))


def test_the_last_threshold_of_each_of_the_newest_embedders_is_kept() -> None:
    """Also that of a file of an earlier release, which has one."""
    kept = TakenBack.model_validate_json('{"threshold": {"similarity": 0.5}}')
    assert kept.thresholds == (Threshold(similarity=0.5),)
    for similarity in (0.6, 0.7):
        for number in range(20):
            one = Threshold(similarity=similarity, embedder=f"facenet@{number}")
            kept = kept.merged(Restrictions(threshold=one), now(), ())
    assert [one.embedder for one in kept.thresholds] == [f"facenet@{n}" for n in range(4, 20)]
    assert {one.similarity for one in kept.thresholds} == {0.7}
    assert TakenBack.model_validate_json(kept.model_dump_json(exclude_defaults=True)) == kept
