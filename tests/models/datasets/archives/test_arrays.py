"""The .npz files of keras.datasets and their kin become datasets as they are."""

import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.errors import InvalidArchive
from models.datasets.archives.limits import Limits
from models.datasets.store import DatasetStore
from tests.models.datasets.stored import image_path


@pytest.fixture
def store(tmp_path: Path) -> DatasetStore:
    return DatasetStore(tmp_path / "datasets", Limits(free_bytes=0, files=200))


def images(count: int, *shape: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def saved(tmp_path: Path, *, packed: bool = True, **arrays: Any) -> Path:
    path = tmp_path / "mnist.npz"
    (np.savez_compressed if packed else np.savez)(path, **arrays)
    return path


LABELS = np.arange(20) % 2


@pytest.mark.parametrize(
    ("arrays", "classes", "splits"),
    [
        (
            {"x_train": images(20, 8, 8), "y_train": LABELS}
            | {"x_test": images(4, 8, 8, seed=1), "y_test": LABELS[:4]},
            {"0": 12, "1": 12},
            (16, 4, 4),
        ),
        (
            {"train_images": images(20, 8, 8, 3), "train_labels": LABELS[:, None]}
            | {"val_images": images(4, 8, 8, 3, seed=1), "val_labels": LABELS[:4, None]},
            {"0": 12, "1": 12},
            (20, 4, 0),
        ),
        ({"x": images(20, 8, 6, 1), "y": np.eye(2)[LABELS].astype(int)}, {"0": 10, "1": 10}, None),
        (
            {"images": images(20, 8, 6, 4), "labels": np.array(["cat", "dog"])[LABELS]},
            {"cat": 10, "dog": 10},
            None,
        ),
        ({"arr_0": images(20, 5, 8), "arr_1": LABELS.astype(np.uint8)}, {"0": 10, "1": 10}, None),
    ],
)
def test_arrays_become_a_dataset(
    store: DatasetStore,
    tmp_path: Path,
    arrays: dict[str, Any],
    classes: dict[str, int],
    splits: tuple[int, int, int] | None,
) -> None:
    for packed in (True, False):
        listing = store.create("x", saved(tmp_path, packed=packed, **arrays))
        assert (listing.info.classes, listing.info.rejected) == (classes, [])
        if splits is not None:
            assert tuple(listing.info.splits.values()) == splits


def test_arrays_in_a_folder_whose_name_is_not_marked_as_utf8(
    store: DatasetStore, tmp_path: Path
) -> None:
    packed = saved(tmp_path, **{"m___use/x": images(20, 8, 8), "m___use/y": LABELS}).read_bytes()
    path = tmp_path / "names.npz"
    path.write_bytes(packed.replace(b"m___use", "m-äuse".encode()))
    assert store.create("x", path).info.classes == {"0": 10, "1": 10}


def test_the_pixels_are_those_of_the_array(store: DatasetStore, tmp_path: Path) -> None:
    from PIL import Image

    pixels = images(1, 9, 7, 3)
    listing = store.create("x", saved(tmp_path, x=pixels, y=np.array([3])))
    path = image_path(store, listing.info.id, listing.files[0].sha256 or "")
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        assert np.array_equal(np.asarray(image), pixels[0])


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"x": images(3, 8, 8)}, "not understood"),
        ({"weights": np.zeros(3)}, "not understood"),
        ({"x": images(3, 8, 8), "y": LABELS}, "3 images and 20 labels"),
        ({"x": images(20, 8, 8).astype(np.float32), "y": LABELS}, "float32"),
        ({"x": images(20, 8, 8, 2), "y": LABELS}, "shape"),
        ({"x": images(20, 8), "y": LABELS}, "shape"),
        ({"x": images(20, 8, 8), "y": LABELS.astype(float)}, "no labels"),
        ({"x": images(20, 8, 8), "y": np.array([{}] * 20)}, "objects"),
        ({"x": np.asfortranarray(images(20, 8, 8)), "y": LABELS}, "Fortran"),
        ({"x": images(300, 2, 2), "y": np.zeros(300, int)}, "more than 200 files"),
        ({"x": images(20, 8, 8), "y": np.zeros((20, 0), int)}, "no labels"),
        ({"x": np.zeros((0, 8, 8), np.uint8), "y": np.zeros(0, int)}, "no labels"),
    ],
)
def test_other_arrays_are_refused(
    store: DatasetStore, tmp_path: Path, arrays: dict[str, Any], told: str
) -> None:
    with pytest.raises(InvalidArchive, match=told):
        store.create("x", saved(tmp_path, **arrays))
    assert store.ids() == []


def test_negative_sizes_are_refused_before_anything_is_read(
    store: DatasetStore, tmp_path: Path
) -> None:
    labels = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        labels, {"descr": "|u1", "fortran_order": False, "shape": (-20,)}
    )
    path = saved(tmp_path, x=images(20, 8, 8))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("y.npy", labels.getvalue() + bytes(1_000_000))
    with pytest.raises(InvalidArchive, match="no labels"):
        store.create("x", path)


def test_a_header_is_no_longer_than_a_real_one_whatever_it_claims(
    store: DatasetStore, tmp_path: Path
) -> None:
    size = 20_000_000
    path = tmp_path / "long.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        start = np.lib.format.magic(2, 0) + size.to_bytes(4, "little")
        for name in ("x.npy", "y.npy"):
            archive.writestr(name, start + bytes(size))
    tracemalloc.start()
    try:
        with pytest.raises(InvalidArchive, match="not a NumPy array"):
            store.create("long", path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < size // 4


def array_of(header: str, content: bytes = bytes(5000)) -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


@pytest.mark.parametrize(
    "labels",
    [
        array_of("-" * 9000 + "1"),
        array_of("(" * 3000),
        array_of("{'descr': '<U8', 'fortran_order': False, 'shape': (True,)}"),
        array_of("{'descr': '<U8', 'fortran_order': False, 'shape': (4,)}", b"\xff" * 128),
        array_of("{'descr': '<U4', 'fortran_order': False, 'shape': (4,)}", b"a\0\0\0" * 16)
        .replace(b"a\0\0\0a\0\0\0", b"a\0\0\0\0\0\0\0"),
        array_of("{'descr': '<U2', 'fortran_order': False, 'shape': (4,)}", b".\0\0\0" * 8),
    ],
    ids=["minus", "brackets", "bool", "no_characters", "nul", "dots"],
)  # fmt: skip
def test_a_crafted_array_is_an_error_of_the_upload(
    store: DatasetStore, tmp_path: Path, labels: bytes
) -> None:
    path = saved(tmp_path, x=images(4, 8, 8))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("y.npy", labels)
    with pytest.raises(InvalidArchive):
        store.create("crafted", path)
    assert store.ids() == []


def test_half_a_surrogate_pair_in_a_label_is_no_internal_error(
    store: DatasetStore, tmp_path: Path
) -> None:
    labels = "{'descr': '<U1', 'fortran_order': False, 'shape': (4,)}"
    path = saved(tmp_path, x=images(4, 8, 8))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("y.npy", array_of(labels, (0xD800).to_bytes(4, "little") * 4))
    assert all("?" in file.path for file in store.create("crafted", path).files)
