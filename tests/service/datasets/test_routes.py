"""Datasets over a socket, with real folders and a real SQLite."""

import errno
import gzip
import io
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
from PIL import Image

from contracts.errors import Conflict, DatasetNotFound, NeedsOperator, Unavailable
from contracts.settings import Settings
from database.datasets import DatasetRows
from database.engine import open_engine
from database.installation import FILE
from database.tables import Record
from models.datasets.addition import NewImages
from models.datasets.archives.limits import Limits, disk_full
from models.datasets.store import DEFAULT_FRACTIONS, DatasetStore
from service.datasets import upload
from service.datasets.service import Datasets
from service.http.multipart import Part
from tests.models.datasets.packing import odd_tar, on_disk, photo, tarred, tree, zipped
from tests.service.parts import FakeServices, datasets_in

URL = "/v1/datasets"
GOOD = tree({"cat": 8, "dog": 6})


@pytest.fixture
def fakes(tmp_path: Path) -> FakeServices:
    datasets = datasets_in(
        tmp_path, Limits(archive_bytes=300_000, image_bytes=20_000, free_bytes=0)
    )
    engine = open_engine(f"sqlite:///{tmp_path / 'opsin.db'}")
    Record.metadata.create_all(engine)
    engine.dispose()
    return FakeServices(datasets=datasets)


def send(client: httpx.Client, archive: bytes, **options: Any) -> httpx.Response:
    name = {"name": options.pop("name")} if "name" in options else None
    files = {"archive": ("pets.zip", archive)}
    return client.post(URL, files=files, data=name, **options)


def test_images_that_were_left_out_have_a_thumbnail(client: httpx.Client) -> None:
    """People want to see what was refused: copies, images of two classes, those of no class."""
    copy, conflict = GOOD["cat/0.png"], photo(901)
    alone = photo(902)
    odd = {"cat/copy.png": copy, "cat/both.png": conflict, "dog/both.png": conflict}
    files = GOOD | odd | {"alone.png": alone, "cat/notes.txt": b"no"}
    address = f"{URL}/{send(client, zipped(files), name='pets').json()['id']}"
    left = client.get(f"{address}/files", params={"status": "rejected"}).json()["items"]
    answers = {one["path"]: client.get(f"{address}/files/{one['id']}/thumbnail") for one in left}
    assert {path for path, answer in answers.items() if answer.status_code == 200} == {
        *odd,
        "alone.png",
    }
    for path in ("cat/both.png", "alone.png"):
        assert Image.open(io.BytesIO(answers[path].content)).size == (160, 160)
    assert answers["cat/notes.txt"].json()["code"] == "not_found"

    late = {"image": ("late.png", GOOD["cat/1.png"])}
    more = {"image": ("more.png", alone)}
    for label, images in (("dog", late), ("dog", more)):
        query = {"label": label}
        assert client.post(f"{address}/images", params=query, files=images).status_code < 300
    left = client.get(f"{address}/files", params={"status": "rejected"}).json()["items"]
    conflicts = [one for one in left if one["path"] in {"cat/1.png", "dog/late.png"}]
    assert [one["code"] for one in conflicts] == ["label_conflict"] * 2
    for one in conflicts:
        assert client.get(f"{address}/files/{one['id']}/thumbnail").status_code == 200


def test_a_dataset_is_created_read_and_deleted(client: httpx.Client, tmp_path: Path) -> None:
    before = on_disk(tmp_path / "datasets")
    made = send(client, zipped(GOOD | {"cat/a.txt": b"no", ".hidden": b""}), name="pets")
    body = made.json()
    assert made.status_code == 201, body
    assert made.headers["Location"] == f"{URL}/{body['id']}"
    assert body["classes"] == {"cat": 8, "dog": 6}
    assert body["splits"] == {"train": 10, "validation": 2, "test": 2}
    assert body["trainable"] is True
    assert {one["path"]: one["code"] for one in body["rejected"]} == {
        "cat/a.txt": "not_an_image",
        ".hidden": "hidden",
    }
    address = f"{URL}/{body['id']}"
    assert client.get(address).json() == body
    assert client.get(URL).json()["items"] == [body]
    files = client.get(f"{address}/files", params={"label": "dog", "status": "admitted"}).json()
    assert len(files["items"]) == 6
    first = files["items"][0]
    small = client.get(f"{address}/files/{first['id']}/thumbnail")
    known = {"If-None-Match": small.headers["ETag"]}
    assert client.get(str(small.url), headers=known).status_code == 304
    assert small.headers["Content-Type"] == "image/jpeg"
    assert Image.open(io.BytesIO(small.content)).size == (160, 160)
    (bad,) = client.get(f"{address}/files", params={"label": "cat", "status": "rejected"}).json()[
        "items"
    ]
    assert client.get(f"{address}/files/{bad['id']}/thumbnail").json()["code"] == "not_found"
    assert client.delete(address).status_code == 204
    for again in (client.get(address), client.delete(address), client.get(f"{address}/files")):
        assert (again.status_code, again.json()["code"]) == (404, "dataset_not_found")
    assert on_disk(tmp_path / "datasets") - before <= {".staging"}


