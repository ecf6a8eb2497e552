"""From an upload to a dataset: layouts, duplicates, unusable files, and crashes."""

import io
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from contracts.errors import (
    Conflict,
    DatasetNotFound,
    ImageTooLarge,
    InvalidImage,
    NotFound,
)
from contracts.training.datasets import DatasetFile, Listing
from models.datasets.addition import NewImage, NewImages
from models.datasets.archives.limits import Limits
from models.datasets.dataset import Split
from models.datasets.splitting import Fractions
from models.datasets.store import DEFAULT_FRACTIONS, DatasetStore
from models.rendering.png import png
from tests.images import HEIC, encoded, hostile_images, motion_photo, netpbm_kinds, scene
from tests.models.datasets.packing import on_disk, photo, tarred, tree, written, zipped
from tests.models.datasets.stored import image_path

GOOD = tree({"cat": 8, "dog": 8})


@pytest.fixture
def store(tmp_path: Path) -> DatasetStore:
    return DatasetStore(tmp_path / "datasets", Limits(free_bytes=0, image_pixels=50_000_000))


def add(
    store: DatasetStore, dataset_id: str, images: list[NewImage], label: str, split: Split | None
) -> tuple[Listing, tuple[DatasetFile, ...]]:
    new = NewImages(images, label, split)
    with store.lock(dataset_id), store.addition(dataset_id, new) as addition:
        addition.stage()
        addition.publish()
    return store.listing(dataset_id), addition.files


