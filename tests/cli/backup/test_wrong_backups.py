"""Of several restores of several backups, what people decided last counts, and nothing else."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count, product
from pathlib import Path

import numpy as np
import pytest

from cli.commands.backup import restore_backup, write_backup
from contracts.errors import Conflict, NotFound
from contracts.faces.subjects import (
    EMBEDDING_SIZE,
    NewSubject,
    NewTemplate,
    StoredFrame,
    SubjectChange,
)
from contracts.settings import Settings
from database.audit import COMMAND, Audit
from database.engine import open_engine
from database.faces.repositories import FaceRepositories
from database.taken_back import TakenBack, read_taken_back, write_taken_back
from tests.cli.backup.conftest import with_both
from tests.cli.backup.furnished import now
from tests.cli.backup.test_deletions import elsewhere
from tests.cli.backup.test_restrictions import (
    CONSENT,
    add_key,
    execute,
    opened,
    revoke,
    state,
    working,
)
from tests.cli.backup.test_strictness import GOOD, NET, forget_frames, person

PARTS = ("consent", "frames", "face", "failures", "phone", "watch")
PEOPLE = 40
SINCE = ("nothing", "taken back", "given and taken back", "renamed")
ORDERS = [*((order, False) for order in ("2", "1", "21", "12", "212", "1212"))]
ORDERS += [(order, True) for order in ("21", "121", "212")]


@dataclass
class Decisions:
    """What was decided of something, in order, as this home may know it: when, and if allowed."""

    known: list[tuple[int, bool]] = field(default_factory=list)
    present: list[tuple[int, bool]] = field(default_factory=list)

    def add(self, at: int, is_allowed: bool) -> None:
        for of in (self.known, self.present):
            of.append((at, is_allowed))

    def restore(self, backup: list[tuple[int, bool]], began: int) -> None:
        """The rule: the last decision holds; nothing comes back that a backup does not have."""
        self.known = sorted({*self.known, *backup})
        is_allowed = backup[-1][1]
        if self.known[-1][0] > began:
            is_allowed = is_allowed and self.known[-1][1]
        if is_allowed != backup[-1][1]:
            backup = [*backup, (self.known[-1][0], is_allowed)]
        self.present = list(backup)


def decide(faces: FaceRepositories, one: str, part: str, is_allowed: bool) -> bool:
    """Returns whether it was a decision."""
    change: Callable[..., object] = lambda **fields: faces.subjects.change(  # noqa: E731
        one, SubjectChange(**fields)
    )
    try:
        if part == "consent":
            change(consent=CONSENT if is_allowed else None)
        elif part == "frames":
            change(keep_frames=is_allowed)
        elif part == "face":
            change(face_disabled=not is_allowed)
        elif part == "failures":
            before = faces.standings.get(one)
            if is_allowed:
                faces.standings.record_match(one)
            else:
                faces.standings.record_failure(one, 1)
            return before != faces.standings.get(one)
        elif is_allowed:
            before_ = len(faces.devices.list(one))
            faces.devices.add(one, part, {"kty": "EC", "x": part})
            return before_ != len(faces.devices.list(one))
        else:
            faces.devices.remove(one, part)
    except (NotFound, Conflict):
        return False
    return True


def states(settings: Settings, people: list[str]) -> dict[tuple[str, str], bool]:
    found = {}
    with opened(settings) as faces:
        present = {one.id for one in faces.subjects.list(limit=200).items}
        for one in present.intersection(people):
            standing, devices = faces.standings.get(one), faces.devices.list(one)
            found[one, "consent"] = standing.consent is not None
            found[one, "face"] = found[one, "failures"] = not standing.disabled
            found[one, "frames"] = faces.subjects.get(one).keep_frames
            for name in ("phone", "watch"):
                found[one, name] = name in {device.device_id for device in devices}
    return found


class History:
    """People, of whom much is decided at random before, between and after backups and restores."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self.settings, self.chance, self.moments = settings, random.Random(seed), count()
        self.of: dict[tuple[str, str], Decisions] = {}
        self.people: list[str] = []
        self.backups: dict[str, tuple[int, dict[tuple[str, str], list[tuple[int, bool]]]]] = {}

    def live(self, born: int) -> None:
        """Let people be added, decide and be renamed, and keys be made and revoked."""
        with opened(self.settings) as faces:
            for number in range(born):
                is_allowed = bool(number % 2)
                consent = CONSENT if is_allowed else None
                new = NewSubject(name="Ada", consent=consent, keep_frames=is_allowed)
                one = faces.subjects.create(new)["id"]
                self.people.append(one)
                # A face is disabled either by the operator or for its failures.
                skipped = {self.chance.choice(("face", "failures"))}
                # Of several devices, it is not known which was added and removed since a restore.
                skipped |= {"watch"} if number % 3 else set()
                for part in [part for part in PARTS if part not in skipped]:
                    default = part in {"face", "failures"} or (
                        is_allowed and part in {"consent", "frames"}
                    )
                    self.of[one, part] = Decisions()
                    self.of[one, part].add(next(self.moments), default)
            present = {one.id for one in faces.subjects.list(limit=200).items}
            for one, part in self.of:
                if one not in present:
                    continue
                is_one_of_two = part in {"phone", "watch"} and (one, "watch") in self.of
                for _ in range(self.chance.choice((0, 0, 0, 1, 1, 1 if is_one_of_two else 2))):
                    is_allowed = self.chance.random() < 0.5
                    if decide(faces, one, part, is_allowed):
                        self.of[one, part].add(next(self.moments), is_allowed)
                if self.chance.random() < 0.1:
                    faces.subjects.change(one, SubjectChange(name="Ada Lovelace"))

    def back_up(self, name: str) -> None:
        write_backup(self.settings, self.file(name), secrets=True)
        content = {one: list(of.present) for one, of in self.of.items()}
        self.backups[name] = (next(self.moments), content)

    def file(self, name: str) -> Path:
        return self.settings.home.parent / f"{name}.tar"

    def restore(self, name: str) -> None:
        began, content = self.backups[name]
        restore_backup(self.settings, self.file(name), force=True)
        for one, of in self.of.items():
            if one in content:
                of.restore(content[one], began)

    def wrong(self) -> list[str]:
        found = states(self.settings, self.people)
        return [
            f"{part} of {one} is {found[one, part]}: {of}"
            for (one, part), of in self.of.items()
            if (one, part) in found and found[one, part] != of.present[-1][1]
        ]


