"""From what is sent to what is learned from: layouts, copies, dirt, and what a crash leaves."""

import io
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from contracts.errors import Conflict, DatasetNotFound, ImageTooLarge, InvalidImage, NotTrainable
from models.datasets.archives.limits import Limits
from models.datasets.library import DEFAULT, Library, NewPicture
from models.datasets.splitting import Fractions
from tests.models.datasets.packing import on_disk, photo, tarred, tree, written, zipped
from tests.pictures import encoded, hostile_pictures, scene

GOOD = tree({"cat": 8, "dog": 8})


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "datasets", Limits(free_bytes=0, image_pixels=50_000_000))


def sent(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "upload"
    path.write_bytes(data)
    return path


def test_zip_tar_gz_and_folder_are_the_same_data_set(library: Library, tmp_path: Path) -> None:
    backwards = dict(reversed(GOOD.items()))
    wrapped = {f"pets/{name}": data for name, data in GOOD.items()}
    ways = [zipped(GOOD), tarred(GOOD), tarred(GOOD, packed=True), zipped(backwards)]
    ways.append(zipped(wrapped))
    digests = {library.create("a", sent(tmp_path, way)).info.digest for way in ways}
    digests.add(library.create("b", written(tmp_path / "folder", GOOD)).info.digest)
    assert len(digests) == 1
    other = library.create("a", sent(tmp_path, zipped(GOOD)), Fractions(0.15, 0.15, 7))
    assert other.info.digest not in digests, "another seed, another split"


def test_what_a_training_sees(library: Library, tmp_path: Path) -> None:
    info = library.create("pets", sent(tmp_path, zipped(GOOD))).info
    assert info.trainable
    assert info.splits == {"train": 12, "validation": 2, "test": 2}
    seen = library.load_trainable(info.id)
    assert (seen.name, seen.digest, seen.classes) == ("pets", info.digest, ("cat", "dog"))
    assert sorted(one.path.read_bytes() for one in seen.examples) == sorted(GOOD.values())
    assert {one.label for one in seen.of("test")} == {"cat", "dog"}
    seen.examples[0].path.write_bytes(b"")
    with pytest.raises(DatasetNotFound, match="1 pictures"):
        library.load(info.id)


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
    library: Library,
    tmp_path: Path,
    paths: list[str],
    classes: set[str],
    splits: tuple[str, ...] | None,
) -> None:
    files = {f"{path}.png": photo(number) for number, path in enumerate(paths)}
    listing = library.create("x", sent(tmp_path, zipped(files)), Fractions(0, 0, 0))
    assert set(listing.info.classes) == classes
    assert listing.info.rejected == []
    if splits:
        assert tuple(one.split for one in listing.files) == splits


def test_a_stray_picture_does_not_rename_the_classes(library: Library, tmp_path: Path) -> None:
    files = {f"pets/{name}": data for name, data in GOOD.items()} | {"stray.png": photo(900)}
    info = library.create("x", sent(tmp_path, zipped(files))).info
    assert set(info.classes) == {"cat", "dog"}
    assert [(one.path, one.code) for one in info.rejected] == [("stray.png", "no_label")]


def test_given_splits_are_kept_and_validation_is_drawn_from_train(
    library: Library, tmp_path: Path
) -> None:
    given = {
        f"{split}/{path}": data
        for split, first in (("train", 0), ("test", 500))
        for path, data in tree({"cat": 20, "dog": 20}, first=first).items()
    }
    info = library.create("x", sent(tmp_path, zipped(given))).info
    assert info.splits == {"train": 34, "validation": 6, "test": 40}
    assert [one.code for one in info.warnings] == ["validation_drawn"]
    plain = library.create("x", sent(tmp_path, zipped(given)), Fractions(0, 0.15, 0)).info
    assert plain.splits == {"train": 40, "validation": 0, "test": 40}
    assert [one.code for one in plain.warnings] == ["no_validation"]
    whole = given | {f"val/{path}": data for path, data in tree({"cat": 6}, first=900).items()}
    kept = library.create("x", sent(tmp_path, zipped(whole))).info
    assert kept.splits == {"train": 40, "validation": 6, "test": 40}


def test_copies(library: Library, tmp_path: Path) -> None:
    files = {f"train/{path}": data for path, data in GOOD.items()}
    files |= {f"test/cat/{n}.png": photo(700 + n) for n in range(5)}
    files |= {
        "train/cat/again.png": files["train/cat/0.png"],
        "train/cat/tested.png": files["test/cat/1.png"],
        "train/cat/both.png": photo(999),
        "train/dog/both.png": photo(999),
    }
    listing = library.create("x", sent(tmp_path, zipped(files)))
    told = {one.path: (one.code, one.action) for one in listing.info.rejected}
    assert told == {
        "train/cat/again.png": ("duplicate", "left out"),
        "train/cat/tested.png": ("leak", "left out of train"),
        "train/cat/both.png": ("label_conflict", "left out"),
        "train/dog/both.png": ("label_conflict", "left out"),
    }
    warnings = {one.code for one in listing.info.warnings}
    assert {"leak", "label_conflict"} <= warnings
    seen = library.load(listing.info.id)
    assert len({one.sha256 for one in seen.examples}) == len(seen.examples)


def test_dirt_is_told_and_never_fatal(library: Library, tmp_path: Path) -> None:
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
    for name, (data, code) in hostile_pictures().items():
        if code is not None:
            kind = "image_too_large" if code == "image_too_large" else None
            dirt[f"cat/{name}.bin"] = (data, kind or "broken")
    files = GOOD | {path: data for path, (data, _) in dirt.items()}
    listing = library.create("x", sent(tmp_path, zipped(files)))
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