def sent(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "upload"
    path.write_bytes(data)
    return path


def test_zip_tar_gz_and_folder_give_the_same_dataset(store: DatasetStore, tmp_path: Path) -> None:
    backwards = dict(reversed(GOOD.items()))
    wrapped = {f"pets/{name}": data for name, data in GOOD.items()}
    ways = [zipped(GOOD), tarred(GOOD), tarred(GOOD, packed=True), zipped(backwards)]
    ways.append(zipped(wrapped))
    digests = {store.create("a", sent(tmp_path, way)).info.digest for way in ways}
    digests.add(store.create("b", written(tmp_path / "folder", GOOD)).info.digest)
    assert len(digests) == 1
    other = store.create("a", sent(tmp_path, zipped(GOOD)), Fractions(0.15, 0.15, 7))
    assert other.info.digest not in digests, "another seed, another split"


def test_dataset_as_seen_by_a_training(store: DatasetStore, tmp_path: Path) -> None:
    info = store.create("pets", sent(tmp_path, zipped(GOOD))).info
    assert info.trainable
    assert info.splits == {"train": 12, "validation": 2, "test": 2}
    seen = store.load(info.id)
    assert (seen.name, seen.digest, seen.classes) == ("pets", info.digest, ("cat", "dog"))
    assert sorted(one.path.read_bytes() for one in seen.examples) == sorted(GOOD.values())
    assert {one.label for one in seen.of("test")} == {"cat", "dog"}
    seen.examples[0].path.write_bytes(b"")
    with pytest.raises(DatasetNotFound, match="1 images"):
        store.load(info.id)


@pytest.mark.parametrize(
    ("paths", "classes", "splits"),
    [
        (["train/a/1", "validation/a/2", "test/a/3"], {"a"}, ("train", "validation", "test")),
        (["set/Train/a/1", "set/val/a/2", "set/testing/a/3"], {"a"}, None),
        (["pets/a/1", "pets/b/2"], {"a", "b"}, None),
        (["x/y/a/1", "x/y/b/2"], {"a", "b"}, None),
        (["a/deep/1", "b/2"], {"a", "b"}, None),
        (["a/1"], {"a"}, None),
        (["test/1", "cat/2"], {"test", "cat"}, None),
        (["train/1", "cat/2"], {"train", "cat"}, None),
        (["Melon Piel de Sapo/1", "é/2"], {"Melon Piel de Sapo", "é"}, None),
    ],
)
def test_layouts(
    store: DatasetStore,
    tmp_path: Path,
    paths: list[str],
    classes: set[str],
    splits: tuple[str, ...] | None,
) -> None:
    files = {f"{path}.png": photo(number) for number, path in enumerate(paths)}
    listing = store.create("x", sent(tmp_path, zipped(files)), Fractions(0, 0, 0))
    assert set(listing.info.classes) == classes
    assert listing.info.rejected == []
    if splits:
        assert tuple(one.split for one in listing.files) == splits


def test_stray_image_does_not_change_the_classes(store: DatasetStore, tmp_path: Path) -> None:
    files = {f"pets/{name}": data for name, data in GOOD.items()} | {"stray.png": photo(900)}
    info = store.create("x", sent(tmp_path, zipped(files))).info
    assert set(info.classes) == {"cat", "dog"}
    assert [(one.path, one.code) for one in info.rejected] == [("stray.png", "no_label")]


def test_given_splits_are_kept_and_validation_is_drawn_from_train(
    store: DatasetStore, tmp_path: Path
) -> None:
    given = {
        f"{split}/{path}": data
        for split, first in (("train", 0), ("test", 500))
        for path, data in tree({"cat": 20, "dog": 20}, first=first).items()
    }
    info = store.create("x", sent(tmp_path, zipped(given))).info
    assert info.splits == {"train": 34, "validation": 6, "test": 40}
    assert [one.code for one in info.warnings] == ["validation_drawn"]
    plain = store.create("x", sent(tmp_path, zipped(given)), Fractions(0, 0.15, 0)).info
    assert plain.splits == {"train": 40, "validation": 0, "test": 40}
    assert [one.code for one in plain.warnings] == ["no_validation"]
    whole = given | {f"val/{path}": data for path, data in tree({"cat": 6}, first=900).items()}
    kept = store.create("x", sent(tmp_path, zipped(whole))).info
    assert kept.splits == {"train": 40, "validation": 6, "test": 40}


def test_duplicates_are_left_out(store: DatasetStore, tmp_path: Path) -> None:
    files = {f"train/{path}": data for path, data in GOOD.items()}
    files |= {f"test/cat/{n}.png": photo(700 + n) for n in range(5)}
    files |= {
        "train/cat/again.png": files["train/cat/0.png"],
        "train/cat/tested.png": files["test/cat/1.png"],
        "train/cat/both.png": photo(999),
        "train/dog/both.png": photo(999),
    }
    listing = store.create("x", sent(tmp_path, zipped(files)))
    reasons = {one.path: (one.code, one.action) for one in listing.info.rejected}
    assert reasons == {
        "train/cat/again.png": ("duplicate", "left out"),
        "train/cat/tested.png": ("leak", "left out of train"),
        "train/cat/both.png": ("label_conflict", "left out"),
        "train/dog/both.png": ("label_conflict", "left out"),
    }
    warnings = {one.code for one in listing.info.warnings}
    assert {"leak", "label_conflict"} <= warnings
    seen = store.load(listing.info.id)
    assert len({one.sha256 for one in seen.examples}) == len(seen.examples)


def test_unusable_files_are_reported_and_not_fatal(store: DatasetStore, tmp_path: Path) -> None:
    dirt = {
        "cat/really.jpg": (photo(800), None),
        "cat/cmyk.jpg": (encoded(scene().convert("CMYK"), "JPEG"), None),
        "cat/moving.gif": (encoded(scene().convert("P"), "GIF"), None),
        "cat/cut.jpg": (encoded(scene(640, 480), "JPEG")[:3000], "damaged_image"),
        "cat/empty.png": (b"", "not_an_image"),
        "cat/notes.txt": (b"remember the milk", "not_an_image"),
        "cat/inner.zip": (zipped({"a": b"b"}), "not_an_image"),
        "cat/.DS_Store": (b"\0\0", "hidden"),
        "cat/Thumbs.db": (b"\0\0", "hidden"),
        ".git/config": (b"x", "hidden"),
        "__MACOSX/cat/._1.png": (b"x", "hidden"),
        "README.md": (b"read me", "not_an_image"),
        "stray.png": (photo(801), "no_label"),
    }
    for name, (data, code) in hostile_images().items():
        if code is not None:
            kind = "image_too_large" if code == "image_too_large" else None
            dirt[f"cat/{name}.bin"] = (data, kind or "broken")
    files = GOOD | {path: data for path, (data, _) in dirt.items()}
    listing = store.create("x", sent(tmp_path, zipped(files)))
    codes = {one.path: one.code for one in listing.files if one.status == "rejected"}
    broken = {"not_an_image", "damaged_image"}
    for path, (_, code) in dirt.items():
        if code is None:
            assert path not in codes
        else:
            assert codes[path] in (broken if code == "broken" else {code}), path
    assert len(codes) == sum(code is not None for _, code in dirt.values())
    (odd,) = [one for one in listing.files if one.code == "misnamed"]
    assert (odd.path, odd.action, odd.media_type) == ("cat/really.jpg", "kept", "image/png")
    assert all(one.detail and one.action for one in listing.files if one.code)


def test_what_phones_and_old_datasets_contain_is_admitted(
    store: DatasetStore, tmp_path: Path
) -> None:
    files = {
        "cat/IMG_1.HEIC": (HEIC / "turned-by-container.heic").read_bytes(),
        "cat/PXL_1.MP.jpg": motion_photo(encoded(scene(), "JPEG")),
        "cat/a.avif": encoded(scene(), "AVIF"),
        "cat/face.pgm": netpbm_kinds()["P5"],
    }
    listing = store.create("x", sent(tmp_path, zipped(GOOD | files)))
    found = {one.path: one for one in listing.files if one.path in files}
    assert {one.status for one in found.values()} == {"admitted"}
    assert {one.code for one in found.values()} == {None}
    assert {(one.width, one.height) for one in found.values()} == {scene().size}
    types = ["image/heif", "image/jpeg", "image/avif", "image/x-portable-anymap"]
    assert [found[path].media_type for path in files] == types
    photo = found["cat/IMG_1.HEIC"].sha256
    assert photo is not None
    assert store.thumbnail(listing.info.id, photo).startswith(b"\xff\xd8")


@pytest.mark.parametrize(
    ("classes", "reason"),
    [({"a": 9}, "1 of at least 2"), ({"a": 9, "b": 4}, "5 images"), ({}, "0 of at least 2")],
)
def test_untrainable_dataset_says_why(
    store: DatasetStore, tmp_path: Path, classes: dict[str, int], reason: str
) -> None:
    files = tree(classes) | {"c/broken.png": b"no"}
    info = store.create("x", sent(tmp_path, zipped(files))).info
    assert not info.trainable
    assert reason in (info.reason or "")
    assert "empty_class" in {one.code for one in info.warnings}


def test_classes_with_few_images_are_all_named(store: DatasetStore, tmp_path: Path) -> None:
    info = store.create("x", sent(tmp_path, zipped(tree({"a": 25, "b": 9, "c": 2})))).info
    assert {one.code: one.detail for one in info.warnings}["few"].endswith("images: b, c")


def test_imbalance_is_reported(store: DatasetStore, tmp_path: Path) -> None:
    info = store.create("x", sent(tmp_path, zipped(tree({"a": 40, "b": 5})))).info
    assert {one.code: one.detail for one in info.warnings}["imbalance"].startswith("8:1")


def test_images_are_added_one_by_one(store: DatasetStore) -> None:
    dataset_id = store.create("x", None).info.id
    for label in ("cat", "dog"):
        start = 0 if label == "cat" else 50
        batch = [NewImage("p.png", photo(start + n)) for n in range(6)]
        listing, added = add(store, dataset_id, [*batch, NewImage("t.txt", b"no")], label, None)
        assert [one.status for one in added] == ["admitted"] * 6 + ["rejected"]
    assert len({one.path for one in listing.files}) == 14
    assert (listing.info.revision, listing.info.trainable) == (3, True)
    assert listing.info.splits == {"train": 8, "validation": 2, "test": 2}
    _, (again,) = add(store, dataset_id, [NewImage("p.png", photo(0))], "cat", None)
    assert again.code == "duplicate"
    before = store.listing(dataset_id)
    with pytest.raises(InvalidImage):
        add(store, dataset_id, [NewImage("p.png", b"no image")], "cat", None)
    big = encoded(Image.new("1", (9000, 6000)), "PNG")
    with pytest.raises(ImageTooLarge):
        add(store, dataset_id, [NewImage("p.png", big)], "cat", "test")
    assert store.listing(dataset_id) == before


def test_concurrent_changes_lose_nothing(store: DatasetStore, tmp_path: Path) -> None:
    archive = sent(tmp_path, zipped(GOOD))
    barrier = threading.Barrier(4)

    def create(_: int) -> str:
        barrier.wait(10)
        return store.create("x", archive).info.id

    def add_one(number: int) -> None:
        add(store, ids[0], [NewImage("n.png", photo(600 + number))], "cat", None)

    with ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(create, range(4)))
        assert sorted(ids) == store.ids()
        list(pool.map(add_one, range(8)))
    assert store.listing(ids[0]).info.classes == {"cat": 16, "dog": 8}
    assert len(store.load(ids[1]).examples) == 16


