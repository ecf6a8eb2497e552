"""Logins, comparisons and searches under the same locks, over HTTP."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from contracts.settings import Settings
from service.faces.locks.lockout import UNUSABLE_ATTEMPTS
from tests.service.face_replies import NO_FACE
from tests.service.faces.routes.test_faces import ADA, BEA, URL, add, code, image, login
from tests.service.parts import FakeServices, face_services_in
from tests.valkey import RealValkey

Served = Callable[[Settings, FakeServices], AbstractContextManager[str]]


@pytest.fixture
def fakes(tmp_path: Path, valkey: RealValkey) -> FakeServices:
    return FakeServices(faces=face_services_in(tmp_path, redis_url=valkey.url, tables=True))


@pytest.fixture
def settings() -> Settings:
    return Settings(_env_file=None, max_image_bytes=20_000)


def test_a_new_device_id_each_time_is_locked_out_as_well(
    client: httpx.Client, fakes: FakeServices
) -> None:
    people = [add(client, fakes, name, ADA) for name in ("Ada", "Twin", "Third")]
    answers = [
        login(client, people[number % 3], BEA, device_id=f"device-{number}") for number in range(12)
    ]
    assert [answer.status_code for answer in answers] == [200] * 10 + [429] * 2
    assert code(answers[-1], 429) == "locked_out"


def test_a_comparison_with_a_subject_is_under_the_same_locks(
    client: httpx.Client, fakes: FakeServices
) -> None:
    ada = add(client, fakes, "Ada", ADA)

    def verify(level: int) -> httpx.Response:
        fields = {"subject_id": ada, "device_id": "phone"}
        return client.post(f"{URL}/verify", data=fields, files=[image(level)])

    assert verify(ADA).json()["match"]
    for _ in range(2):
        assert not verify(BEA).json()["match"]
    for _ in range(3):
        assert login(client, ada, BEA).json()["decision"] == "no_match"
    answer = verify(ADA)
    assert code(answer, 429) == "locked_out"
    assert "similarity" not in answer.text
    events = client.get(f"{URL}/events", params={"subject_id": ada}).json()["items"]
    assert (events[0]["kind"], events[0]["outcome"]) == ("verify", "locked_out")
    assert code(login(client, ada, ADA), 429) == "locked_out"
    nameless = client.post(f"{URL}/verify", data={"subject_id": ada}, files=[image(ADA)])
    assert code(nameless, 429) == "locked_out"


def test_images_without_a_face_lock_their_address_out(
    client: httpx.Client, fakes: FakeServices
) -> None:
    ada = add(client, fakes, "Ada", ADA)
    for number in range(UNUSABLE_ATTEMPTS):
        answer = login(client, ada, NO_FACE, device_id=f"device-{number}")
        assert code(answer, 422) == "no_face"
    assert code(login(client, ada, ADA), 429) == "locked_out"


def test_who_is_locked_out_identifies_nobody(client: httpx.Client, fakes: FakeServices) -> None:
    ada = add(client, fakes, "Ada", ADA)
    for _ in range(5):
        client.post(f"{URL}/login", data={"subject_id": ada}, files=[image(BEA)])
    assert code(client.post(f"{URL}/identify", files=[image(ADA)]), 429) == "locked_out"
    newest = client.get(f"{URL}/events").json()["items"][0]
    assert (newest["kind"], newest["outcome"]) == ("identify", "locked_out")


def test_another_address_is_not_locked_out_by_the_device_id_of_a_victim(
    served: Served, settings: Settings, fakes: FakeServices
) -> None:
    with served(settings, fakes) as url:
        thief, victim = (
            httpx.Client(
                base_url=url, timeout=60, transport=httpx.HTTPTransport(local_address=address)
            )
            for address in ("127.0.0.3", "127.0.0.1")
        )
        with thief, victim:
            ada = add(victim, fakes, "Ada", ADA)
            for device in ("127.0.0.1", "phone"):
                for _ in range(5):
                    login(thief, ada, BEA, device_id=device)
            assert code(login(thief, ada, ADA, device_id="phone"), 429) == "locked_out"
            assert login(victim, ada, ADA, device_id="phone").json()["decision"] == "match"
            files = [image(ADA)]
            answer = victim.post(f"{URL}/login", data={"subject_id": ada}, files=files)
            assert answer.json()["decision"] == "match"
