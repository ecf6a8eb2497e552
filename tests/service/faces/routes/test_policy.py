"""Consent, the total cap of failures, device keys, retention and export over HTTP."""

import asyncio
import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import jwt
import numpy as np
import pytest
import redis
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from jwt.algorithms import ECAlgorithm

from contracts.errors import Unavailable
from contracts.faces.consent import NewPolicy, Policy
from contracts.faces.subjects import (
    Candidate,
    Erased,
    NewTemplate,
    StoredFrame,
    SubjectChange,
    embedder_of,
)
from contracts.queue.messages import Vector
from contracts.queue.redis_keys import face_devices, face_lock
from contracts.settings import MIB, Settings
from database.engine import open_engine, writing
from database.tables import FaceTemplateRecord
from service.dependencies import Services
from service.faces import login as login_module
from service.faces import recognition as recognition_module
from service.faces.context import FaceServices
from service.faces.locks.lockout import Lockout
from service.faces.privacy import erasure, retention
from service.jobs import disk_room
from service.middleware import row_room
from tests.service.face_replies import clip_of, quality, vector_of
from tests.service.parts import FakeServices, face_services_in, gray_png
from tests.valkey import RealValkey

URL = "/v1/faces"
ADA, BEA = 40, 120
CONSENT = {"version": "2026-01", "text_digest": "sha256:ab", "by": "desk"}
PRIVATE = generate_private_key(SECP256R1())
PUBLIC = ECAlgorithm.to_jwk(PRIVATE.public_key(), as_dict=True)
OTHER = ECAlgorithm.to_jwk(generate_private_key(SECP256R1()).public_key(), as_dict=True)


@pytest.fixture
def fakes(tmp_path: Path, valkey: RealValkey) -> FakeServices:
    faces = face_services_in(tmp_path, redis_url=valkey.url, tables=True)
    fakes = FakeServices(faces=faces, engine=open_engine(f"sqlite:///{tmp_path}/opsin.db"))
    fakes.with_keys()
    return fakes


@pytest.fixture
def settings() -> Settings:
    return Settings(_env_file=None, max_image_bytes=20_000, max_video_bytes=30_000)


@pytest.fixture
def ada(client: httpx.Client, fakes: FakeServices) -> str:
    sent = {"name": "Ada", "keep_frames": True}
    subject: str = client.post(f"{URL}/subjects", json=sent).json()["id"]
    new = NewTemplate(vector_of(ADA), quality(), "image", StoredFrame("image/png", b"a frame"))
    fakes.faces.templates.add(subject, [new], embedder=embedder_of(1))
    return subject


def login(client: httpx.Client, subject: str, level: int = ADA, **fields: str) -> httpx.Response:
    sent = {"subject_id": subject, **fields}
    return client.post(f"{URL}/login", data=sent, files={"image": gray_png(level)})


def identify(client: httpx.Client, level: int = ADA) -> dict[str, Any]:
    answer = client.post(f"{URL}/identify", files={"image": gray_png(level)})
    assert answer.status_code == 200, answer.text
    face: dict[str, Any] = answer.json()["faces"][0]
    return face


def code(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["code"])


def erase_unused(fakes: FakeServices) -> None:
    async def run() -> None:
        async with fakes.open_services(Settings(_env_file=None)) as services:
            await retention.run(services)

    asyncio.run(run())


def signed_challenge(client: httpx.Client, subject: str, device: str = "phone") -> dict[str, str]:
    """The fields of a login with a challenge that the device has signed."""
    new = {"purpose": "login", "subject_id": subject, "device_id": device}
    challenge = client.post(f"{URL}/challenges", json=new).json()
    signature = PRIVATE.sign(challenge["nonce"].encode(), ECDSA(SHA256()))
    return {
        "challenge_id": challenge["id"],
        "nonce": challenge["nonce"],
        "device_id": device,
        "signature": base64.urlsafe_b64encode(signature).decode(),
    }


