"""A login by clip over HTTP: challenge, clip, decision. The worker is a fake."""

import asyncio
import base64
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import jwt
import pytest
import redis
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from jwt.algorithms import ECAlgorithm
from sqlalchemy import update

from contracts.errors import InternalError, QueueFull
from contracts.faces.subjects import NewTemplate, embedder_of
from contracts.queue import redis_keys
from contracts.settings import Settings
from database.engine import writing
from database.jobs.jobs import Jobs
from database.tables import JobRecord
from service.faces.challenges import MAX_DRAWS, MAX_PER_SUBJECT
from tests.service.face_replies import clip_of, quality, vector_of
from tests.service.parts import FakeServices, face_services_in
from tests.valkey import RealValkey

URL = "/v1/faces"
ADA, BEA = 40, 120


@pytest.fixture
def fakes(tmp_path: Path, valkey: RealValkey) -> FakeServices:
    return FakeServices(faces=face_services_in(tmp_path, redis_url=valkey.url, tables=True))


@pytest.fixture
def settings() -> Settings:
    return Settings(_env_file=None, max_video_bytes=30_000)


@pytest.fixture
def ada(client: httpx.Client, fakes: FakeServices) -> str:
    subject: str = client.post(f"{URL}/subjects", json={"name": "Ada"}).json()["id"]
    new = NewTemplate(vector_of(ADA), quality(), "video")
    fakes.faces.templates.add(subject, [new], embedder=embedder_of(1))
    return subject


def challenge(client: httpx.Client, subject: str, **more: str) -> dict[str, Any]:
    new = {"purpose": "login", "subject_id": subject, "device_id": "phone", **more}
    answer = client.post(f"{URL}/challenges", json=new)
    assert answer.status_code == 201, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    created: dict[str, Any] = answer.json()
    return created


def login(
    client: httpx.Client, subject: str, created: dict[str, Any], video: bytes, **more: str
) -> httpx.Response:
    sent = {"challenge_id": created["id"], "nonce": created["nonce"], "device_id": "phone", **more}
    return client.post(
        f"{URL}/login", data={"subject_id": subject, **sent}, files={"video": ("v.mp4", video)}
    )


def test_a_clip_that_answers_the_challenge_matches(
    client: httpx.Client, fakes: FakeServices, ada: str
) -> None:
    created = challenge(client, ada)
    assert created.keys() >= {"id", "nonce", "actions", "expires_at", "max_seconds", "min_fps"}
    answer = login(client, ada, created, clip_of(ADA))
    body = answer.json()
    assert (answer.status_code, body["decision"], body["reason"]) == (200, "match", None)
    claims = jwt.decode(body["token"], options={"verify_signature": False})
    assert claims["sub"] == ada
    assert claims["liveness"] is True
    (operation, _, note) = fakes.dispatcher.asked[-1]
    assert operation == "clip"
    assert created["id"] in note.decode()
    assert created["nonce"] not in note.decode()


def test_the_clips_of_one_person_keep_no_other_waiting(
    client: httpx.Client, fakes: FakeServices, ada: str
) -> None:
    """All users of an app have one key; in the queue, each takes turns as a client does."""
    bea = client.post(f"{URL}/subjects", json={"name": "Bea"}).json()["id"]
    for subject in (ada, bea):
        assert login(client, subject, challenge(client, subject), clip_of(ADA)).status_code == 200
    mine, theirs = fakes.dispatcher.clients
    assert mine.endswith(ada)
    assert theirs.endswith(bea)
    assert mine.removesuffix(ada) == theirs.removesuffix(bea)


def test_a_challenge_can_be_used_once_and_for_one_purpose(
    client: httpx.Client, fakes: FakeServices, ada: str
) -> None:
    used = challenge(client, ada)
    login(client, ada, used, clip_of(ADA, live=False))
    wrong = challenge(client, ada)
    for created, more in (
        (used, {}),
        (wrong, {"nonce": "another"}),
        (wrong, {}),
        (challenge(client, ada), {"device_id": "another"}),
        (challenge(client, ada, purpose="enroll"), {}),
        ({"id": "ch_never", "nonce": "x"}, {}),
    ):
        before = len(fakes.dispatcher.asked)
        answer = login(client, ada, created, clip_of(ADA), **more)
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
        assert len(fakes.dispatcher.asked) == before, "no clip was sent to a worker"