def test_the_split_follows_the_query(client: httpx.Client) -> None:
    archive = zipped(GOOD)
    some = send(client, archive, params={"validation": 0.25, "test": 0.5, "seed": 3}).json()
    assert some["splits"] == {"train": 3, "validation": 4, "test": 7}
    assert some["name"] == "pets"
    assert send(client, archive, params={"validation": 0.6, "test": 0.6}).status_code == 422
    assert send(client, archive, params={"valid": 0.6}).status_code == 422


def test_images_are_added_to_an_empty_dataset(client: httpx.Client) -> None:
    made = client.post(URL, json={"name": "mine"})
    assert (made.status_code, made.json()["trainable"]) == (201, False)
    address = f"{URL}/{made.json()['id']}/images"
    for label, first in (("cat", 0), ("dog", 50)):
        for start in (first, first + 3):
            form = [("image", (f"{n}.png", photo(n))) for n in range(start, start + 3)]
            answer = client.post(address, params={"label": label}, files=form)
            assert answer.status_code == 201, answer.text
    body = answer.json()
    assert body["dataset"]["classes"] == {"cat": 6, "dog": 6}
    assert body["dataset"]["trainable"] is True
    assert [one["status"] for one in body["files"]] == ["admitted"] * 3
    raw = {"Content-Type": "image/png"}
    one = client.post(
        address, params={"label": "cat", "split": "test"}, content=photo(90), headers=raw
    )
    assert one.json()["files"][0]["split"] == "test"
    bad = client.post(address, params={"label": "cat"}, content=b"no", headers=raw)
    assert (bad.status_code, bad.json()["code"]) == (422, "invalid_image")
    for label in ("", "a/b", ".x", " a", "a\\b", "a" * 200):
        refused = client.post(address, params={"label": label}, content=photo(1), headers=raw)
        assert (refused.status_code, refused.json()["code"]) == (422, "validation_error"), label
    lost = client.post(
        f"{URL}/ds_nonesuch/images", params={"label": "a"}, content=photo(1), headers=raw
    )
    assert lost.json()["code"] == "dataset_not_found"


@pytest.mark.parametrize(
    ("archive", "status", "code"),
    [
        (odd_tar("../../x.png"), 422, "invalid_archive"),
        (b"no archive", 422, "invalid_archive"),
        (b"", 422, "invalid_archive"),
        (zipped(GOOD)[:-30], 422, "invalid_archive"),
        (b"x" * 300_001, 413, "payload_too_large"),
    ],
)
def test_a_refused_archive_leaves_nothing(
    client: httpx.Client, tmp_path: Path, archive: bytes, status: int, code: str
) -> None:
    before = on_disk(tmp_path / "datasets")
    answer = send(client, archive)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert str(tmp_path) not in answer.text
    assert on_disk(tmp_path / "datasets") - before <= {".staging"}
    assert client.get(URL).json()["items"] == []


def test_json_of_other_programs_is_read(client: httpx.Client) -> None:
    """With a byte order mark, as from PowerShell, or under the type of a format on top of JSON."""
    headers = {"Content-Type": "application/vnd.api+json; charset=utf-8"}
    answer = client.post(URL, content=b'\xef\xbb\xbf{"name": "mine"}', headers=headers)
    assert (answer.status_code, answer.json()["name"]) == (201, "mine"), answer.text