@pytest.mark.parametrize(
    ("classes", "reason"),
    [({"a": 9}, "1 of at least 2"), ({"a": 9, "b": 4}, "5 pictures"), ({}, "0 of at least 2")],
)
def test_what_cannot_be_trained(
    library: Library, tmp_path: Path, classes: dict[str, int], reason: str
) -> None:
    files = tree(classes) | {"c/broken.png": b"no"}
    info = library.create("x", sent(tmp_path, zipped(files))).info
    assert not info.trainable
    with pytest.raises(NotTrainable, match=reason):
        library.load_trainable(info.id)
    assert reason in (info.reason or "")
    assert "empty_class" in {one.code for one in info.warnings}


def test_imbalance_is_said(library: Library, tmp_path: Path) -> None:
    info = library.create("x", sent(tmp_path, zipped(tree({"a": 40, "b": 5})))).info
    assert {one.code: one.detail for one in info.warnings}["imbalance"].startswith("8:1")


def test_pictures_are_added_one_by_one(library: Library) -> None:
    dataset_id = library.create("x", None).info.id
    for label in ("cat", "dog"):
        start = 0 if label == "cat" else 50
        batch = [NewPicture("p.png", photo(start + n)) for n in range(6)]
        listing, added = library.add(dataset_id, [*batch, NewPicture("t.txt", b"no")], label, None)
        assert [one.status for one in added] == ["admitted"] * 6 + ["rejected"]
    assert len({one.path for one in listing.files}) == 14
    assert (listing.info.revision, listing.info.trainable) == (3, True)
    assert listing.info.splits == {"train": 8, "validation": 2, "test": 2}
    _, (again,) = library.add(dataset_id, [NewPicture("p.png", photo(0))], "cat", None)
    assert again.code == "duplicate"
    before = library.listing(dataset_id)
    with pytest.raises(InvalidImage):
        library.add(dataset_id, [NewPicture("p.png", b"no picture")], "cat", None)
    big = encoded(Image.new("1", (9000, 6000)), "PNG")
    with pytest.raises(ImageTooLarge):
        library.add(dataset_id, [NewPicture("p.png", big)], "cat", "test")
    assert library.listing(dataset_id) == before


def test_two_at_once_lose_nothing(library: Library, tmp_path: Path) -> None:
    archive = sent(tmp_path, zipped(GOOD))
    barrier = threading.Barrier(4)

    def create(_: int) -> str:
        barrier.wait(10)
        return library.create("x", archive).info.id

    def add(number: int) -> None:
        library.add(ids[0], [NewPicture("n.png", photo(600 + number))], "cat", None)

    with ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(create, range(4)))
        assert sorted(ids) == library.ids()
        list(pool.map(add, range(8)))
    assert library.listing(ids[0]).info.classes == {"cat": 16, "dog": 8}
    assert len(library.load(ids[1]).examples) == 16


def test_deleting_leaves_nothing(library: Library, tmp_path: Path) -> None:
    first = library.create("x", None)
    before = on_disk(tmp_path)
    made = library.create("y", sent(tmp_path, zipped(GOOD))).info.id
    library.delete(made)
    assert on_disk(tmp_path) - before == {"upload"}
    for gone in (made, "ds_nonesuch", "../before", "ds_../../x", ""):
        with pytest.raises(DatasetNotFound):
            library.delete(gone)
        with pytest.raises(DatasetNotFound):
            library.load(gone)
    assert library.ids() == [first.info.id]


def test_an_id_is_given_once(library: Library) -> None:
    library.create("x", None, dataset_id="ds_mine")
    with pytest.raises(Conflict):
        library.create("y", None, DEFAULT, dataset_id="ds_mine")
    assert library.listing("ds_mine").info.name == "x"


def test_a_thumbnail_is_made_once(library: Library, tmp_path: Path) -> None:
    listing = library.create("x", sent(tmp_path, zipped({"cat/1.png": photo(1, side=40)})))
    digest = listing.files[0].sha256 or ""
    first = library.thumbnail(listing.info.id, digest)
    with Image.open(io.BytesIO(first)) as image:
        assert (image.format, image.size) == ("JPEG", (160, 160))
    library.picture(listing.info.id, digest).unlink()
    assert library.thumbnail(listing.info.id, digest) == first
    with pytest.raises(DatasetNotFound):
        library.thumbnail(listing.info.id, "0" * 64)


KILLED = """
import os, sys
from pathlib import Path
from models.datasets.library import Library
from models.datasets.archives.limits import Limits
def told(done, path):
    if done == 7:
        os.kill(os.getpid(), 9)
Library(Path(sys.argv[1]), Limits(free_bytes=0)).create("x", Path(sys.argv[2]), told=told)
"""


def test_a_killed_admission_leaves_nothing_after_the_next_start(
    library: Library, tmp_path: Path
) -> None:
    archive = sent(tmp_path, zipped(GOOD))
    root = tmp_path / "datasets"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(root), str(archive)], timeout=60, check=False
    )
    assert killed.returncode == -9
    assert len(list(root.glob(".staging/*/files/*/*"))) == 7, "it was in the middle"
    assert len(library.sweep()) == 1
    assert on_disk(root) == {".staging"}
    assert library.ids() == []


def test_real_pictures(library: Library, shared: Path) -> None:
    listing = library.create("faces", shared / "data" / "caltech-objects")
    info = listing.info
    assert info.trainable
    assert info.splits == {"train": 84 - 12, "validation": 12, "test": 30}
    assert info.rejected == []
    assert library.load(info.id).digest == info.digest