def test_who_passes_may_log_in_as_often_as_they_like(
    client: httpx.Client, valkey: RealValkey, ada: str
) -> None:
    """Actions are drawn ten times an hour for those who do not pass."""
    with redis.Redis.from_url(valkey.url) as store:
        for _ in range(MAX_DRAWS + 2):
            answer = login(client, ada, challenge(client, ada), clip_of(ADA))
            assert answer.json()["decision"] == "match"
            # As if 90 seconds had passed.
            store.delete(redis_keys.challenge_actions(ada, "login"))
            store.delete(*store.keys("challenges:*"))
        for _ in range(MAX_DRAWS):  # somebody else asks
            challenge(client, ada, device_id="tablet")
            store.delete(redis_keys.challenge_actions(ada, "login"))
            store.delete(*store.keys("challenges:*"))
        new = {"purpose": "login", "subject_id": ada, "device_id": "tablet"}
        assert client.post(f"{URL}/challenges", json=new).status_code == 429
        for _ in range(MAX_DRAWS):
            challenge(client, ada)
            store.delete(redis_keys.challenge_actions(ada, "login"))
            store.delete(*store.keys("challenges:*"))
    assert client.post(f"{URL}/challenges", json=new | {"device_id": "phone"}).status_code == 429


def test_a_repeated_enrollment_returns_the_same_job(client: httpx.Client, ada: str) -> None:
    """As if the response was lost: the challenge has been used up by the same request."""
    created = challenge(client, ada, purpose="enroll")
    sent = {"challenge_id": created["id"], "nonce": created["nonce"], "device_id": "phone"}

    def enroll(key: str) -> httpx.Response:
        return client.post(
            f"{URL}/subjects/{ada}/enrollments",
            data=sent,
            files={"video": ("v.mp4", clip_of(ADA))},
            headers={"Idempotency-Key": key},
        )

    first, again = enroll("one"), enroll("one")
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["id"] == again.json()["id"]
    assert enroll("two").status_code == 409