def test_other_bodies_are_refused(client: httpx.Client) -> None:
    def code(**options: Any) -> tuple[int, str]:
        answer = client.post(URL, **options)
        return answer.status_code, answer.json()["code"]

    good = ("a.zip", zipped(GOOD))
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    assert code(files={"file": good}) == (422, "validation_error")
    assert code(files=[("archive", good), ("archive", good)]) == (422, "validation_error")
    assert code(files={"name": (None, "x")}) == (422, "validation_error")
    assert code(files={"archive": good, "name": (None, "x" * 101)}) == (422, "validation_error")
    assert code(content=b"--x\r\nbroken", headers=kind) == (400, "bad_request")
    assert code(content=b"", headers=kind) == (400, "bad_request")
    assert code(content=zipped(GOOD), headers={"Content-Type": "application/zip"})[0] == 415
    assert code(json={"name": ""}) == (422, "validation_error")
    assert code(json={"names": "x"}) == (422, "validation_error")
    assert code(content=b"{", headers={"Content-Type": "application/json"})[0] == 422


def test_a_repeated_key_creates_one_dataset(client: httpx.Client) -> None:
    key = {"Idempotency-Key": "k1"}
    first = send(client, zipped(GOOD), headers=key)
    again = send(client, zipped(GOOD), headers=key)
    assert again.status_code == 201
    assert again.json() == first.json()
    other = send(client, tarred(GOOD), headers=key)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    assert len(client.get(URL).json()["items"]) == 1
    address = f"{URL}/{first.json()['id']}/images"
    added = [
        client.post(
            address,
            params={"label": "cat"},
            content=photo(77),
            headers=key | {"Content-Type": "image/png"},
        ).json()
        for _ in range(2)
    ]
    assert added[0] == added[1]
    assert client.get(f"{URL}/{first.json()['id']}").json()["revision"] == 2


def test_concurrent_uploads(client: httpx.Client) -> None:
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda n: send(client, zipped(GOOD), name=f"n{n}"), range(2)))
    assert [one.status_code for one in answers] == [201, 201]
    assert len({one.json()["id"] for one in answers}) == 2
    assert len({one.json()["digest"] for one in answers}) == 1


def test_the_number_of_uploads_is_limited(client: httpx.Client, fakes: FakeServices) -> None:
    held = [fakes.datasets.upload_slot(f"key {at}") for at in range(4)]
    for one in held:
        one.__enter__()
    full = send(client, zipped(GOOD))
    assert (full.status_code, full.json()["code"]) == (429, "queue_full")
    assert "Retry-After" in full.headers
    for one in held:
        one.__exit__(None, None, None)
    assert send(client, zipped(GOOD)).status_code == 201


def test_a_full_disk_is_a_503_with_a_retry(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_part: Part, _file: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Part, "flush", fail)
    refused = send(client, zipped(GOOD))
    assert (refused.status_code, refused.json()["code"]) == (503, "dependency_unavailable")
    assert "no room" in refused.json()["detail"]
    assert "Retry-After" in refused.headers


