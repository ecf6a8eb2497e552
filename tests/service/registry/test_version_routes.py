import io
import zipfile

import httpx
import pytest

from models.store.store import Store
from tests.models.drafts import DRAFT, FILES, write_files
from tests.service.parts import FakeServices

BASE = "/v1/models/squeezenet"


def publish(store: Store) -> int:
    with store.staging() as folder:
        write_files(folder)
        return store.publish("squeezenet", folder, DRAFT)


@pytest.fixture
def two(fakes: FakeServices) -> Store:
    """Versions 1, the champion, and 2; the only worker has loaded 1."""
    for _ in range(2):
        publish(fakes.store)
    fakes.store.promote("squeezenet", 1)
    return fakes.store


def test_promotion_says_whether_the_version_serves_yet(client: httpx.Client, two: Store) -> None:
    answer = client.post(f"{BASE}/aliases", json={"alias": "champion", "version": 2})
    assert (answer.status_code, answer.json()["name"]) == (202, "squeezenet")
    assert two.resolve("squeezenet") == 2
    back = client.post(f"{BASE}/aliases", json={"alias": "champion", "version": 1})
    assert back.status_code == 200
    assert two.resolve("squeezenet") == 1


@pytest.mark.parametrize(
    ("name", "body", "status", "code"),
    [
        ("squeezenet", {"alias": "champion", "version": 9}, 404, "version_not_found"),
        ("nonesuch", {"alias": "champion", "version": 1}, 404, "model_not_found"),
        ("squeezenet", {"alias": "1", "version": 1}, 422, "validation_error"),
        ("squeezenet", {"alias": "champion"}, 422, "validation_error"),
        ("squeezenet", {"alias": "a", "version": 1, "x": 1}, 422, "validation_error"),
        ("..", {"alias": "champion", "version": 1}, 404, "not_found"),
        ("A%2F..", {"alias": "champion", "version": 1}, 404, "not_found"),
    ],
)
def test_an_impossible_promotion_is_refused(
    client: httpx.Client, two: Store, name: str, body: dict[str, object], status: int, code: str
) -> None:
    answer = client.post(f"/v1/models/{name}/aliases", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert two.aliases("squeezenet") == {"champion": 1}
    assert two.models() == ["squeezenet"], "asking makes no model"


def test_an_alias_is_deleted(client: httpx.Client, two: Store) -> None:
    two.promote("squeezenet", 2, "canary")
    assert client.delete(f"{BASE}/aliases/canary").status_code == 204
    assert two.aliases("squeezenet") == {"champion": 1}
    assert client.delete(f"{BASE}/aliases/canary").json()["code"] == "version_not_found"
    assert client.delete("/v1/models/nonesuch/aliases/canary").status_code == 404
    assert two.models() == ["squeezenet"]


def test_the_manifest(client: httpx.Client, two: Store) -> None:
    manifest = client.get(f"{BASE}/versions/2").json()
    assert (manifest["model"], manifest["version"]) == ("squeezenet", 2)
    assert set(manifest["files"]) == set(FILES)
    assert client.get(f"{BASE}/versions/3").json()["code"] == "version_not_found"
    assert client.get(f"{BASE}/versions/0").status_code == 422


def test_a_version_in_use_is_not_deleted(client: httpx.Client, two: Store) -> None:
    refused = client.delete(f"{BASE}/versions/1")
    assert (refused.status_code, refused.json()["code"]) == (409, "version_in_use")
    assert client.delete(f"{BASE}/versions/2").status_code == 204
    assert client.delete(f"{BASE}/versions/2").status_code == 404
    assert two.versions("squeezenet") == [1]


def test_existing_formats_are_downloaded(client: httpx.Client, two: Store) -> None:
    labels = client.get(f"{BASE}/versions/1/download?format=labels")
    assert labels.content == FILES["labels.json"]
    assert labels.headers["Content-Length"] == str(len(labels.content))
    named = 'attachment; filename="squeezenet-1-labels.json"'
    assert labels.headers["Content-Disposition"] == named
    kept = client.get(f"{BASE}/versions/1/download?format=keras")
    assert kept.content == FILES["model.keras"]
    packed = client.get(f"{BASE}/versions/1/download")
    assert packed.headers["Content-Type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(packed.content)) as archive:
        assert archive.read("squeezenet-1/saved_model.pb") == FILES["saved_model/saved_model.pb"]
    assert packed.headers["Content-Length"] == str(len(packed.content))
    for whole in (labels, kept, packed):
        url, etag = str(whole.url), whole.headers["ETag"]
        assert client.get(url, headers={"If-None-Match": etag}).status_code == 304
        rest = client.get(url, headers={"Range": "bytes=5-", "If-Range": etag})
        assert (rest.status_code, rest.content) == (206, whole.content[5:])
    assert len({whole.headers["ETag"] for whole in (labels, kept, packed)}) == 3
    assert client.get(f"{BASE}/versions/1/download?format=exe").status_code == 422
    assert client.get(f"{BASE}/versions/7/download?format=keras").status_code == 404


def test_a_slow_conversion_is_a_503_with_a_retry(client: httpx.Client, two: Store) -> None:
    answer = client.get(f"{BASE}/versions/1/download?format=onnx")
    assert (answer.status_code, answer.json()["code"]) == (503, "model_not_ready")
    assert answer.headers["Retry-After"] == "10"