def test_an_enrollment_that_is_repeated_while_it_is_stored_returns_the_same_job(
    client: httpx.Client, fakes: FakeServices, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The challenge is used up, and its job is not in the database yet."""
    created = challenge(client, ada, purpose="enroll")
    sent = {"challenge_id": created["id"], "nonce": created["nonce"], "device_id": "phone"}
    is_storing, submit = Event(), fakes.jobs.submit_work

    async def slow(*arguments: Any, **options: Any) -> Any:
        is_storing.set()
        await asyncio.sleep(0.5)
        return await submit(*arguments, **options)

    monkeypatch.setattr(fakes.jobs, "submit_work", slow)

    def enroll() -> httpx.Response:
        files, headers = {"video": ("v.mp4", clip_of(ADA))}, {"Idempotency-Key": "one"}
        url = f"{URL}/subjects/{ada}/enrollments"
        return client.post(url, data=sent, files=files, headers=headers)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(enroll)
        assert is_storing.wait(10)
        again = enroll()
    assert (first.result().status_code, again.status_code) == (202, 202)
    assert first.result().json()["id"] == again.json()["id"]


def test_an_enrollment_that_failed_through_our_fault_may_be_sent_again(
    client: httpx.Client, fakes: FakeServices, ada: str
) -> None:
    created = challenge(client, ada, purpose="enroll")
    sent = {"challenge_id": created["id"], "nonce": created["nonce"], "device_id": "phone"}
    table = Jobs(fakes.faces.engine, lambda: datetime.now(UTC))

    def enroll() -> int:
        files = {"video": ("v.mp4", clip_of(ADA))}
        return client.post(f"{URL}/subjects/{ada}/enrollments", data=sent, files=files).status_code

    def fail(code: str) -> None:
        """What a worker does, with the request of the last job."""
        (_, request, _) = fakes.jobs.worked[-1]
        job = table.create("enrollment", request, limit=9).job
        with writing(fakes.faces.engine) as session:
            failed = update(JobRecord).where(JobRecord.id == job.id)
            session.execute(failed.values(state="failed", error_code=code))

    assert enroll() == 202
    assert enroll() == 409
    fail("internal_error")
    assert enroll() == 202
    time.sleep(0.002)
    (_, request, _) = fakes.jobs.worked[-1]
    table.create("enrollment", request, limit=9)
    assert enroll() == 409  # that one has not failed
    time.sleep(0.002)  # jobs are ordered by their times
    fail("invalid_video")
    assert enroll() == 409


def test_a_failed_clip_gives_only_the_reason(client: httpx.Client, ada: str) -> None:
    body = login(client, ada, challenge(client, ada), clip_of(ADA, live=False)).json()
    assert (body["decision"], body["reason"], body["token"]) == ("no_match", "wrong_order", None)
    body = login(client, ada, challenge(client, ada), clip_of(BEA)).json()
    assert (body["decision"], body["reason"]) == ("no_match", "not_similar")
    body = login(client, ada, challenge(client, ada), clip_of(ADA, clear=False)).json()
    assert (body["decision"], body["reason"]) == ("uncertain", "low_quality_face")


def test_a_clip_that_no_worker_could_judge_does_not_use_up_the_challenge(
    client: httpx.Client, fakes: FakeServices, ada: str
) -> None:
    created = challenge(client, ada)
    fakes.dispatcher.fails = QueueFull("The queue is full.", retry_after=1)
    assert login(client, ada, created, clip_of(ADA)).status_code == 429
    fakes.dispatcher.fails = None
    fakes.dispatcher.answers = [InternalError("The worker failed.")]
    assert login(client, ada, created, clip_of(ADA)).status_code == 500
    fakes.dispatcher.answers = []
    assert login(client, ada, created, clip_of(ADA)).json()["decision"] == "match"
    assert login(client, ada, created, clip_of(ADA)).status_code == 409


@pytest.mark.parametrize("signed", [False, True])
def test_a_clip_that_was_not_judged_in_time_does_not_use_up_the_challenge(
    client: httpx.Client, fakes: FakeServices, ada: str, *, signed: bool
) -> None:
    """The deadline cancels the request, wherever it waits at that moment."""
    more, created = {}, challenge(client, ada)
    if signed:
        key = generate_private_key(SECP256R1())
        public = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        device = {"device_id": "phone", "public_key": public}
        client.post(f"{URL}/subjects/{ada}/devices", json=device).raise_for_status()
        signature = key.sign(created["nonce"].encode(), ECDSA(SHA256()))
        more = {"signature": base64.urlsafe_b64encode(signature).decode()}
    fakes.dispatcher.delay = 60
    client.headers["X-Timeout-Ms"] = "2000"
    answer = login(client, ada, created, clip_of(ADA), **more)
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
    assert fakes.dispatcher.cancelled == 1
    fakes.dispatcher.delay = 0
    del client.headers["X-Timeout-Ms"]
    assert login(client, ada, created, clip_of(ADA), **more).json()["decision"] == "match"
    assert login(client, ada, created, clip_of(ADA), **more).status_code == 409


def test_malformed_answers_are_refused(client: httpx.Client, fakes: FakeServices, ada: str) -> None:
    created = challenge(client, ada)
    answer = login(client, ada, created, b"#EXTM3U\nfile:///etc/passwd")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_video")
    # The challenge is used up nevertheless.
    assert login(client, ada, created, clip_of(ADA)).status_code == 409
    files = {"video": ("v", clip_of(ADA))}
    bare = client.post(f"{URL}/login", data={"subject_id": ada}, files=files)
    assert (bare.status_code, bare.json()["code"]) == (422, "validation_error")
    large = login(client, ada, challenge(client, ada), bytes(30_001))
    assert large.status_code == 413
    assert not fakes.dispatcher.asked


def test_challenges_need_a_subject_and_are_limited(client: httpx.Client, ada: str) -> None:
    gone = client.post(f"{URL}/challenges", json={"purpose": "login", "subject_id": "sub_gone"})
    assert (gone.status_code, gone.json()["code"]) == (404, "subject_not_found")
    for wrong in ({}, {"purpose": "party", "subject_id": ada}, {"subject_id": ada, "extra": 1}):
        assert client.post(f"{URL}/challenges", json=wrong).status_code == 422
    for _ in range(MAX_PER_SUBJECT):
        challenge(client, ada)
    new = {"purpose": "login", "subject_id": ada}
    answer = client.post(f"{URL}/challenges", json=new)
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
    assert int(answer.headers["Retry-After"]) > 0


def test_an_erasure_deletes_the_hashes_of_clips(
    client: httpx.Client, valkey: RealValkey, ada: str
) -> None:
    with redis.Redis.from_url(valkey.url) as store:
        store.lpush(redis_keys.recent_clips(ada), b"hashes")
        assert client.delete(f"{URL}/subjects/{ada}").status_code == 200
        assert not store.exists(redis_keys.recent_clips(ada))