def test_deleted_dataset_leaves_nothing(store: DatasetStore, tmp_path: Path) -> None:
    first = store.create("x", None)
    before = on_disk(tmp_path)
    made = store.create("y", sent(tmp_path, zipped(GOOD))).info.id
    store.delete(made)
    assert on_disk(tmp_path) - before == {"upload"}
    for gone in (made, "ds_nonesuch", "../before", "ds_../../x", ""):
        with pytest.raises(DatasetNotFound):
            store.delete(gone)
        with pytest.raises(DatasetNotFound):
            store.load(gone)
    assert store.ids() == [first.info.id]


def test_dataset_id_is_used_once(store: DatasetStore) -> None:
    store.create("x", None, dataset_id="ds_mine")
    with pytest.raises(Conflict):
        store.create("y", None, DEFAULT_FRACTIONS, dataset_id="ds_mine")
    assert store.listing("ds_mine").info.name == "x"


def test_thumbnail_is_made_once(store: DatasetStore, tmp_path: Path) -> None:
    listing = store.create("x", sent(tmp_path, zipped({"cat/1.png": photo(1, side=40)})))
    digest = listing.files[0].sha256 or ""
    first = store.thumbnail(listing.info.id, digest)
    with Image.open(io.BytesIO(first)) as image:
        assert (image.format, image.size) == ("JPEG", (160, 160))
    image_path(store, listing.info.id, digest).unlink()
    assert store.thumbnail(listing.info.id, digest) == first
    with pytest.raises(NotFound):
        store.thumbnail(listing.info.id, "0" * 64)
    store.delete(listing.info.id)
    with pytest.raises(DatasetNotFound):
        store.thumbnail(listing.info.id, digest)