@pytest.mark.parametrize(
    ("settings", "order", "is_new_home"),
    with_both(ORDERS, on_postgresql=[("1212", False), ("121", True)]),
    indirect=["settings"],
)
def test_what_was_decided_last_counts_after_any_restores(
    settings: Settings, order: str, is_new_home: bool
) -> None:
    history = History(settings, seed=int(order))
    history.live(PEOPLE // 2)
    history.back_up("1")
    history.live(PEOPLE // 2)
    history.back_up("2")
    if is_new_home:
        history.settings = elsewhere(settings)
        for name in "12":
            history.file(name).rename(history.settings.home.parent / f"{name}.tar")
        for of in history.of.values():
            of.known.clear()
    else:
        history.live(born=0)
    for place, name in enumerate(order):
        history.restore(name)
        assert history.wrong() == [], f"after restore {place}"
        if place + 1 < len(order):
            history.live(0)


@pytest.mark.parametrize(
    ("settings", "order", "since"),
    with_both(
        list(product(("2", "212", "1212"), SINCE)),
        on_postgresql=[*zip(("2", "212", "1212", "1212"), SINCE, strict=True)],
    ),
    indirect=["settings"],
)
def test_what_was_given_between_two_backups_is_there_with_the_second(
    settings: Settings, order: str, since: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also stored frames, and a key; `since` is what happened after the last but one restore."""
    with opened(settings) as faces:
        ada = faces.subjects.create(NewSubject(name="Ada"))["id"]
    bob = person(settings)
    forget_frames(settings, bob)
    history = History(settings, seed=0)
    history.back_up("1")
    with opened(settings) as faces:
        allow(faces, ada, bob)
        faces.devices.add(ada, "watch", {"kty": "EC", "x": "watch"})
        add_frame(faces, bob)
    add_key(settings, "new")
    history.back_up("2")
    for name in order[:-1]:
        history.restore(name)
    with opened(settings) as faces:
        if since in {"given and taken back", "taken back"}:
            if order == "2" or since == "given and taken back":
                allow(faces, ada, bob)
            faces.subjects.change(ada, SubjectChange(consent=None))
            faces.subjects.change(bob, SubjectChange(keep_frames=False))
            if order == "2" or since == "given and taken back":
                faces.devices.remove(ada, "phone")
        elif since == "renamed":
            for one in (ada, bob):
                faces.subjects.change(one, SubjectChange(name="Ada Lovelace"))
    capfd.readouterr()
    history.restore(order[-1])
    said = capfd.readouterr().err
    assert working(settings) == ["new"]
    if since in {"nothing", "renamed"}:
        assert state(settings, ada) == (True, False, ["phone", "watch"])
        assert kept(settings, bob) == (True, 1, 1)
        assert "so again" not in said
        assert "deleted again" not in said
    else:
        has_consent, is_disabled, devices = state(settings, ada)
        assert (has_consent, is_disabled) == (False, False)
        assert ("phone" in devices) == (since == "taken back" and order != "2")
        assert kept(settings, bob) == (False, 0, 0)


def allow(faces: FaceRepositories, ada: str, bob: str) -> None:
    faces.subjects.change(ada, SubjectChange(consent=CONSENT))
    faces.devices.add(ada, "phone", {"kty": "EC", "x": "phone"})
    faces.subjects.change(bob, SubjectChange(keep_frames=True))


def kept(settings: Settings, bob: str) -> tuple[bool, int, int]:
    """keep_frames, and the rows and files of the frames."""
    with opened(settings) as faces:
        found = faces.subjects.get(bob)
    return found.keep_frames, found.files, len(list((settings.faces_home / bob).glob("*")))


def add_frame(faces: FaceRepositories, bob: str) -> None:
    vector = np.eye(1, EMBEDDING_SIZE, dtype=np.float32)[0]
    frame = StoredFrame("image/png", b"three")
    faces.templates.add(bob, [NewTemplate(vector, GOOD, "image", frame)], embedder=NET)


def test_a_key_that_was_revoked_since_does_not_come_back_and_others_work(
    settings: Settings,
) -> None:
    first = add_key(settings, "first")
    history = History(settings, seed=0)
    history.back_up("1")
    leaked, _ = add_key(settings, "leaked"), add_key(settings, "good")
    history.back_up("2")
    revoke(settings, leaked)
    for name in "212":
        history.restore(name)
    assert working(settings) == ["good", "first"]
    history.restore("1")
    revoke(settings, first)
    history.restore("2")
    assert working(settings) == ["good"]


def test_a_device_that_was_removed_after_the_wrong_restore_is_the_only_one_that_stays_so(
    settings: Settings,
) -> None:
    with opened(settings) as faces:
        ada = faces.subjects.create(NewSubject(name="Ada"))["id"]
        faces.devices.add(ada, "watch", {"kty": "EC", "x": "watch"})
    history = History(settings, seed=0)
    history.back_up("1")
    with opened(settings) as faces:
        faces.devices.add(ada, "phone", {"kty": "EC", "x": "phone"})
    history.back_up("2")
    history.restore("1")
    with opened(settings) as faces:
        faces.devices.remove(ada, "watch")
    for _ in range(2):
        history.restore("2")
        assert state(settings, ada) == (False, False, ["phone"])


@pytest.mark.parametrize("doubt", ["another database", "no log", "an earlier release"])
def test_in_doubt_what_a_person_does_not_have_was_taken_back(
    settings: Settings, doubt: str
) -> None:
    with opened(settings) as faces:
        ada = faces.subjects.create(NewSubject(name="Ada"))["id"]
    add_key(settings)
    engine = open_engine(settings.database)
    Audit(engine, now).write(COMMAND, "key_created", "leaked")
    engine.dispose()
    history = History(settings, seed=0)
    history.back_up("1")
    with opened(settings) as faces:
        allow(faces, ada, ada)
    history.back_up("2")
    history.restore("1")
    if doubt == "another database":
        execute(settings, "UPDATE face_settings SET value = '{}' WHERE key = 'restored'")
    elif doubt == "no log":
        execute(settings, "DELETE FROM audit")
    else:
        before = read_taken_back(settings.home)
        write_taken_back(settings.home, before.model_copy(update={"restored": None}))
    history.restore("2")
    assert state(settings, ada) == (False, False, [])


def test_the_file_of_an_earlier_release_is_read() -> None:
    text = """{"keys": {"key_1": null}, "people": {"sub_1": {"at": "2026-01-01T00:00:00Z",
        "consent": false, "devices": ["00"], "frames": false}}}"""
    found = TakenBack.model_validate_json(text)
    assert found.people["sub_1"].date("consent") == datetime(2026, 1, 1, tzinfo=UTC)
    assert TakenBack.model_validate_json(found.model_dump_json(exclude_defaults=True)) == found
