"""`opsin faces` against a small real server that answers as docs/reference/api.md says."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select
from typer.testing import CliRunner

from cli.clients.faces import FacesApi
from cli.commands.faces import face_threshold, faces
from cli.commands.faces.face_keys import replace_lost_keys, rotate, rotate_token_key
from cli.main import build
from cli.output import CommandError
from contracts.errors import NeedsOperator
from contracts.faces.subjects import NewSubject
from contracts.settings import Settings
from database.audit import Audit
from database.crypto.cipher import sealing_key_ids
from database.crypto.master_keys import KeyFile
from database.engine import open_engine, reading, writing
from database.faces.repositories import FaceRepositories
from database.faces.template_rows import Unreadable
from database.tables import SubjectRecord
from tests.tables import make_home, make_tables

BOX = {"x": 10.0, "y": 20.0, "width": 80.0, "height": 90.0}
QUALITY = {
    "sharpness": 412.0,
    "brightness": 120.0,
    "yaw": -4.0,
    "pitch": 2.0,
    "roll": 0.0,
    "size": 60.0,
    "acceptable": False,
    "reasons": ["too_dark", "blurred"],
}
RATE = {"rate": 0.001, "errors": 18, "pairs": 18000, "interval": [0.0002, 0.004]}
CALIBRATION = {
    "threshold": 0.9312,
    "threshold_interval": [0.92, 0.94],
    "faces": 200,
    "people": 20,
    "fmr": RATE,
    "fnmr": RATE,
    "groups": [{"group": "[old]", "fmr": RATE | {"rate": None}, "fnmr": RATE}],
    "warnings": ["20 people say little of others"],
    "left_out": [
        {"person": "p1", "reason": "no_face", "pictures": 2, "detail": "Send frontal ones."}
    ],
}
JOB: dict[str, Any] = {
    "id": "job_1",
    "kind": "training",
    "state": "succeeded",
    "attempt": 1,
    "progress": {"fraction": 1.0},
    "created_at": "2026-11-20T09:30:00Z",
    "artifacts": [],
}
ENROLLED = {"templates_added": 5, "frames": {"read": 40, "used": 9, "rejected": {"blurred": 31}}}


class Server:
    """Answers by method and path, and records the requests."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Any]] = {}
        self.requests: list[tuple[str, bytes]] = []
        self.result: Any = None