def test_a_thumbnail_that_cannot_be_kept_is_shown(store: DatasetStore, tmp_path: Path) -> None:
    """As on a full disk."""
    listing = store.create("x", sent(tmp_path, zipped({"cat/1.png": photo(1, side=40)})))
    digest = listing.files[0].sha256 or ""
    folder = image_path(store, listing.info.id, digest).parents[2]
    (folder / "thumbnails").write_text("a file where the folder should be")
    with Image.open(io.BytesIO(store.thumbnail(listing.info.id, digest))) as image:
        assert image.size == (160, 160)


KILLED = """
import os, sys
from pathlib import Path
from models.datasets.store import DatasetStore
from models.datasets.archives.limits import Limits
from tests.models.datasets.stored import image_path
def kill(done, path):
    if done == 7:
        os.kill(os.getpid(), 9)
DatasetStore(Path(sys.argv[1]), Limits(free_bytes=0)).create("x", Path(sys.argv[2]), progress=kill)
"""


def test_killed_import_leaves_nothing_after_a_sweep(store: DatasetStore, tmp_path: Path) -> None:
    archive = sent(tmp_path, zipped(GOOD))
    root = tmp_path / "datasets"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(root), str(archive)], timeout=60, check=False
    )
    assert killed.returncode == -9
    assert len(list(root.glob(".staging/*/files/*/*"))) == 7, "it was in the middle"
    assert len(store.sweep()) == 1
    assert on_disk(root) == {".staging"}
    assert store.ids() == []


def test_real_images(store: DatasetStore, shared: Path) -> None:
    listing = store.create("faces", shared / "data" / "caltech-objects")
    info = listing.info
    assert info.trainable
    assert info.splits == {"train": 84 - 12, "validation": 12, "test": 30}
    assert info.rejected == []
    assert store.load(info.id).digest == info.digest


def test_a_heatmap_of_ours_is_left_out(tmp_path: Path) -> None:
    """`opsin explain --out` may point into a folder of photos."""
    folder = written(tmp_path / "pets", tree({"cat": 6, "dog": 6}))
    drawn = png(Image.new("RGB", (20, 10), "orange"))
    (folder / "cat" / "0-heatmap.png").write_bytes(drawn)
    (folder / "dog" / "why.png").write_bytes(drawn)
    info = DatasetStore(tmp_path / "datasets", Limits(free_bytes=0)).create("pets", folder).info
    assert info.classes == {"cat": 6, "dog": 6}
    assert {file.code for file in info.rejected} == {"explanation"}