def test_without_a_consent_in_force_a_face_is_not_processed(
    client: httpx.Client, fakes: FakeServices, ada: str
) -> None:
    put = client.put(f"{URL}/policy", json={"consent_required": True})
    assert put.json()["consent_required"] is True
    where = f"{URL}/subjects/{ada}"
    files = {"image": gray_png(ADA)}
    training = {"network": "face_cnn", "model": "door", "subjects": [ada, "sub_" + 20 * "x"]}

    def refused() -> bool:
        answers = (
            login(client, ada),
            client.post(f"{URL}/verify", data={"subject_id": ada}, files=files),
            client.post(f"{where}/enrollments", files=files),
            client.post("/v1/trainings", json=training),
        )
        assert len({answer.status_code == 409 for answer in answers}) == 1
        assert bool(identify(client)["candidates"]) != (answers[0].status_code == 409)
        return answers[0].status_code == 409

    assert refused()
    changed = client.patch(where, json={"consent": CONSENT}).json()
    assert changed["consent"].items() >= CONSENT.items()
    assert not refused()
    now = datetime.now(UTC)
    past = {"at": str(now - timedelta(days=2)), "expires_at": str(now - timedelta(days=1))}
    client.patch(where, json={"consent": CONSENT | past})
    assert refused()
    assert "consent" in login(client, ada).json()["detail"]


def test_people_without_a_consent_take_nobodys_place(
    client: httpx.Client, fakes: FakeServices, ada: str
) -> None:
    client.patch(f"{URL}/subjects/{ada}", json={"consent": CONSENT})
    new = NewTemplate(vector_of(ADA + 0.1), quality(), "image")
    for at in range(12):  # all nearer than Ada
        other = client.post(f"{URL}/subjects", json={"name": str(at)}).json()["id"]
        fakes.faces.templates.add(other, [new], embedder=embedder_of(1))
    assert identify(client, ADA + 1)["reason"] == "another_subject"
    client.put(f"{URL}/policy", json={"consent_required": True})
    face = identify(client, ADA + 1)
    assert (face["decision"], face["candidates"][0]["subject_id"]) == ("match", ada)