def test_an_upload_of_unknown_length_leaves_the_disk_its_room(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10 MB of gzip become 2 GB, and a full disk stops everybody."""
    asked: list[int] = []

    def room(_limits: Limits, _folder: Path, size: int) -> None:
        asked.append(size)
        if len(asked) > 2:
            raise disk_full()

    monkeypatch.setattr(Limits, "require_room", room)
    monkeypatch.setattr(upload, "_CHECKED_BYTES", 1000)
    body = httpx.Request("POST", "http://x", files={"archive": ("x.zip", bytes(250_000))})
    headers = {"Content-Type": body.headers["Content-Type"], "Content-Encoding": "gzip"}
    answer = client.post(URL, content=gzip.compress(body.read()), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (503, "dependency_unavailable")
    assert asked == [0, 0, 0]


def test_one_client_may_not_use_all_upload_slots(client: httpx.Client, fakes: FakeServices) -> None:
    held = [fakes.datasets.upload_slot("address 127.0.0.1") for _ in range(2)]
    for one in held:
        one.__enter__()
    full = send(client, zipped(GOOD))
    assert (full.status_code, full.json()["code"]) == (429, "queue_full")
    with fakes.datasets.upload_slot("another"):
        pass
    for one in held:
        one.__exit__(None, None, None)
    assert send(client, zipped(GOOD)).status_code == 201


def test_a_passed_deadline_leaves_nothing(client: httpx.Client, tmp_path: Path) -> None:
    archive = zipped(tree({"cat": 500}))
    answer = send(client, archive, headers={"X-Timeout-Ms": "60"})
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
    assert on_disk(tmp_path / "datasets") <= {".staging"}


def test_a_large_or_deferred_archive_is_imported_by_a_job(
    settings: Settings, fakes: FakeServices, served: Callable[..., AbstractContextManager[str]]
) -> None:
    archive = zipped(GOOD)
    small = settings.model_copy(update={"dataset_job_bytes": len(archive)})
    with served(small, fakes) as url, httpx.Client(base_url=url) as client:
        large = send(client, archive, params={"test": 0.5}, name="pets")
        wished = send(client, zipped({}), headers={"Prefer": "respond-async"})
        assert send(client, archive[:-1]).json()["code"] == "invalid_archive"
    assert [one.status_code for one in (large, wished)] == [202, 202]
    assert large.headers["Location"] == f"/v1/jobs/{large.json()['id']}"
    kind, request, inputs = fakes.jobs.worked[0]
    assert (kind, inputs) == ("dataset_import", {"archive": archive})
    assert request == {"name": "pets", "validation": 0.15, "test": 0.5, "seed": 0}
    assert fakes.datasets.store.ids() == []


def test_what_has_no_room_is_refused_before_its_body_is_read(
    client: httpx.Client, fakes: FakeServices
) -> None:
    made = send(client, zipped(GOOD)).json()["id"]
    form = {"Content-Type": "multipart/form-data; boundary=x"}

    def codes(**more: str) -> list[str]:
        """What a malformed body gets, which nobody notices without reading it."""
        later = {"Prefer": "respond-async"}
        urls = ("/v1/dreams", "/v1/style_transfers", URL, f"{URL}/{made}/videos?label=cat")
        urls += ("/v1/classify", "/v1/embed", "/v1/heatmap", "/v1/activations")
        answers = [client.post(url, headers=form | later | more, content=b"-") for url in urls]
        return [answer.json()["code"] for answer in answers]

    assert codes() == ["bad_request"] * 8
    fakes.jobs.is_full = True
    assert codes() == ["queue_full"] * 8
    assert codes(**{"Idempotency-Key": "k"}) == ["bad_request"] * 8  # it may be a repeated one
    assert send(client, zipped(GOOD)).status_code == 201, "what is done at once needs no room"


def test_a_key_holds_for_deferred_and_immediate_requests(client: httpx.Client) -> None:
    at_once, later = {"Idempotency-Key": "k9"}, {"Prefer": "respond-async"}
    made = send(client, zipped(GOOD), headers=at_once)
    again = send(client, zipped(GOOD), headers=at_once | later)
    assert (made.status_code, again.status_code) == (201, 201)
    assert again.json() == made.json()
    other = send(client, zipped(GOOD | {"dog/9.png": photo(99)}), headers=at_once | later)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    assert len(client.get(URL).json()["items"]) == 1


def test_a_deletion_waits_for_a_training_that_is_being_queued(
    tmp_path: Path, fakes: FakeServices
) -> None:
    """The check for jobs and the creation of one are never interleaved."""
    queued: list[str] = []
    datasets = Datasets(fakes.datasets.store, fakes.datasets.rows, lambda _: bool(queued))
    made = datasets.create("pets", None, DEFAULT_FRACTIONS, progress=lambda *_: None)["id"]
    with ThreadPoolExecutor(2) as threads, datasets.store.lock(made):
        deletion = threads.submit(datasets.delete, made)
        addition = threads.submit(datasets.add, made, NewImages([], "cat", None))
        time.sleep(0.2)
        assert not deletion.done()
        assert not addition.done()
        queued.append(made)
    for refused in (deletion, addition):
        with pytest.raises(Conflict, match="A training uses"):
            refused.result(30)
    assert datasets.store.ids() == [made]


def test_a_dataset_in_use_is_not_deleted(tmp_path: Path, fakes: FakeServices) -> None:
    used: set[str] = set()
    datasets = Datasets(fakes.datasets.store, fakes.datasets.rows, used.__contains__)
    archive = tmp_path / "a.zip"
    archive.write_bytes(zipped(GOOD))
    made = datasets.create("x", archive, DEFAULT_FRACTIONS, progress=lambda done, path: None)
    used.add(made["id"])
    with pytest.raises(Conflict, match="A training uses"):
        datasets.delete(made["id"])
    used.clear()
    datasets.delete(made["id"])


def test_rows_follow_the_folders(tmp_path: Path, fakes: FakeServices) -> None:
    datasets = fakes.datasets
    archive = tmp_path / "a.zip"
    archive.write_bytes(zipped(GOOD))
    placed = datasets.store.create("killed before its row", archive).info
    assert datasets.rows.revisions() == {}
    datasets.reconcile()
    assert datasets.rows.get(placed.id) == placed
    datasets.rows.hide(placed.id)
    datasets.reconcile()
    assert datasets.rows.get(placed.id) == placed, "killed before its folder was removed"
    datasets.store.delete(placed.id, check=lambda: datasets.rows.hide(placed.id))
    datasets.reconcile()
    assert datasets.rows.revisions() == {}, "killed before its rows were deleted"


def test_a_copied_folder_is_a_dataset_of_its_own(client: httpx.Client, fakes: FakeServices) -> None:
    datasets, key = fakes.datasets, {"Idempotency-Key": "pets-1"}
    made = send(client, zipped(GOOD), headers=key).json()
    folder = datasets.store.home / "datasets" / made["id"]
    shutil.copytree(folder, folder.with_name("ds_copy"))
    folder.with_name("ds_link").symlink_to(folder)
    datasets.reconcile()
    address = f"{URL}/ds_copy"
    assert client.get(address).json() == made | {"id": "ds_copy"}
    assert client.get(f"{URL}/ds_link").status_code == 404
    assert client.get(f"{URL}/{made['id']}").json() == made
    image = {"image": ("a.png", photo(903))}
    assert client.post(f"{address}/images?label=cat", files=image).status_code == 201
    assert send(client, zipped(GOOD), headers=key).json()["id"] == made["id"]
    folder.with_name("ds_link").unlink()
    assert client.delete(f"{URL}/{made['id']}").status_code == 204
    datasets.reconcile()
    assert list(datasets.rows.revisions()) == ["ds_copy"]
    assert datasets.store.load("ds_copy").classes == ("cat", "dog")


def test_what_has_not_changed_is_not_read_again(
    client: httpx.Client, fakes: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listing of a large dataset has megabytes, and is looked at every ten minutes."""
    assert send(client, zipped(GOOD)).status_code == 201
    monkeypatch.setattr(DatasetStore, "listing", None)
    fakes.datasets.reconcile()


def test_a_missing_folder_is_no_reason_to_delete_rows(tmp_path: Path, fakes: FakeServices) -> None:
    datasets = fakes.datasets
    made = datasets.create("pets", None, DEFAULT_FRACTIONS, progress=lambda *_: None)["id"]
    folder, aside = datasets.store.home / "datasets", tmp_path / "not mounted"
    folder.rename(aside)
    marker = (datasets.store.home / FILE).rename(tmp_path / "marker")
    datasets.reconcile()
    assert datasets.rows.get(made).name == "pets"
    with pytest.raises(NeedsOperator, match="not mounted"):
        datasets.delete(made)
    aside.rename(folder)
    marker.rename(datasets.store.home / FILE)
    datasets.reconcile()
    assert datasets.store.listing(made).info == datasets.rows.get(made)


def test_nothing_is_stored_while_the_home_is_missing(client: httpx.Client, tmp_path: Path) -> None:
    """It would be written below the mount point, and be hidden when the disk is mounted."""
    old = send(client, zipped(GOOD), name="old").json()["id"]
    (aside := tmp_path / "aside").mkdir()
    for name in (FILE, "datasets"):
        (tmp_path / name).rename(aside / name)
    image = {"image": ("a.png", GOOD["cat/0.png"])}
    answers = [
        send(client, zipped(GOOD), name="new"),
        client.post(URL, json={"name": "empty"}),
        client.post(f"{URL}/{old}/images?label=cat", files=image),
    ]
    assert [(each.status_code, each.json()["code"]) for each in answers] == [
        (503, "dependency_unavailable")
    ] * 3
    assert all("not mounted" in each.json()["detail"] for each in answers)
    assert not (tmp_path / "datasets").exists()
    for name in (FILE, "datasets"):
        (aside / name).rename(tmp_path / name)
    assert [item["id"] for item in client.get(URL).json()["items"]] == [old]


def test_a_dataset_that_cannot_be_deleted_stays_visible(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"{URL}/{send(client, zipped(GOOD)).json()['id']}"
    made = client.get(address).json()

    def refuse(path: Path, target: Path) -> Path:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        refused = client.delete(address)
    assert refused.status_code == 503
    assert refused.json()["code"] == "dependency_unavailable"
    assert client.get(address).json() == made
    assert client.get(f"{address}/files").json()["items"]
    assert client.delete(address).status_code == 204
    assert client.get(address).status_code == 404


def test_a_dataset_whose_folder_is_lost_can_be_deleted(fakes: FakeServices) -> None:
    datasets = fakes.datasets
    made = datasets.create("pets", None, DEFAULT_FRACTIONS, progress=lambda *_: None)["id"]
    datasets.store.delete(made)
    datasets.reconcile()
    datasets.delete(made)
    assert datasets.rows.revisions() == {}
    with pytest.raises(DatasetNotFound):
        datasets.delete(made)


def test_a_deletion_without_a_database_removes_nothing(
    fakes: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = fakes.datasets
    made = datasets.create("pets", None, DEFAULT_FRACTIONS, progress=lambda *_: None)["id"]
    with monkeypatch.context() as down:
        down.setattr(DatasetRows, "hide", Mock(side_effect=Unavailable("down")))
        with pytest.raises(Unavailable):
            datasets.delete(made)
    assert datasets.store.ids() == [made]


def test_a_video_becomes_a_job(client: httpx.Client, fakes: FakeServices) -> None:
    made = client.post(URL, json={"name": "faces"}).json()["id"]
    address, form = f"{URL}/{made}/videos", {"video": ("clips/me.mp4", b"a video")}
    query = {"label": "cafe\u0301", "rate": 4, "max_frames": 7, "region": "1,2,30,40"}
    key = {"Idempotency-Key": "k"}
    answer = client.post(address, params=query, files=form, headers=key)
    assert (answer.status_code, answer.json()["kind"]) == (202, "dataset_video")
    assert answer.headers["Location"] == f"/v1/jobs/{answer.json()['id']}"
    kind, request, inputs = fakes.jobs.worked[0]
    assert (kind, inputs) == ("dataset_video", {"video": b"a video"})
    assert fakes.jobs.clients[0], "it counts for the places of its client"
    assert request == {
        "target": made,
        "label": "caf\u00e9",
        "split": None,
        "rate": 4.0,
        "max_frames": 7,
        "region": "1,2,30,40",
        "name": "me",
    }
    for wrong in (
        {"region": "middle"},
        {"region": "1,2,0,4"},
        {"rate": 0},
        {"max_frames": 5000},
        {"label": "a/b"},
        {"fps": 3},
    ):
        refused = client.post(address, params=query | wrong, files=form)
        assert (refused.status_code, refused.json()["code"]) == (422, "validation_error"), wrong
    for url in (address, address.replace(made, "ds_nonesuch")):
        refused = client.post(url, params=query, files={"image": ("a.mp4", b"x")})
        assert refused.status_code == (422 if url == address else 404)
    assert len(fakes.jobs.worked) == 1


def test_names_are_composed_and_may_have_joiners(client: httpx.Client) -> None:
    made = client.post(URL, json={"name": "cafe\u0301 \U0001f469\u200d\U0001f680 \u5c71\u3000"})
    assert made.json()["name"] == "caf\u00e9 \U0001f469\u200d\U0001f680 \u5c71"
    address = f"{URL}/{made.json()['id']}"
    raw = {"Content-Type": "image/png"}
    for number, label in enumerate(("Gro\u0308\u00dfe", "Gr\u00f6\u00dfe", "\u5c71\u3000\u5ddd")):
        answer = client.post(
            f"{address}/images", params={"label": label}, content=photo(number), headers=raw
        )
        assert answer.status_code == 201, answer.text
    assert client.get(address).json()["classes"] == {"Gr\u00f6\u00dfe": 2, "\u5c71\u3000\u5ddd": 1}
    found = client.get(f"{address}/files", params={"label": "Gro\u0308\u00dfe"}).json()["items"]
    assert len(found) == 2
    for label in ("\u200b", "\u200d", "a\u202eb", "\u3000"):
        refused = client.post(
            f"{address}/images", params={"label": label}, content=photo(9), headers=raw
        )
        assert (refused.status_code, refused.json()["code"]) == (422, "validation_error")
    assert client.post(URL, json={"name": "\u200d\u200c"}).status_code == 422


def test_the_encoding_of_names_is_a_parameter(client: httpx.Client) -> None:
    archive = zipped({"ko?ka/1.png": photo(1)}).replace(b"ko?ka", "ko\u010dka".encode("cp1250"))
    made = send(client, archive, params={"name_encoding": "windows-1250"})
    assert made.json()["classes"] == {"ko\u010dka": 1}
    for wrong in ("nonesuch", "rot13", ""):
        refused = send(client, archive, params={"name_encoding": wrong})
        assert (refused.status_code, refused.json()["code"]) == (422, "validation_error")
        assert "cp932" in refused.text
