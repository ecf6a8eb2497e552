"""`/v1/faces` over HTTP: detection, comparison, identification, login, lockout, erasure.

The worker is a fake that recognizes people by brightness; database, search, keys and Redis are
real.
"""

import http.client
import io
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NoReturn

import httpx
import jwt
import pytest
import redis
from PIL import Image

from contracts.errors import NoWorker, QueueFull, VersionNotFound
from contracts.faces.faces import FACE_MODEL
from contracts.faces.subjects import MAX_TEMPLATES, NewTemplate, embedder_of
from contracts.settings import Settings
from database.crypto.envelope import DecryptionError
from tests.service.face_replies import CROWD, NARROW, NO_FACE, clip_of, quality, vector_of
from tests.service.parts import FakeServices, face_services_in, gray_png
from tests.valkey import RealValkey

URL = "/v1/faces"
ADA, BEA = 40, 120
NET = embedder_of(1)


@pytest.fixture
def fakes(tmp_path: Path, valkey: RealValkey) -> FakeServices:
    return FakeServices(faces=face_services_in(tmp_path, redis_url=valkey.url, tables=True))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        _env_file=None, home=tmp_path, max_images=4, max_image_bytes=20_000, max_video_bytes=30_000
    )


def add(client: httpx.Client, fakes: FakeServices, name: str, level: float | None) -> str:
    subject_id: str = client.post(f"{URL}/subjects", json={"name": name}).json()["id"]
    if level is not None:
        new = NewTemplate(vector_of(level), quality(), "image")
        fakes.faces.templates.add(subject_id, [new], embedder=NET)
    return subject_id


def image(level: int, name: str = "image") -> tuple[str, tuple[str, bytes]]:
    return name, ("a.png", gray_png(level))


def login(client: httpx.Client, subject_id: str, level: int, **more: str) -> httpx.Response:
    fields = {"subject_id": subject_id, "device_id": "phone", **more}
    return client.post(f"{URL}/login", data=fields, files=[image(level)])


def code(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["code"])