def test_however_many_have_no_consent_the_search_ends(
    client: httpx.Client, fakes: FakeServices, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.put(f"{URL}/policy", json={"consent_required": True})
    asked = list[int]()

    def nearest(vectors: Vector, *, limit: int, **_: object) -> list[list[Candidate]]:
        asked.append(limit)
        return [[Candidate(f"sub_{number}", 0.99) for number in range(limit)] for _ in vectors]

    monkeypatch.setattr(fakes.faces.search, "nearest", nearest)
    assert identify(client)["candidates"] == []
    assert asked == [asked[0] * factor for factor in (1, 8, 64, 512)]


def test_a_subject_is_added_with_its_consent(client: httpx.Client) -> None:
    sent = {"name": "Bea", "consent": CONSENT | {"at": "2026-01-02T03:04:05+02:00"}}
    made = client.post(f"{URL}/subjects", json=sent).json()
    assert made["consent"] == CONSENT | {"at": "2026-01-02T01:04:05Z", "expires_at": None}
    for wrong in (
        {"version": "1"},
        CONSENT | {"at": "yesterday"},
        CONSENT | {"x": 1},
        CONSENT | {"at": "3000-01-01T00:00:00Z"},
        CONSENT | {"expires_at": "2026-01-02T03:04:05Z"},
    ):
        answer = client.post(f"{URL}/subjects", json={"name": "C", "consent": wrong})
        assert code(answer, 422) == "validation_error"


def test_failures_in_a_row_disable_the_face_until_another_factor(
    client: httpx.Client, fakes: FakeServices, valkey: RealValkey, ada: str
) -> None:
    client.put(f"{URL}/policy", json={"max_failures": 5})
    client.post(f"{URL}/subjects/{ada}/devices", json={"device_id": "phone", "public_key": PUBLIC})
    for number in range(5):
        assert login(client, ada, BEA, device_id=f"d{number}").json()["decision"] == "no_match"
    refused = login(client, ada, device_id="new")
    assert code(refused, 429) == "locked_out"
    assert "another factor" in refused.json()["detail"]
    assert client.get(f"{URL}/subjects/{ada}").json()["face_disabled"] is True
    verify = client.post(f"{URL}/verify", data={"subject_id": ada}, files={"image": gray_png(ADA)})
    assert code(verify, 429) == "locked_out"
    assert (identify(client)["decision"], identify(client)["candidates"]) == ("uncertain", [])
    assert identify(client)["reason"] == "locked_out"
    assert login(client, ada, **signed_challenge(client, ada)).json()["decision"] == "match"
    assert login(client, ada, device_id="new").json()["decision"] == "match"


def test_the_operator_enables_a_face(client: httpx.Client, fakes: FakeServices, ada: str) -> None:
    where = f"{URL}/subjects/{ada}"
    assert client.patch(where, json={"face_disabled": True}).json()["face_disabled"] is True
    assert code(login(client, ada), 429) == "locked_out"
    assert client.patch(where, json={"face_disabled": False}).json()["face_disabled"] is False
    assert login(client, ada).json()["decision"] == "match"
    client.patch(where, json={"consent": CONSENT})
    client.patch(where, json={"consent": None, "name": "Ada L.", "keep_frames": False})
    actions = [(one["action"], one["subject"]) for one in client.get("/v1/audit").json()["items"]]
    names = (
        "frames_forbidden",
        "consent_withdrawn",
        "consent_recorded",
        "face_enabled",
        "face_disabled",
    )
    assert actions == [(name, ada) for name in names]


def test_a_failure_counts_also_if_redis_is_lost_meanwhile(
    client: httpx.Client, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(*_: object) -> bool:
        raise Unavailable("Redis does not answer.")

    client.put(f"{URL}/policy", json={"max_failures": 5})
    monkeypatch.setattr(Lockout, "end", lost)
    for _ in range(5):
        assert code(login(client, ada, BEA), 503) == "dependency_unavailable"
    assert client.get(f"{URL}/subjects/{ada}").json()["face_disabled"] is True


def test_no_device_enables_a_face_that_the_operator_disabled(
    client: httpx.Client, ada: str
) -> None:
    where = f"{URL}/subjects/{ada}"
    client.post(f"{where}/devices", json={"device_id": "phone", "public_key": PUBLIC})
    client.patch(where, json={"face_disabled": True})
    assert code(login(client, ada, **signed_challenge(client, ada)), 429) == "locked_out"
    assert client.get(where).json()["face_disabled"] is True
    client.patch(where, json={"face_disabled": False})
    assert login(client, ada, **signed_challenge(client, ada)).json()["decision"] == "match"


def take_back(faces: FaceServices, subject: str, what: str) -> None:
    match what:
        case "consent":
            faces.subjects.change(subject, SubjectChange(consent=None))
        case "disabled":
            faces.subjects.change(subject, SubjectChange(face_disabled=True))
        case "device":
            faces.repositories.devices.remove(subject, "phone")
        case "key":  # a lost phone, whose name the next one gets
            faces.repositories.devices.remove(subject, "phone")
            faces.repositories.devices.add(subject, "phone", OTHER)
        case "factors":
            faces.repositories.policy.set(NewPolicy(liveness_required=True))
        case "erased":
            faces.subjects.erase(subject)


@pytest.mark.parametrize("what", ["consent", "disabled", "device", "key", "factors", "erased"])
def test_what_is_taken_back_while_a_face_is_judged_counts(
    client: httpx.Client,
    fakes: FakeServices,
    ada: str,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    """Judging a clip takes up to ten minutes; no token is given after the withdrawal's answer."""
    where, faces = f"{URL}/subjects/{ada}", fakes.faces
    client.put(f"{URL}/policy", json={"consent_required": True})
    client.patch(where, json={"consent": CONSENT})
    client.post(f"{where}/devices", json={"device_id": "phone", "public_key": PUBLIC})
    fields = signed_challenge(client, ada)
    judge = login_module.judge_evidence

    async def slow(*args: Any) -> Any:
        verdict = await judge(*args)
        take_back(faces, ada, what)
        return verdict

    monkeypatch.setattr(login_module, "judge_evidence", slow)
    answer = login(client, ada, **fields)
    assert "token" not in answer.text
    refused = {
        "consent": (409, "conflict"),
        "factors": (422, "validation_error"),
        "erased": (404, "subject_not_found"),
    }
    assert (answer.status_code, answer.json()["code"]) == refused.get(what, (429, "locked_out"))
    if what == "disabled":
        assert client.get(where).json()["face_disabled"] is True


@pytest.mark.parametrize("what", ["consent", "disabled", "erased"])
def test_no_similarity_is_told_to_whoever_waited_for_it_meanwhile(
    client: httpx.Client, fakes: FakeServices, ada: str, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    client.put(f"{URL}/policy", json={"consent_required": True, "max_failures": 5})
    client.patch(f"{URL}/subjects/{ada}", json={"consent": CONSENT})
    compare = recognition_module._compare

    async def slow(*args: Any) -> Any:
        compared = await compare(*args)
        take_back(fakes.faces, ada, what)
        return compared

    with monkeypatch.context() as patch:
        patch.setattr(recognition_module, "_compare", slow)
        verify = {"data": {"subject_id": ada}, "files": {"image": gray_png(BEA)}}
        answer = client.post(f"{URL}/verify", **verify)  # type: ignore[arg-type]
    status = {"consent": 409, "disabled": 429, "erased": 404}[what]
    assert (answer.status_code, "similarity" in answer.text) == (status, False), answer.text
    if what == "consent":  # the failure counts nevertheless
        client.patch(f"{URL}/subjects/{ada}", json={"consent": CONSENT})
        for _ in range(4):
            assert login(client, ada, BEA).json()["decision"] == "no_match"
        assert client.get(f"{URL}/subjects/{ada}").json()["face_disabled"] is True


def test_a_subject_that_is_locked_is_not_named(
    client: httpx.Client, fakes: FakeServices, valkey: RealValkey, ada: str
) -> None:
    assert identify(client)["candidates"][0]["subject_id"] == ada

    with redis.Redis.from_url(valkey.url) as store:
        store.set(face_lock(f"subject:{ada}"), b"1", px=60_000)
    face = identify(client)
    assert (face["decision"], face["reason"]) == ("uncertain", "locked_out")
    assert face["candidates"] == []


def test_a_signed_login_is_marked_in_its_token(client: httpx.Client, ada: str) -> None:
    devices = f"{URL}/subjects/{ada}/devices"
    made = client.post(devices, json={"device_id": "phone", "public_key": PUBLIC})
    assert (made.status_code, made.json()["device_id"]) == (201, "phone")
    assert client.put(f"{URL}/policy", json={"device_key_required": True}).status_code == 200
    unsigned = login(client, ada)
    assert code(unsigned, 422) == "validation_error"
    assert "signature" in unsigned.json()["detail"]
    fields = signed_challenge(client, ada)
    body = login(client, ada, **fields).json()
    assert body["decision"] == "match"
    claims = jwt.decode(body["token"], options={"verify_signature": False})
    assert claims["amr"] == ["face", "pop"]
    assert "liveness" not in claims
    assert code(login(client, ada, **fields), 409) == "conflict"  # the nonce counts once
    assert client.get(devices).json()["items"][0]["last_used_at"]


def test_a_device_is_the_same_in_any_spelling_and_hides_nothing(
    client: httpx.Client, fakes: FakeServices, valkey: RealValkey, ada: str
) -> None:
    devices, decomposed = f"{URL}/subjects/{ada}/devices", "Zoe\u0308's phone"
    client.post(devices, json={"device_id": decomposed, "public_key": PUBLIC})
    assert [one["device_id"] for one in client.get(devices).json()["items"]] == ["Zoë's phone"]
    for device in (decomposed, "Zoë's phone"):
        body = login(client, ada, **signed_challenge(client, ada, device)).json()
        assert body["decision"] == "match", body
    for hidden in ("Zoë's\u200d phone", " phone", "pho\u3164ne"):
        assert code(login(client, ada, device_id=hidden), 422) == "validation_error"
        images = {"image": gray_png(ADA)}
        fields = {"subject_id": ada, "device_id": hidden}
        verified = client.post(f"{URL}/verify", data=fields, files=images)
        assert code(verified, 422) == "validation_error"
        answered = fields | {"challenge_id": "ch_1", "nonce": "n"}
        clip = {"video": ("v.avi", clip_of(ADA))}
        for path in ("login", f"subjects/{ada}/enrollments"):
            sent = {k: v for k, v in answered.items() if path == "login" or k != "subject_id"}
            refused = client.post(f"{URL}/{path}", data=sent, files=clip)
            assert code(refused, 422) == "validation_error"
            assert "device_id" in refused.text
    known = face_devices(ada)
    with redis.Redis.from_url(valkey.url) as store:
        assert store.zcard(known) == 1
        assert client.delete(f"{devices}/{decomposed}").status_code == 204
        assert store.zcard(known) == 0, "its logins are those of an unknown device"
    # An earlier release kept the spelling.
    fakes.faces.repositories.devices.add(ada, decomposed, PUBLIC)
    assert client.delete(f"{devices}/{decomposed}").status_code == 204


@pytest.mark.parametrize("stored", ["now", "before"])
def test_a_key_in_another_spelling_is_the_same(
    client: httpx.Client, fakes: FakeServices, ada: str, stored: str
) -> None:
    """Base64 instead of base64url, padded, and with other bits after the last byte."""
    raw = {name: base64.urlsafe_b64decode(PUBLIC[name] + "=") for name in ("x", "y")}
    padded = PUBLIC | {name: PUBLIC[name] + "=" for name in raw}
    plain = PUBLIC | {name: base64.b64encode(raw[name]).decode() for name in raw}
    spare = PUBLIC | {"x": PUBLIC["x"][:-1] + chr(ord(PUBLIC["x"][-1]) + 1)}
    devices = f"{URL}/subjects/{ada}/devices"
    if stored == "before":  # an earlier release kept the spelling
        fakes.faces.repositories.devices.add(ada, "phone", padded)
    for key in (padded, plain, spare, PUBLIC):
        sent = {"device_id": "phone", "public_key": key}
        for headers in ({}, {"Idempotency-Key": f"register-{stored}"}):
            answer = client.post(devices, json=sent, headers=headers)
            assert answer.status_code == 201, answer.text
    kept = answer.json()["public_key"]
    assert kept == {name: padded[name] if stored == "before" else PUBLIC[name] for name in kept}
    other = client.post(devices, json={"device_id": "phone", "public_key": OTHER})
    assert code(other, 409) == "conflict"
    assert login(client, ada, **signed_challenge(client, ada)).json()["decision"] == "match"


def test_a_signature_that_is_not_the_devices_fails_before_the_face_is_compared(
    client: httpx.Client, fakes: FakeServices, ada: str
) -> None:
    devices = f"{URL}/subjects/{ada}/devices"
    client.post(devices, json={"device_id": "phone", "public_key": PUBLIC})
    unknown = login(client, ada, **signed_challenge(client, ada, "unknown"))
    other = signed_challenge(client, ada)["signature"]
    replaced = login(client, ada, **signed_challenge(client, ada) | {"signature": other})
    assert client.delete(f"{devices}/phone").status_code == 204
    removed = login(client, ada, **signed_challenge(client, ada))
    for answer in (unknown, replaced, removed):
        body = answer.json()
        assert (body["decision"], body["reason"]) == ("no_match", "wrong_signature")
    assert fakes.dispatcher.asked == []
    assert code(client.delete(f"{devices}/phone"), 404) == "not_found"


def test_wrong_signatures_lock_their_device_and_do_not_disable_the_face(
    client: httpx.Client, ada: str
) -> None:
    client.put(f"{URL}/policy", json={"max_failures": 5})
    for _ in range(5):
        answer = login(client, ada, **signed_challenge(client, ada, "junk"))
        assert answer.json()["reason"] == "wrong_signature"
    refused = login(client, ada, **signed_challenge(client, ada, "junk"))
    assert code(refused, 429) == "locked_out"
    assert client.get(f"{URL}/subjects/{ada}").json()["face_disabled"] is False
    assert login(client, ada, device_id="phone").json()["decision"] == "match"


def test_a_clip_can_be_signed_and_required(
    client: httpx.Client, fakes: FakeServices, ada: str
) -> None:
    client.put(f"{URL}/policy", json={"device_key_required": True, "liveness_required": True})
    devices = f"{URL}/subjects/{ada}/devices"
    client.post(devices, json={"device_id": "phone", "public_key": PUBLIC})
    fields = {"subject_id": ada, **signed_challenge(client, ada)}
    image = login(client, **fields | {"subject": fields.pop("subject_id")})
    assert code(image, 422) == "validation_error"
    clip = {"video": ("v.avi", clip_of(ADA))}
    body = client.post(f"{URL}/login", data={"subject_id": ada, **fields}, files=clip).json()
    assert body["decision"] == "match"
    claims = jwt.decode(body["token"], options={"verify_signature": False})
    assert (claims["amr"], claims["liveness"]) == (["face", "pop"], True)


def test_malformed_ones_are_refused(client: httpx.Client, ada: str) -> None:
    devices = f"{URL}/subjects/{ada}/devices"
    for key in ({}, PUBLIC | {"d": "x"}, PUBLIC | {"y": PUBLIC["x"]}):
        answer = client.post(devices, json={"device_id": "phone", "public_key": key})
        assert code(answer, 422) == "validation_error"
    slash = client.post(devices, json={"device_id": "a/b", "public_key": PUBLIC})
    assert code(slash, 422) == "validation_error"
    bare = login(client, ada, signature="A" * 86)
    assert code(bare, 422) == "validation_error"
    junk = login(client, ada, **signed_challenge(client, ada) | {"signature": "?"})
    assert code(junk, 422) == "validation_error"


def test_anyone_may_read_the_text(client: httpx.Client, fakes: FakeServices) -> None:
    first = client.get(f"{URL}/retention")
    assert first.headers["Content-Type"].startswith("text/plain")
    assert "until the person" in first.text
    client.put(f"{URL}/policy", json={"retention_days": 1095})
    assert "1095 days" in client.get(f"{URL}/retention").text
    client.put(f"{URL}/policy", json={"retention_text": "We keep nothing."})
    assert client.get(f"{URL}/retention").text == "We keep nothing."


def test_unused_subjects_are_erased_and_the_audit_says_by_whom(
    client: httpx.Client, fakes: FakeServices, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bea, cid = (
        client.post(f"{URL}/subjects", json={"name": name}).json()["id"] for name in ("Bea", "Cid")
    )
    erase_unused(fakes)
    assert len(client.get(f"{URL}/subjects").json()["items"]) == 3, "by default nobody"
    fakes.faces.repositories.policy.set(NewPolicy(retention_days=30))
    standings = fakes.faces.repositories.standings
    later = datetime.now(UTC) + timedelta(days=29)
    deletion_clock = fakes.faces.repositories.deletion_clock
    monkeypatch.setattr(type(deletion_clock), "now", lambda _: standings._clock())
    monkeypatch.setattr(standings, "_clock", lambda: later)
    erase_unused(fakes)
    standings.record_match(ada)
    monkeypatch.setattr(standings, "_clock", lambda: later + timedelta(days=2))
    purged: list[object] = []

    def purge(engine: object) -> bool:
        purged.append(engine)
        return True

    monkeypatch.setattr("service.faces.context.purge_deleted_rows", purge)
    erase_unused(fakes)
    assert len(purged) == 1, "once for both"
    assert [one["id"] for one in client.get(f"{URL}/subjects").json()["items"]] == [ada]
    entries = client.get("/v1/audit").json()["items"]
    assert {(entry["actor"], entry["action"], entry["subject"]) for entry in entries} == {
        ("retention", "subject_erased", one) for one in (bea, cid)
    }
    events = client.get(f"{URL}/events", params={"subject_id": bea}).json()["items"]
    assert [event["outcome"] for event in events] == ["erased"]


@pytest.mark.parametrize("error", [OSError("the disk is full"), ValueError("damaged aliases")])
def test_who_cannot_be_erased_keeps_no_other(
    client: httpx.Client,
    fakes: FakeServices,
    ada: str,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    """The one that fails is the first of every run."""
    bea = client.post(f"{URL}/subjects", json={"name": "Bea"}).json()["id"]
    fakes.faces.repositories.policy.set(NewPolicy(retention_days=30))
    standings = fakes.faces.repositories.standings
    later = datetime.now(UTC) + timedelta(days=31)
    monkeypatch.setattr(standings, "_clock", lambda: later)
    monkeypatch.setattr(fakes.faces.repositories.deletion_clock, "now", lambda _=None: later)
    begin, (first, second) = erasure.begin, standings.unused(30, limit=9)
    assert {first, second} == {ada, bea}

    async def fail(services: Services, subject_id: str) -> Erased:
        if subject_id == first:
            raise error
        return await begin(services, subject_id)

    monkeypatch.setattr(erasure, "begin", fail)
    erase_unused(fakes)
    assert list(standings.of([first, second])) == [first]


def test_who_is_identified_counts_as_used(
    client: httpx.Client, fakes: FakeServices, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    standings = fakes.faces.repositories.standings
    later = datetime.now(UTC) + timedelta(days=31)
    monkeypatch.setattr(standings, "_clock", lambda: later)
    assert standings.unused(30, limit=9) == [ada]
    assert identify(client, BEA)["decision"] == "no_match"
    assert standings.unused(30, limit=9) == [ada]
    assert identify(client)["decision"] == "match"
    assert standings.unused(30, limit=9) == []


def test_a_clock_that_jumps_years_ahead_erases_nobody(
    client: httpx.Client, fakes: FakeServices, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.faces.repositories.policy.set(NewPolicy(retention_days=1095))
    erase_unused(fakes)
    ahead = datetime.now(UTC) + timedelta(days=4 * 365)
    for part in (fakes.faces.repositories.standings, fakes.faces.repositories.deletion_clock):
        monkeypatch.setattr(part, "_clock", lambda: ahead)
    erase_unused(fakes)
    assert fakes.faces.repositories.standings.of([ada])


def test_who_logs_in_while_others_are_erased_stays(
    client: httpx.Client, fakes: FakeServices, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bea = client.post(f"{URL}/subjects", json={"name": "Bea"}).json()["id"]
    fakes.faces.repositories.policy.set(NewPolicy(retention_days=30))
    standings = fakes.faces.repositories.standings
    later = datetime.now(UTC) + timedelta(days=31)
    monkeypatch.setattr(standings, "_clock", lambda: later)
    monkeypatch.setattr(fakes.faces.repositories.deletion_clock, "now", lambda: later)
    begin = erasure.begin

    async def slow(services: Services, subject_id: str) -> Erased:
        standings.record_match(ada if subject_id == bea else bea)
        return await begin(services, subject_id)

    monkeypatch.setattr(erasure, "begin", slow)
    erase_unused(fakes)
    assert len(standings.of([ada, bea])) == 1


@pytest.mark.parametrize(
    "sent", [{"max_failures": 0}, {"max_failures": 101}, {"retention_days": 0}, {"x": 1}]
)
def test_a_malformed_policy_is_refused(client: httpx.Client, sent: dict[str, int]) -> None:
    assert code(client.put(f"{URL}/policy", json=sent), 422) == "validation_error"
    assert Policy.model_validate(client.get(f"{URL}/policy").json()) == Policy()


def test_the_audit_says_who_set_the_threshold(client: httpx.Client) -> None:
    sent = {"similarity": 0.5, "margin": 0.25}
    client.put(f"{URL}/threshold", json=sent).raise_for_status()
    (entry,) = client.get("/v1/audit", params={"action": "face_threshold_set"}).json()["items"]
    assert (entry["actor"], entry["subject"]) == ("open", "0.5, margin 0.25 (manual)")
    assert entry["request_id"]


def test_an_export_holds_everything_and_is_audited(
    client: httpx.Client, fakes: FakeServices, ada: str
) -> None:
    client.patch(f"{URL}/subjects/{ada}", json={"consent": CONSENT, "metadata": {"team": "a"}})
    client.post(f"{URL}/subjects/{ada}/devices", json={"device_id": "phone", "public_key": PUBLIC})
    login(client, ada)
    answer = client.get(f"{URL}/subjects/{ada}/export")
    assert answer.headers["Cache-Control"] == "no-store"
    body = answer.json()
    assert body["subject"].items() >= {"name": "Ada", "metadata": {"team": "a"}}.items()
    assert body["subject"]["consent"]["version"] == "2026-01"
    assert body["subject"]["last_used_at"]
    (template,), (frame,) = body["templates"], body["frames"]
    vector = np.frombuffer(base64.b64decode(template["vector"]), "<f4")
    assert np.array_equal(vector, vector_of(ADA))
    assert template["frame_id"] == frame["id"]
    assert base64.b64decode(frame["content"]) == b"a frame"
    assert [device["device_id"] for device in body["devices"]] == ["phone"]
    assert [(event["kind"], event["outcome"]) for event in body["events"]] == [("login", "match")]
    assert client.get("/v1/audit").json()["items"][0]["action"] == "subject_exported"
    assert code(client.get(f"{URL}/subjects/sub_nobody/export"), 404) == "subject_not_found"


@pytest.mark.parametrize("fault", ["damaged", "lost"])
def test_an_export_without_what_is_damaged_says_so(
    client: httpx.Client, fakes: FakeServices, ada: str, fault: str
) -> None:
    faces = fakes.faces
    new = NewTemplate(vector_of(90), quality(), "image", StoredFrame("image/png", b"another"))
    (added,) = faces.templates.add(ada, [new], embedder=embedder_of(1))
    first, second = faces.frames.ids_of_subject(ada)
    path = faces.frames._files.root / ada / first
    if fault == "lost":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    with writing(faces.engine) as session:
        row = session.get_one(FaceTemplateRecord, added)
        row.sealed = bytes([*row.sealed[:-1], row.sealed[-1] ^ 1])
    body = client.get(f"{URL}/subjects/{ada}/export").json()
    assert [frame["id"] for frame in body["frames"]] == [second]
    assert len(body["templates"]) == 1
    assert body["unreadable"] == [added, first]


@pytest.mark.parametrize("device", [".", "..", "%2e%2E"])
def test_a_device_cannot_be_named_so_that_its_removal_erases_the_person(
    client: httpx.Client, ada: str, device: str
) -> None:
    devices = f"{URL}/subjects/{ada}/devices"
    refused = client.post(devices, json={"device_id": device, "public_key": PUBLIC})
    assert refused.status_code == 422
    assert "path" in refused.text
    kept = client.post(devices, json={"device_id": "..phone", "public_key": PUBLIC})
    assert kept.status_code == 201


def test_people_and_devices_are_not_added_to_a_nearly_full_disk_and_can_be_deleted(
    client: httpx.Client, free: Callable[[int], None], ada: str
) -> None:
    where = f"{URL}/subjects/{ada}"
    assert login(client, ada).status_code == 200
    free(127 * MIB)
    new = client.post(f"{URL}/subjects", json={"name": "Eve"})
    device = client.post(f"{where}/devices", json={"device_id": "d", "public_key": PUBLIC})
    larger = client.patch(where, json={"metadata": {"x": 12_000 * "x"}})
    assert {new.status_code, device.status_code, larger.status_code} == {503}
    assert new.json()["code"] == device.json()["code"] == "dependency_unavailable"
    assert client.patch(where, json={"consent": None}).status_code == 200
    assert login(client, ada).status_code == 200
    free(63 * MIB)
    assert client.patch(where, json={"consent": None}).status_code == 503
    assert client.get(f"{where}/export").status_code == 503
    assert login(client, ada).status_code == 503
    assert client.get(where).status_code == 200
    assert client.delete(where).status_code == 200


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets how many bytes the disk has left, noticed at once."""

    def set_free(size: int) -> None:
        monkeypatch.setattr(disk_room, "free_of", lambda *_, **__: size)

    monkeypatch.setattr(row_room, "_SECONDS", 0)
    return set_free
