"""The datasets that `opsin datasets fetch` knows: their files, formats and messages."""

import gzip
import hashlib
import http.server
import io
import struct
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contracts.errors import InvalidArchive, NotFound, Unavailable
from models.datasets.archives.limits import Limits
from models.datasets.published import (
    PublishedDataset,
    PublishedFile,
    fetch,
    published,
    published_datasets,
    read_published,
)
from models.datasets.splitting import Fractions
from models.datasets.store import DatasetStore
from tests.models.datasets.stored import image_path

LABELS = ("cat", "dog")


@pytest.fixture
def store(tmp_path: Path) -> DatasetStore:
    return DatasetStore(tmp_path / "datasets", Limits(free_bytes=0))


def made_of(kind: str, *names: str) -> PublishedDataset:
    files = tuple(PublishedFile(file=name) for name in names)
    return PublishedDataset.model_validate(
        {"title": "x", "format": kind, "files": files, "labels": LABELS}
    )


def test_every_published_dataset_can_be_named() -> None:
    assert set(published_datasets()) == {
        *("mnist", "fashion_mnist", "cifar10", "cats_dogs", "pets", "fruits360")
    }
    for dataset in published_datasets().values():
        assert all(file.url is None or file.url.startswith("https://") for file in dataset.files)
        assert all((file.url is None) == (file.digest is None) for file in dataset.files)
    with pytest.raises(NotFound, match="mnist"):
        published("imagenet")


def test_idx_files_become_a_dataset(store: DatasetStore, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 4, 6), np.uint8)
    names = [f"{split}-{kind}.gz" for split in ("train", "t10k") for kind in ("images", "labels")]
    for name, first, last in zip(names, (0, 0, 8, 8), (8, 8, 12, 12), strict=True):
        if "images" in name:
            head = struct.pack(">4I", 0x803, last - first, 4, 6)
            data = head + pixels[first:last].tobytes()
        else:
            data = struct.pack(">2I", 0x801, last - first) + bytes(
                n % 2 for n in range(first, last)
            )
        (tmp_path / name).write_bytes(gzip.compress(data))
    dataset = made_of("idx", *names)
    paths = fetch(dataset, tmp_path)
    listing = store.create("x", read_published(dataset, paths), Fractions(0, 0, 0))
    assert listing.info.classes == {"cat": 6, "dog": 6}
    assert listing.info.splits == {"train": 8, "validation": 0, "test": 4}
    first = next(file for file in listing.files if file.path == "train/cat/00000.png")
    stored = image_path(store, listing.info.id, first.sha256 or "").read_bytes()
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(stored))), pixels[0])
    (tmp_path / names[1]).write_bytes(gzip.compress(b"\0" * 20))
    with pytest.raises(InvalidArchive, match="do not belong together"):
        list(read_published(dataset, paths))
    (tmp_path / names[0]).write_bytes(gzip.compress(b"\0"))
    with pytest.raises(InvalidArchive, match="damaged"):
        list(read_published(dataset, paths))


def test_cifar_becomes_a_dataset(store: DatasetStore, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    rows = [bytes([n % 2]) + image.transpose(2, 0, 1).tobytes() for n, image in enumerate(pixels)]
    with tarfile.open(tmp_path / "cifar.tar.gz", "w:gz") as archive:
        for name, part in (("data_batch_1.bin", rows[:4]), ("test_batch.bin", rows[4:])):
            data = b"".join(part)
            header = tarfile.TarInfo(f"cifar/{name}")
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
        archive.addfile(tarfile.TarInfo("cifar/readme.html"))
    dataset = made_of("cifar", "cifar.tar.gz")
    listing = store.create("x", read_published(dataset, fetch(dataset, tmp_path)))
    assert (listing.info.classes, listing.info.splits["test"]) == ({"cat": 3, "dog": 3}, 2)
    file = next(one for one in listing.files if one.path.endswith("dog/data_batch_1-00001.png"))
    stored = image_path(store, listing.info.id, file.sha256 or "").read_bytes()
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(stored))), pixels[1])


CONTENT = b"the file of a publisher" * 1000


@pytest.fixture
def publisher() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/a.zip" else 404)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT)

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_file_is_fetched_once_and_a_missing_one_is_told(publisher: str, tmp_path: Path) -> None:
    digest = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"

    def dataset(path: str, url: str | None = publisher) -> PublishedDataset:
        address = url and f"{url}/{path}"
        file = PublishedFile(file=path, url=address, digest=address and digest)
        return PublishedDataset(title="x", format="archive", files=(file,))

    target = tmp_path / "downloads" / "a.zip"
    with pytest.raises(Unavailable, match="OPSIN_OFFLINE") as told:
        fetch(dataset("a.zip"), target.parent, offline=True)
    assert str(target) in told.value.detail
    seen: list[int] = []
    for _ in range(2):
        (path,) = fetch(dataset("a.zip"), target.parent, progress=lambda done, _: seen.append(done))
        assert path.read_bytes() == CONTENT
    assert seen[-1] == len(CONTENT)
    assert fetch(dataset("a.zip"), target.parent, offline=True) == [target]
    target.write_bytes(b"another")
    with pytest.raises(Unavailable, match="digest differs"):
        fetch(dataset("a.zip"), target.parent)
    for missing in (dataset("b.zip"), dataset("c.zip", None)):
        with pytest.raises(Unavailable, match=r"Put it.* at "):
            fetch(missing, target.parent)