class TestDetect:
    def test_boxes_are_in_pixels_of_the_image(self, client: httpx.Client) -> None:
        big = gray_png(ADA, width=2600, height=1300)
        answer = client.post(f"{URL}/detect", content=big, headers={"Content-Type": "image/png"})
        body = answer.json()
        assert (body["width"], body["height"], body["total"]) == (2600, 1300, 1)
        (face,) = body["faces"]
        assert face["box"] == {"x": 650.0, "y": 325.0, "width": 1300.0, "height": 650.0}
        assert face["landmarks"]["nose"] == {"x": 1300.0, "y": 650.0}

    def test_a_rotated_image_is_analyzed_upright(self, client: httpx.Client) -> None:
        exif = Image.Exif()
        exif[274] = 6
        buffer = io.BytesIO()
        Image.new("RGB", (60, 40), (ADA, ADA, ADA)).save(buffer, "JPEG", exif=exif)
        body = client.post(f"{URL}/detect", files={"image": buffer.getvalue()}).json()
        assert (body["width"], body["height"]) == (40, 60)
        assert body["faces"][0]["box"]["height"] == 30

    def test_no_face_is_a_result_and_several_images_are_an_error(
        self, client: httpx.Client
    ) -> None:
        none = client.post(f"{URL}/detect", files=[image(NO_FACE)])
        assert (none.status_code, none.json()["faces"]) == (200, [])
        two = client.post(f"{URL}/detect", files=[image(ADA), image(BEA)])
        assert code(two, 422) == "validation_error"
        junk = client.post(f"{URL}/detect", files={"image": b"junk"})
        assert code(junk, 422) == "invalid_image"
        crowd = client.post(f"{URL}/detect?limit=1", files=[image(CROWD)]).json()
        assert (len(crowd["faces"]), crowd["total"]) == (1, 2)

    def test_as_a_job_that_a_repeated_key_makes_once(
        self, client: httpx.Client, fakes: FakeServices
    ) -> None:
        headers = {"Prefer": "respond-async", "Idempotency-Key": "k"}
        photo = gray_png(ADA)
        fakes.dispatcher.fails = NoWorker("A job waits for one.")

        def send(content: bytes) -> httpx.Response:
            return client.post(f"{URL}/detect?limit=3", content=content, headers=headers)

        first, again = send(photo), send(photo)
        assert (first.status_code, first.json()["kind"]) == (202, "face_detection")
        assert first.headers["Preference-Applied"] == "respond-async"
        assert first.headers["Location"] == f"/v1/jobs/{first.json()['id']}"
        assert again.json()["id"] == first.json()["id"]
        assert fakes.jobs.worked == [("face_detection", {"limit": 3}, {"image": photo})]
        assert code(send(gray_png(BEA)), 409) == "idempotency_conflict"
        assert code(send(b"junk"), 422) == "invalid_image"

    def test_without_a_worker_it_is_unavailable(
        self, client: httpx.Client, fakes: FakeServices
    ) -> None:
        fakes.dispatcher.fails = NoWorker("None.")
        assert code(client.post(f"{URL}/detect", files=[image(ADA)]), 503) == "no_worker"

    def test_without_a_champion_the_error_says_what_to_do(
        self, client: httpx.Client, fakes: FakeServices, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def choose(*_: object) -> NoReturn:
            raise VersionNotFound("'face_embedder' has no version 'champion'.")

        monkeypatch.setattr(fakes.workers, "choose", choose)
        for way in ("detect", "identify"):
            answer = client.post(f"{URL}/{way}", files=[image(ADA)])
            assert code(answer, 503) == "model_not_ready"
            assert "opsin models promote face_embedder" in answer.json()["detail"]


class TestSubjects:
    def test_a_subject_is_added_read_changed_and_erased(
        self, client: httpx.Client, fakes: FakeServices
    ) -> None:
        new = {"name": "Ada", "external_id": "u1", "metadata": {"a": [1, "ü"]}}
        answer = client.post(f"{URL}/subjects", json=new)
        assert answer.status_code == 201
        created = answer.json()
        where = answer.headers["Location"]
        assert where == f"{URL}/subjects/{created['id']}"
        fakes.faces.templates.add(
            created["id"],
            [NewTemplate(vector_of(1), quality(), "image")],
            embedder="face_embedder:0",
        )
        found = client.get(where).json()
        assert found["templates"] == {"current": 0, "stale": 1}
        changed = client.patch(where, json={"name": "Ada L.", "external_id": None}).json()
        assert (changed["name"], changed["external_id"]) == ("Ada L.", None)
        assert changed["metadata"] == new["metadata"]
        listed = client.get(f"{URL}/subjects").json()
        assert [one["name"] for one in listed["items"]] == ["Ada L."]
        gone = client.delete(where)
        assert gone.json() == {"erased": {"templates": 1, "files": 0, "models": []}}
        assert code(client.get(where), 404) == "subject_not_found"
        assert code(client.delete(where), 404) == "subject_not_found"

    def test_an_external_id_and_a_key_are_unique(self, client: httpx.Client) -> None:
        new, key = {"name": "Ada", "external_id": "u1"}, {"Idempotency-Key": "k1"}
        first = client.post(f"{URL}/subjects", json=new, headers=key)
        again = client.post(f"{URL}/subjects", json=new, headers=key)
        assert (again.status_code, again.json()) == (201, first.json())
        assert code(client.post(f"{URL}/subjects", json=new), 409) == "subject_exists"
        other = client.post(f"{URL}/subjects", json={"name": "B"}, headers=key)
        assert code(other, 409) == "idempotency_conflict"
        found = client.get(f"{URL}/subjects", params={"external_id": "u1"}).json()
        assert [one["id"] for one in found["items"]] == [first.json()["id"]]

    def test_an_external_id_is_the_same_in_any_spelling(self, client: httpx.Client) -> None:
        client.post(f"{URL}/subjects", json={"name": "Zoë", "external_id": "Zoe\u0308"})
        other = {"name": "Z", "external_id": "Zoë"}
        assert code(client.post(f"{URL}/subjects", json=other), 409) == "subject_exists"
        for sent in ("Zoe\u0308", "Zoë"):
            found = client.get(f"{URL}/subjects", params={"external_id": sent}).json()["items"]
            assert [one["name"] for one in found] == ["Zoë"], sent

    @pytest.mark.parametrize(
        "sent",
        [
            "{}",
            '{"name": ""}',
            '{"name": " Ada"}',
            '{"name": "a\\u0000b"}',
            '{"name": "Ada", "nam": 1}',
            '{"name": "Ada", "metadata": {"x": "\\ud800"}}',
            '{"name": "Ada", "metadata": {"x": NaN}}',
            '{"name": "Ada", "metadata": {"x": "' + "y" * 20_000 + '"}}',
            '{"name": "Ada", "metadata": {"x": ' + "[" * 32 + "]" * 32 + "}}",
            '{"name": "Ada", "metadata": {"x": ' + "[" * 300 + "]" * 300 + "}}",
            '{"name": "Ada", "metadata": {"x": ' + '{"y": ' * 300 + "1" + "}" * 300 + "}}",
        ],
    )
    def test_malformed_subjects_are_refused(self, client: httpx.Client, sent: str) -> None:
        kind = {"Content-Type": "application/json"}
        answer = client.post(f"{URL}/subjects", content=sent, headers=kind)
        assert code(answer, 422) == "validation_error"

    def test_metadata_nested_up_to_the_limit_is_returned(
        self, client: httpx.Client, fakes: FakeServices
    ) -> None:
        where = f"{URL}/subjects/{add(client, fakes, 'Ada', None)}"
        deep = json.loads('{"x": ' + "[" * 31 + "]" * 31 + "}")
        assert client.patch(where, json={"metadata": deep}).json()["metadata"] == deep
        too_deep = {"metadata": {"x": deep}}
        assert code(client.patch(where, json=too_deep), 422) == "validation_error"
        assert client.get(where).json()["metadata"] == deep

    def test_an_empty_change_is_refused(self, client: httpx.Client, fakes: FakeServices) -> None:
        where = f"{URL}/subjects/{add(client, fakes, 'Ada', None)}"
        assert code(client.patch(where, json={}), 422) == "validation_error"
        assert code(client.get(f"{URL}/subjects/nonsense"), 422) == "validation_error"


class TestLogin:
    def test_a_match_returns_a_token_and_no_score(
        self, client: httpx.Client, fakes: FakeServices
    ) -> None:
        ada = add(client, fakes, "Ada", ADA)
        answer = login(client, ada, ADA + 2)
        body = answer.json()
        assert (body["decision"], body["reason"]) == ("match", None)
        keys = jwt.PyJWKSet.from_dict(client.get("/.well-known/jwks.json").json())
        claims = jwt.decode(
            body["token"], keys.keys[0], ["EdDSA"], audience="opsin", issuer="opsin"
        )
        assert claims["sub"] == ada
        assert "liveness" not in claims
        assert set(body) == {"decision", "reason", "quality_reasons", "token", "expires_at"}
        assert "0.9" not in answer.text.replace(body["token"], "")

    @pytest.mark.parametrize(
        ("level", "decision", "reason"),
        [
            (BEA, "no_match", "not_similar"),
            (ADA + 22, "uncertain", "near_threshold"),  # cosine of 19.8 degrees: 0.941
        ],
    )
    def test_other_faces_do_not_match(
        self, client: httpx.Client, fakes: FakeServices, level: int, decision: str, reason: str
    ) -> None:
        ada = add(client, fakes, "Ada", ADA)
        body = login(client, ada, level).json()
        assert (body["decision"], body["reason"], body["token"]) == (decision, reason, None)

    def test_a_similar_subject_makes_it_uncertain(
        self, client: httpx.Client, fakes: FakeServices
    ) -> None:
        ada = add(client, fakes, "Ada", ADA)
        add(client, fakes, "Twin", ADA + 4)
        body = login(client, ada, ADA + 2).json()
        assert (body["decision"], body["reason"]) == ("uncertain", "another_subject")

    def test_a_poor_image_is_uncertain_with_reasons(
        self, client: httpx.Client, fakes: FakeServices
    ) -> None:
        ada = add(client, fakes, "Ada", ADA)
        files = {"image": gray_png(ADA, width=NARROW)}
        for _ in range(6):  # and never causes a lockout
            body = client.post(f"{URL}/login", data={"subject_id": ada}, files=files).json()
        assert (body["decision"], body["reason"]) == ("uncertain", "low_quality_face")
        assert body["quality_reasons"] == ["blurred", "too_small"]

    @pytest.mark.parametrize(("level", "expected"), [(NO_FACE, "no_face"), (CROWD, "many_faces")])
    def test_a_login_needs_exactly_one_face(
        self, client: httpx.Client, fakes: FakeServices, level: int, expected: str
    ) -> None:
        ada = add(client, fakes, "Ada", ADA)
        assert code(login(client, ada, level), 422) == expected

    def test_subjects_without_templates_or_without_a_record(
        self, client: httpx.Client, fakes: FakeServices
    ) -> None:
        body = login(client, add(client, fakes, "Ada", None), ADA).json()
        assert (body["decision"], body["reason"]) == ("no_match", "not_enrolled")
        for subject_id in ("sub_nobody", "../etc"):
            assert code(login(client, subject_id, ADA), 404) == "subject_not_found"

    def test_after_five_failures_the_right_face_is_locked_out_too(
        self, client: httpx.Client, fakes: FakeServices
    ) -> None:
        ada, bea = add(client, fakes, "Ada", ADA), add(client, fakes, "Bea", BEA)
        for _ in range(5):
            assert login(client, ada, BEA).json()["decision"] == "no_match"
        for subject_id, level in ((ada, ADA), (bea, BEA)):
            answer = login(client, subject_id, level)
            assert code(answer, 429) == "locked_out"
            assert 1700 < int(answer.headers["Retry-After"]) <= 1800
        for subject_id, level in ((ada, ADA), (bea, BEA)):
            answer = login(client, subject_id, level, device_id="other")
            assert answer.json()["decision"] == "match"

    @pytest.mark.parametrize(
        ("fields", "files"),
        [
            ({}, {"image": b"x"}),
            ({"subject_id": "ada"}, {}),
            ({"subject_id": "ada"}, {"image": b""}),
            ({"subject_id": "ada"}, {"image": b"x", "video": b"y"}),
            ({"subject_id": "ada", "score": "1"}, {"image": b"x"}),
            ({"subject_id": ["ada", "ada"]}, {"image": b"x"}),
        ],
    )
    def test_malformed_forms_are_refused(
        self,
        client: httpx.Client,
        fakes: FakeServices,
        fields: dict[str, Any],
        files: dict[str, bytes],
    ) -> None:
        ada = add(client, fakes, "Ada", ADA)
        fields = {
            name: [ada for _ in values] if isinstance(values, list) else values.replace("ada", ada)
            for name, values in fields.items()
        }
        sent = [(name, ("f", data)) for name, data in files.items()] or [("nonce", (None, "n"))]
        answer = client.post(f"{URL}/login", data=fields, files=sent)
        assert code(answer, 422) == "validation_error"

    def test_a_part_over_its_limit_is_refused(
        self, client: httpx.Client, fakes: FakeServices
    ) -> None:
        ada = add(client, fakes, "Ada", ADA)
        answer = client.post(
            f"{URL}/login", data={"subject_id": ada}, files={"image": bytes(20_001)}
        )
        assert code(answer, 413) == "payload_too_large"
        assert code(client.post(f"{URL}/login", json={}), 415) == "unsupported_media_type"

    def test_the_audit_log_has_the_decisions(
        self, client: httpx.Client, fakes: FakeServices
    ) -> None:
        ada = add(client, fakes, "Ada", ADA)
        login(client, ada, ADA)
        login(client, ada, BEA)
        login(client, ada, NO_FACE)
        events = client.get(f"{URL}/events", params={"subject_id": ada}).json()["items"]
        outcomes = [(event["outcome"], event["reason"]) for event in events]
        assert outcomes == [("no_face", None), ("no_match", "not_similar"), ("match", None)]
        assert len({one["device"] for one in events}) == 1
        assert len({one["digest"] for one in events}) == 3


@pytest.mark.parametrize("route", ["login", "verify"])
def test_an_unknown_subject_is_refused_before_the_image_is_sent(
    client: httpx.Client, route: str
) -> None:
    begun = (
        b'--b\r\nContent-Disposition: form-data; name="subject_id"\r\n\r\nsub_nobody\r\n'
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    )
    url = client.base_url
    line = http.client.HTTPConnection(url.host, url.port or 80, timeout=60)
    line.putrequest("POST", f"{URL}/{route}")
    line.putheader("Content-Type", "multipart/form-data; boundary=b")
    line.putheader("Content-Length", "15000")
    line.endheaders(begun)
    answer = line.getresponse()  # the rest is never sent
    assert answer.status == 404
    assert json.loads(answer.read())["code"] == "subject_not_found"
    line.close()


@pytest.mark.parametrize("route", ["detect", "verify", "identify"])
def test_a_full_queue_is_reported_before_the_image_is_read(
    client: httpx.Client, fakes: FakeServices, route: str
) -> None:
    fakes.dispatcher.full = QueueFull("The queue is full.", retry_after=1)
    answer = client.post(f"{URL}/{route}", content=b"junk", headers={"Content-Type": "text/plain"})
    assert code(answer, 429) == "queue_full"


class TestCompare:
    def test_two_images_or_an_image_and_a_subject(
        self, client: httpx.Client, fakes: FakeServices
    ) -> None:
        ada = add(client, fakes, "Ada", ADA)
        same = client.post(f"{URL}/verify", files=[image(ADA), image(ADA + 5)]).json()
        assert (same["match"], same["decision"]) == (True, "match")
        assert same["similarity"] == pytest.approx(0.9969, abs=1e-4)
        other = client.post(f"{URL}/verify", files=[image(BEA)], data={"subject_id": ada}).json()
        assert (other["match"], other["reason"]) == (False, "not_similar")

    def test_impossible_comparisons_are_refused(
        self, client: httpx.Client, fakes: FakeServices
    ) -> None:
        unknown = add(client, fakes, "Ada", None)
        one, verify = [image(ADA)], f"{URL}/verify"
        assert code(client.post(verify, files=one), 422) == "validation_error"
        answer = client.post(verify, files=one, data={"subject_id": unknown})
        assert "Enroll" in answer.json()["detail"]
        answer = client.post(verify, files=one, data={"subject_id": "sub_nobody"})
        assert code(answer, 404) == "subject_not_found"
        assert code(client.post(verify, files=[*one, image(NO_FACE)]), 422) == "no_face"
        blurred = ("image", ("b.png", gray_png(ADA, width=NARROW)))
        answer = client.post(verify, files=[*one, blurred])
        assert code(answer, 422) == "low_quality_face"
        assert "blurred (hold still)" in answer.json()["detail"]

    def test_a_stranger_has_no_candidates(self, client: httpx.Client, fakes: FakeServices) -> None:
        ada = add(client, fakes, "Ada", ADA)
        (face,) = client.post(f"{URL}/identify", files=[image(ADA + 1)]).json()["faces"]
        assert face["decision"] == "match"
        (candidate,) = face["candidates"]
        assert (candidate["subject_id"], candidate["name"]) == (ada, "Ada")
        (face,) = client.post(f"{URL}/identify", files=[image(BEA)]).json()["faces"]
        assert (face["decision"], face["candidates"]) == ("no_match", [])
        client.delete(f"{URL}/subjects/{ada}")
        (face,) = client.post(f"{URL}/identify", files=[image(ADA)]).json()["faces"]
        assert face["candidates"] == []

    def test_two_similar_subjects_are_uncertain(
        self, client: httpx.Client, fakes: FakeServices
    ) -> None:
        add(client, fakes, "Ada", ADA), add(client, fakes, "Twin", ADA + 3)
        (face,) = client.post(f"{URL}/identify?limit=1", files=[image(ADA)]).json()["faces"]
        assert (face["decision"], face["reason"]) == ("uncertain", "another_subject")
        assert [one["name"] for one in face["candidates"]] == ["Ada"]

    def test_the_current_threshold_decides(self, client: httpx.Client) -> None:
        assert client.get(f"{URL}/threshold").json()["source"] == "default"
        pair = [image(ADA), image(ADA + 20)]
        assert client.post(f"{URL}/verify", files=pair).json()["match"] is True
        put = client.put(f"{URL}/threshold", json={"similarity": 0.99, "measured_on": "a test"})
        assert (put.status_code, put.json()["embedder"]) == (200, NET)
        assert client.post(f"{URL}/verify", files=pair).json()["match"] is False
        assert code(client.put(f"{URL}/threshold", json={"similarity": 7}), 422)
        event = client.get(f"{URL}/events").json()["items"][1]
        assert (event["kind"], event["outcome"]) == ("threshold", "0.99")


class TestEnrollment:
    def test_images_or_a_video_become_a_job(
        self, client: httpx.Client, fakes: FakeServices
    ) -> None:
        ada = add(client, fakes, "Ada", None)
        where = f"{URL}/subjects/{ada}/enrollments"
        answer = client.post(where, files=[image(ADA), image(BEA)])
        assert answer.status_code == 202, answer.text
        assert answer.headers["Location"].startswith("/v1/jobs/job_")
        assert client.post(where, files={"video": clip_of(ADA)}).status_code == 202
        (_, images, inputs), (kind, video, clip) = fakes.jobs.worked
        assert (kind, images) == (
            "enrollment",
            {"subject_id": ada, "images": 2, "challenge": None},
        )
        assert inputs == {"image-00": gray_png(ADA), "image-01": gray_png(BEA)}
        assert (video["images"], clip) == (0, {"video": clip_of(ADA)})

    def test_without_room_the_images_are_not_read(
        self, client: httpx.Client, fakes: FakeServices
    ) -> None:
        where = f"{URL}/subjects/{add(client, fakes, 'Ada', None)}/enrollments"
        malformed = {
            "content": b"-",
            "headers": {"Content-Type": "multipart/form-data; boundary=x"},
        }
        assert code(client.post(where, **malformed), 400) == "bad_request"
        fakes.jobs.is_full = True
        assert code(client.post(where, **malformed), 429) == "queue_full"

    def test_a_repeated_key_returns_the_same_job(
        self, client: httpx.Client, fakes: FakeServices
    ) -> None:
        where = f"{URL}/subjects/{add(client, fakes, 'Ada', None)}/enrollments"
        key = {"Idempotency-Key": "k"}
        first = client.post(where, files=[image(ADA)], headers=key).json()
        assert client.post(where, files=[image(ADA)], headers=key).json() == first
        other = client.post(where, files=[image(BEA)], headers=key)
        assert code(other, 409) == "idempotency_conflict"

    @pytest.mark.parametrize("missing", ["face_embedder", "face_finder"])
    def test_without_a_model_or_its_weights_no_job_is_created(
        self,
        client: httpx.Client,
        fakes: FakeServices,
        monkeypatch: pytest.MonkeyPatch,
        missing: str,
    ) -> None:
        def choose(*_: object) -> NoReturn:
            raise NoWorker("None.")

        monkeypatch.setattr(fakes.workers, "choose", choose)
        champions = {} if missing == "face_embedder" else {"champion": 1}
        monkeypatch.setattr(fakes.store, "aliases", lambda _: champions)
        where = f"{URL}/subjects/{add(client, fakes, 'Ada', None)}/enrollments"
        for refused in (
            client.post(where, files=[image(ADA)]),
            client.post(f"{URL}/calibrations", json={"dataset_id": "ds_1"}),
        ):
            assert code(refused, 503) == "model_not_ready"
            assert missing in refused.json()["detail"]
        deferred = {"Prefer": "respond-async"}
        finding = client.post(f"{URL}/detect", files=[image(ADA)], headers=deferred)
        assert code(finding, 503) == "model_not_ready", "it needs no embedder"
        assert "face_finder" in finding.json()["detail"]
        assert not fakes.jobs.worked

    def test_why_the_embedder_cannot_be_imported_is_told(
        self, client: httpx.Client, fakes: FakeServices, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def choose(*_: object) -> NoReturn:
            raise NoWorker("None.")

        reason = "Run `opsin weights pull face_finder`."
        missing = fakes.workers.models()[0].model_copy(
            update={"name": FACE_MODEL, "state": "unavailable", "reason": reason}
        )
        monkeypatch.setattr(fakes.workers, "choose", choose)
        monkeypatch.setattr(fakes.workers, "model", lambda _: missing)
        monkeypatch.setattr(fakes.store, "aliases", lambda _: {})
        where = f"{URL}/subjects/{add(client, fakes, 'Ada', None)}/enrollments"
        refused = client.post(where, files=[image(ADA)])
        assert code(refused, 503) == "model_not_ready"
        assert reason in refused.json()["detail"]

    def test_what_the_job_would_find_out_is_found_out_before(
        self, client: httpx.Client, fakes: FakeServices, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        subject = add(client, fakes, "Ada", None)
        where = f"{URL}/subjects/{subject}/enrollments"
        junk = client.post(where, files={"video": b"not a video"})
        assert code(junk, 422) == "invalid_video"
        new = [NewTemplate(vector_of(ADA), quality(), "image")] * MAX_TEMPLATES
        fakes.faces.templates.add(subject, new, embedder=NET)
        assert code(client.post(where, files=[image(ADA)]), 409) == "conflict"

        def decrypt(*_: object) -> NoReturn:
            raise DecryptionError("the key is missing")

        monkeypatch.setattr(fakes.faces.repositories.cipher, "decrypt_data_key", decrypt)
        assert code(client.post(where, files=[image(ADA)]), 503) == "dependency_unavailable"
        assert not fakes.jobs.worked

    def test_impossible_enrollments_are_refused(
        self, client: httpx.Client, fakes: FakeServices
    ) -> None:
        where = f"{URL}/subjects/{add(client, fakes, 'Ada', None)}/enrollments"
        missing = client.post(f"{URL}/subjects/sub_nobody/enrollments", files=[image(ADA)])
        assert code(missing, 404) == "subject_not_found"
        both = client.post(where, files=[image(ADA), ("video", ("v", b"v"))])
        assert code(both, 422) == "validation_error"
        large = client.post(where, files={"video": bytes(30_001)})
        assert code(large, 413) == "payload_too_large"
        many = client.post(where, files=[image(ADA)] * 5)
        assert code(many, 422) == "validation_error"
        half = client.post(where, files={"video": b"v"}, data={"nonce": "n"})
        assert code(half, 422) == "validation_error"
        wrong = client.post(
            where, files={"video": b"v"}, data={"nonce": "n", "challenge_id": "ch_no"}
        )
        assert code(wrong, 409) == "conflict"
        assert fakes.jobs.worked == []


def test_an_erased_subject_is_deleted_from_redis_and_its_log(
    client: httpx.Client, fakes: FakeServices, valkey: RealValkey
) -> None:
    ada = add(client, fakes, "Ada", ADA)
    for _ in range(5):
        login(client, ada, BEA)
    with redis.Redis.from_url(valkey.url) as seen:
        seen.lpush("replies:x", vector_of(ADA).tobytes())  # as if a worker had answered
        seen.delete("replies:x")
        assert ada.encode() in valkey.log_content()
        client.delete(f"{URL}/subjects/{ada}")
        assert not list(seen.scan_iter(f"*{ada}*"))
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            left = valkey.log_content()
            if ada.encode() not in left and vector_of(ADA).tobytes() not in left:
                break
            time.sleep(0.05)
    assert ada.encode() not in left
    assert vector_of(ADA).tobytes() not in left


def test_every_face_url_needs_the_key_except_the_public_keys(
    served: Callable[[Settings, FakeServices], AbstractContextManager[str]], fakes: FakeServices
) -> None:
    settings = Settings(_env_file=None, api_key="0123456789abcdef")
    with served(settings, fakes) as url:
        assert httpx.get(f"{url}{URL}/subjects").status_code == 401
        assert httpx.get(f"{url}{URL}/policy").status_code == 401
        assert httpx.get(f"{url}/.well-known/jwks.json").status_code == 200