@pytest.fixture
def server() -> Iterator[tuple[Server, str]]:
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            route = f"{self.command} {self.path.split('?')[0]}"
            state.requests.append((route, body))
            if route.endswith("/events"):
                self._send(200, b'id: 1\nevent: state\ndata: {"state": "succeeded"}\n\n')
            elif route.startswith("GET /v1/jobs/"):
                self._send(200, json.dumps(JOB | {"result": state.result}).encode())
            else:
                status, content = state.answers[route]
                self._send(status, json.dumps(content).encode())

        do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815 (as the base class has it)

        def _send(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_request(self, code: object = "-", size: object = "-") -> None:
            """Log nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.02,))
        thread.start()
        yield state, f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "me.jpg"
    path.write_bytes(b"jpeg bytes")
    return path


def test_enrollment_creates_the_subject_and_reports_frames(
    server: tuple[Server, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, url = server
    state.answers["POST /v1/faces/subjects"] = (201, {"id": "sub_1"})
    state.answers["POST /v1/faces/subjects/sub_1/enrollments"] = (202, JOB)
    state.result = ENROLLED
    clip = tmp_path / "me.MP4"
    clip.write_bytes(b"video bytes")
    result = CliRunner().invoke(
        build(),
        ["faces", "enroll", str(clip), "--name", "Ada", "--keep-frames", "--server", url],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    assert json.loads(state.requests[0][1]) == {"name": "Ada", "keep_frames": True}
    form = state.requests[1][1]
    assert b'name="video"; filename="me.MP4"' in form
    assert b"video bytes" in form
    text = result.stderr
    assert "5 templates from 9 of 40 frames" in text
    assert "31 left out: blurred" in text


@pytest.mark.parametrize("files", [["missing.jpg"], ["me.jpg", "me.mp4"]])
def test_no_subject_is_created_for_files_that_cannot_be_sent(
    files: list[str], server: tuple[Server, str], photo: Path
) -> None:
    state, url = server
    (photo.parent / "me.mp4").write_bytes(b"video bytes")
    paths = [str(photo.parent / file) for file in files]
    result = CliRunner().invoke(
        build(), ["faces", "enroll", *paths, "--name", "Bob", "--server", url]
    )
    assert result.exit_code != 0
    assert state.requests == []


def test_a_challenge_and_its_device_are_sent(server: tuple[Server, str], photo: Path) -> None:
    state, url = server
    state.answers["POST /v1/faces/subjects/sub_1/enrollments"] = (202, JOB)
    state.result = ENROLLED
    clip = photo.with_suffix(".mp4")
    clip.write_bytes(b"video bytes")
    options = ["--challenge", "ch_1", "--nonce", "n", "--device", "phone-7", "--server", url]
    result = CliRunner().invoke(
        build(),
        ["faces", "enroll", str(clip), "--subject", "sub_1", *options],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    form = state.requests[0][1]
    for value in (b"ch_1", b"phone-7", b'name="device_id"'):
        assert value in form


def test_login_prints_the_token_and_fails_without_a_match(
    server: tuple[Server, str], photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, url = server
    good = {"decision": "match", "reason": None, "token": "a.b.c", "expires_at": "2026-11-20"}
    state.answers["POST /v1/faces/login"] = (200, good)
    faces.login("sub_1", photo, challenge="ch_1", nonce="n", server=url)
    assert "a.b.c" in capsys.readouterr().out.splitlines()
    form = state.requests[0][1]
    for field in (b'name="subject_id"', b'name="challenge_id"', b'name="nonce"', b'name="image"'):
        assert field in form
    bad = {"decision": "uncertain", "reason": "close", "token": None, "expires_at": None}
    state.answers["POST /v1/faces/login"] = (200, bad)
    with pytest.raises(CommandError, match="Not logged in"):
        faces.login("sub_1", photo, server=url)
    assert "uncertain (close)" in capsys.readouterr().out


def test_images_after_one_that_fails_are_answered(
    server: tuple[Server, str], photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server[0].answers["POST /v1/faces/identify"] = (200, {"faces": []})
    server[0].answers["POST /v1/faces/detect"] = (200, {"faces": []})
    other = photo.with_name("other.jpg")
    other.write_bytes(photo.read_bytes())
    for command in (faces.identify, faces.detect):
        with pytest.raises(CommandError, match="1 of 3 images"):
            command([photo, photo.with_name("none.jpg"), other], server=server[1])
        shown = capsys.readouterr()
        assert "none.jpg" in shown.err
        assert photo.name in shown.out
        assert other.name in shown.out


def test_identify_shows_strangers_as_unknown(
    server: tuple[Server, str], photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"subject_id": "sub_1", "name": "Ada [x]", "similarity": 0.97}
    answer = {"faces": [{"box": BOX, "candidates": [known]}, {"box": BOX, "candidates": []}]}
    server[0].answers["POST /v1/faces/identify"] = (200, answer)
    faces.identify([photo], server=server[1])
    text = capsys.readouterr().out
    assert "Ada [x]" in text
    assert "0.970" in text
    assert "unknown" in text
    faces.identify([photo], as_json=True, server=server[1])
    assert json.loads(capsys.readouterr().out) == {"me.jpg": answer}


def test_detect_shows_why_a_face_is_not_good_enough(
    server: tuple[Server, str], photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    face = {"box": BOX, "score": 0.91, "quality": QUALITY}
    server[0].answers["POST /v1/faces/detect"] = (200, {"faces": [face]})
    faces.detect([photo], server=server[1])
    text = capsys.readouterr().out
    assert "too_dark, blurred" in text
    assert "-4°" in text


def test_verify_needs_two_images_or_one_and_a_subject(
    server: tuple[Server, str], photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = {"match": True, "similarity": 0.98, "threshold": 0.95}
    server[0].answers["POST /v1/faces/verify"] = (200, answer)
    faces.verify([photo], "sub_1", server=server[1])
    assert "match  similarity 0.980, threshold 0.950" in capsys.readouterr().out
    with pytest.raises(CommandError, match="two images"):
        faces.verify([photo], server=server[1])


def test_subjects_are_listed(
    server: tuple[Server, str], capsys: pytest.CaptureFixture[str]
) -> None:
    one = {
        "id": "sub_1",
        "name": "Ada",
        "external_id": None,
        "templates": {"current": 5, "stale": 2},
        "files": 3,
        "created_at": "2026-11-20T09:30:00Z",
    }
    page = {"items": [one], "next_cursor": None}
    server[0].answers["GET /v1/faces/subjects"] = (200, page)
    faces.subjects(server=server[1])
    assert "5 (2 stale)" in capsys.readouterr().out


def test_erasure_reports_templates_frames_and_models(
    server: tuple[Server, str], capsys: pytest.CaptureFixture[str]
) -> None:
    gone = {"templates": 12, "files": 3, "models": [{"model": "door", "version": 4}]}
    server[0].answers["DELETE /v1/faces/subjects/sub_1"] = (200, {"erased": gone})
    faces.erase("sub_1", yes=True, server=server[1])
    text = capsys.readouterr().err
    assert "12 templates, 3 frames" in text
    assert "door version 4" in text


def test_an_export_is_written_for_its_owner_alone(
    server: tuple[Server, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    held = {"subject": {"id": "sub_1"}, "templates": [], "unreadable": ["ff_1"]}
    server[0].answers["GET /v1/faces/subjects/sub_1/export"] = (200, held)
    faces.export("sub_1", server=server[1])
    printed = capsys.readouterr()
    assert json.loads(printed.out) == held
    assert "not in it: ff_1." in printed.err
    to = tmp_path / "ada.json"
    faces.export("sub_1", to, server=server[1])
    assert json.loads(to.read_text()) == held
    assert to.stat().st_mode & 0o777 == 0o600
    with pytest.raises(CommandError, match="exists already"):
        faces.export("sub_1", to, server=server[1])


def test_calibrate_shows_rates_and_applies_only_on_request(
    server: tuple[Server, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    state, url = server
    state.answers["POST /v1/faces/calibrations"] = (202, JOB)
    state.answers["PUT /v1/faces/threshold"] = (200, {})
    state.result = CALIBRATION
    face_threshold.calibrate("ds_1", server=url)
    printed = capsys.readouterr()
    assert "threshold 0.9312" in printed.out
    assert "0.100%" in printed.out
    assert "[old]: FMR" in printed.out
    assert "p1: 2 no_face" in printed.err
    assert not [route for route, _ in state.requests if route.startswith("PUT")]
    face_threshold.calibrate("ds_1", apply=True, as_json=True, server=url)
    assert json.loads(capsys.readouterr().out) == CALIBRATION
    assert json.loads(state.requests[-1][1]) == {"calibration_job_id": "job_1"}


def test_a_refusal_is_shown_in_the_servers_words(server: tuple[Server, str], photo: Path) -> None:
    problem = {
        "type": "about:blank",
        "title": "Locked out",
        "status": 429,
        "detail": "Try again in half an hour.",
        "code": "locked_out",
        "request_id": "1",
    }
    server[0].answers["POST /v1/faces/login"] = (429, problem)
    with pytest.raises(CommandError, match="Try again in half an hour"):
        faces.login("sub_1", photo, server=server[1])
    server[0].answers["GET /v1/faces/threshold"] = (500, "no problem document")
    with pytest.raises(CommandError, match="not as Opsin does"):
        face_threshold.threshold(server=server[1])


def test_files_that_cannot_be_sent_are_refused_first(
    server: tuple[Server, str], photo: Path, tmp_path: Path
) -> None:
    with pytest.raises(CommandError, match="cannot be read"):
        faces.identify([tmp_path / "none.jpg"], server=server[1])
    clip = tmp_path / "a.mp4"
    clip.write_bytes(b"a clip")
    with pytest.raises(CommandError, match="one video, or images"):
        faces.evidence([clip, photo])
    with pytest.raises(CommandError, match="opsin up"):
        FacesApi(Settings(_env_file=None), "http://127.0.0.1:9").get("/threshold")


def test_rotation_encrypts_all_subjects_by_a_new_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(_env_file=None, home=tmp_path)
    make_tables(settings.database)
    engine = open_engine(settings.database)
    kept = FaceRepositories.of(settings, engine, lambda: datetime.now(UTC))
    before = kept.cipher.key_id
    subject = kept.subjects.create(NewSubject(name="Ada"))["id"]
    signing = kept.token_keys.signing().id
    monkeypatch.setenv("OPSIN_HOME", str(tmp_path))
    rotate()
    assert "1 subjects" in capsys.readouterr().err
    now = FaceRepositories.of(settings, engine, lambda: datetime.now(UTC)).cipher
    assert [key.id for key in KeyFile(settings.face_keys_file).read()] == [now.key_id, before]
    with engine.connect() as connection:
        row = connection.execute(select(SubjectRecord.key_id, SubjectRecord.data_key)).one()
    assert row.key_id == now.key_id != before
    now.decrypt_data_key(row.data_key, subject)

    renewed = FaceRepositories.of(settings, engine, lambda: datetime.now(UTC)).token_keys
    assert renewed.signing().id == signing
    rotate_token_key()
    assert renewed.signing().id != signing
    assert signing in {one.id for one in renewed.public()}
    lines = Audit(engine, lambda: datetime.now(UTC)).list().items
    assert {(line.action, line.subject) for line in lines} == {
        ("face_keys_rotated", now.key_id),
        ("token_key_rotated", renewed.signing().id),
    }
    engine.dispose()


def test_a_damaged_key_keeps_no_other_from_being_rotated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.commands.faces.face_keys._AT_ONCE", 2)
    settings = Settings(_env_file=None, home=tmp_path)
    make_tables(settings.database)
    engine = open_engine(settings.database)
    faces = FaceRepositories.of(settings, engine, lambda: datetime.now(UTC))
    people = sorted(faces.subjects.create(NewSubject(name="Ada"))["id"] for _ in range(6))
    before, signing = faces.cipher.key_id, faces.token_keys.signing().id
    with writing(engine) as session:
        session.get_one(SubjectRecord, people[1]).data_key += b"x"
    monkeypatch.setenv("OPSIN_HOME", str(tmp_path))
    with pytest.raises(CommandError, match=rf"1 subject are damaged.*: {people[1]}\. Erase"):
        rotate()
    with engine.connect() as connection:
        rows = connection.execute(select(SubjectRecord.id, SubjectRecord.key_id)).all()
    assert [one for one, key_id in rows if key_id == before] == [people[1]]
    (settings.face_keys_file).write_text(settings.face_keys_file.read_text().splitlines()[0])
    now = FaceRepositories.of(settings, engine, lambda: datetime.now(UTC))
    assert now.token_keys.signing().id == signing

    kept = settings.face_keys_file.read_text()
    with pytest.raises(CommandError, match=f"The keys {before} are missing"):
        rotate()
    assert settings.face_keys_file.read_text() == kept, "no key was added"
    engine.dispose()


@pytest.mark.parametrize("command", [rotate, rotate_token_key])
@pytest.mark.parametrize("is_home", [True, False])
def test_no_key_is_made_where_the_right_one_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[[], None], is_home: bool
) -> None:
    """In a home whose secrets were not restored, and in one that is not that of the database."""
    settings = Settings(
        _env_file=None, home=tmp_path / "home", database_url=f"sqlite:///{tmp_path / 'apart.db'}"
    )
    make_home(settings)
    engine = open_engine(settings.database)
    faces = FaceRepositories.of(settings, engine, lambda: datetime.now(UTC))
    signing = faces.token_keys.signing().id
    home = settings.home
    if is_home:
        settings.face_keys_file.rename(tmp_path / "aside")
    else:
        home = tmp_path / "empty"
    monkeypatch.setenv("OPSIN_HOME", str(home))
    monkeypatch.setenv("OPSIN_DATABASE_URL", settings.database)
    with pytest.raises(CommandError, match="put back" if is_home else "OPSIN_HOME"):
        command()
    assert not (home / "secrets/faces.keys").exists()
    assert [key.id for key in faces.token_keys.public()] == [signing]
    engine.dispose()


def with_ada(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Settings, Engine, FaceRepositories, str]:
    """An installation with one person, and her id."""
    settings = Settings(_env_file=None, home=home)
    make_home(settings)
    engine = open_engine(settings.database)
    monkeypatch.setenv("OPSIN_HOME", str(home))
    faces = FaceRepositories.of(settings, engine, lambda: datetime.now(UTC))
    return settings, engine, faces, faces.subjects.create(NewSubject(name="Ada"))["id"]


@pytest.mark.parametrize("has_other_key", [False, True])
def test_faces_go_on_after_the_keys_are_lost(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    has_other_key: bool,
) -> None:
    """As after the restore of a backup without --secrets."""
    settings, engine, before, ada = with_ada(tmp_path, monkeypatch)
    digest, signing = before.keyed_hash.hexdigest(b"phone"), before.token_keys.signing().id
    with pytest.raises(CommandError, match="No key is missing"):
        replace_lost_keys(yes=True)
    lost = before.cipher.key_id
    settings.face_keys_file.rename(tmp_path / "aside")
    if has_other_key:
        KeyFile(settings.face_keys_file).create()
    running = FaceRepositories.of(settings, engine, lambda: datetime.now(UTC))
    with pytest.raises(NeedsOperator, match="replace-lost-keys"):
        running.keyed_hash.hexdigest(b"phone")
    with pytest.raises(NeedsOperator):
        running.token_keys.signing()
    with pytest.raises(CommandError, match=rf"{lost}.* 1 subject can.*--yes"):
        replace_lost_keys()
    assert settings.face_keys_file.exists() == has_other_key, "nothing was done"

    replace_lost_keys(yes=True)
    printed = capsys.readouterr()
    assert printed.out.split() == [ada, "Ada"]
    assert "1 subject must be enrolled again" in printed.err
    running.subjects.create(NewSubject(name="Eve"))  # without a restart
    assert running.keyed_hash.hexdigest(b"phone") != digest
    assert running.token_keys.signing().id != signing
    assert signing not in {key.id for key in running.token_keys.public()}
    (line,) = Audit(engine, lambda: datetime.now(UTC)).list(action="face_keys_replaced").items
    assert (line.actor, line.subject) == ("command", f"{lost} by {running.cipher.key_id}")
    running.subjects.erase(ada)
    rotate()
    with reading(engine) as session:
        assert lost not in sealing_key_ids(session)
    engine.dispose()


def test_a_person_is_recognized_again_once_the_lost_key_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, engine, _, ada = with_ada(tmp_path, monkeypatch)
    aside = settings.face_keys_file.rename(tmp_path / "aside")
    replace_lost_keys(yes=True)
    running = FaceRepositories.of(settings, engine, lambda: datetime.now(UTC))
    with pytest.raises(Unreadable):
        running.subjects.require_readable(ada)
    with settings.face_keys_file.open("a") as file:
        file.write(aside.read_text())
    running.subjects.require_readable(ada)
    engine.dispose()
