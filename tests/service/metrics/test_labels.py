"""No client makes series: whatever it sends, the labels keep their few values."""

import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from contracts.settings import Settings
from tests.service.parts import FakeServices, gray_png

KEY = "a-key-of-sixteen-or-more"
Series = set[tuple[str, tuple[tuple[str, str], ...]]]


@pytest.fixture
def url(
    served: Callable[[Settings, FakeServices], AbstractContextManager[str]], fakes: FakeServices
) -> Iterator[str]:
    with served(Settings(_env_file=None, api_key=KEY), fakes) as url:
        yield url


def series_of(url: str) -> Series:
    text = httpx.get(f"{url}/metrics", headers={"X-API-Key": KEY}).text
    return {
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def attack(url: str) -> str:
    """Send what a client can choose, each time with new words; returns what they have in common."""
    word = f"odd{secrets.token_hex(4)}"
    good = {"X-API-Key": KEY}
    with httpx.Client(base_url=url, timeout=60, headers={"User-Agent": word}) as client:
        for path in (
            f"/v1/classify?model={word}",
            f"/v1/classify?version={word}",
            f"/v1/classify?model=squeezenet&version=9{int(word[3:], 16)}",
            f"/v1/models/{word}:classify",
            f"/v1/models/squeezenet/versions/{int(word[3:], 16)}:predict",
            f"/v2/models/{word}/infer",
            f"/v1/heatmap?method={word}",
            f"/v1/faces/login?subject_id={word}",
            f"/v1/{word}/{word}",
            f"/console/{word}",
        ):
            for headers in (good, good | {"X-API-Key": word}, {"Prefer": word, **good}):
                client.post(path, content=gray_png(), headers=headers)
                client.get(path, headers=headers)
        client.request(word.upper(), "/v1/models", headers=good)
        for name in ("X-Request-Id", "traceparent", "Accept", "Idempotency-Key", "X-Timeout-Ms"):
            client.post("/v1/classify", content=gray_png(), headers=good | {name: word})
        client.post("/v1/trainings", json={"model": word, "dataset_id": word}, headers=good)
        client.post("/v1/faces/login", data={"subject_id": word}, headers=good)
        client.get(f"/v1/jobs/{word}", headers=good)
        client.post("/v1/classify", content=gray_png(), headers=good | {"Content-Type": word})
    host, port = url.removeprefix("http://").split("/")[0].split(":")
    lines = (f"{word} / HTTP/1.1", f"GET /{word} {word}", f"GET /{word} HTTP/1.1\r\nHost: {word}")
    for line in lines:
        with socket.create_connection((host, int(port)), timeout=60) as wire:
            wire.sendall(f"{line}\r\nConnection: close\r\n\r\n".encode())
            wire.recv(1000)
    return word


def test_labels_hold_nothing_that_a_client_chooses(url: str) -> None:
    before = series_of(url)
    words = [attack(url)]
    first = series_of(url)
    assert len(first) > len(before), "the attack is counted"
    words += [attack(url) for _ in range(3)]
    assert series_of(url) - first == set()
    text = str(first)
    assert not [word for word in (*words, KEY) if word in text or word.upper() in text]


def test_faces_and_addresses_are_no_labels(url: str) -> None:
    attack(url)
    names = {name for _, labels in series_of(url) for name, _ in labels}
    assert not names & {"subject", "subject_id", "key", "job", "job_id", "client", "device", "path"}
