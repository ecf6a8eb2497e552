"""The folders and tables by which datasets that people really have name their classes."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from contracts.training.datasets import DatasetInfo
from models.datasets.archives.limits import Limits
from models.datasets.archives.name_encoding import Naming
from models.datasets.labels_file import TableLabels, read_tables
from models.datasets.layout import split_of
from models.datasets.store import DatasetStore
from tests.models.datasets.packing import photo, zipped


@pytest.fixture
def store(tmp_path: Path) -> DatasetStore:
    return DatasetStore(tmp_path / "datasets", Limits(free_bytes=0))


def imported(store: DatasetStore, tmp_path: Path, files: dict[str, bytes]) -> DatasetInfo:
    path = tmp_path / "upload.zip"
    path.write_bytes(zipped(files))
    return store.create("x", path).info


def folders(spec: dict[str, int]) -> dict[str, bytes]:
    names = [f"{folder}/{n}.png" for folder, count in spec.items() for n in range(count)]
    return {name: photo(number) for number, name in enumerate(names)}


def notes(info: DatasetInfo) -> dict[str, str]:
    return {warning.code: warning.detail for warning in info.warnings}


@pytest.mark.parametrize(
    ("spec", "classes", "splits"),
    [
        ({"train/cat": 6, "train/dog": 6, "dev/cat": 2, "test/dog": 3}, "cat dog", (12, 2, 3)),
        ({"Train/cat": 6, "VALID/cat": 2, "Test/cat": 3}, "cat", (6, 2, 3)),
        ({"training_set/training_set/cats": 6, "test_set/test_set/cats": 2}, "cats", (5, 1, 2)),
        ({"seg_train/seg_train/sea": 6, "seg_test/seg_test/sea": 2}, "sea", (5, 1, 2)),
        ({"train/train/cat": 6, "train/train/dog": 6}, "cat dog", (10, 2, 0)),
        ({"a/b/train/cat": 6, "a/b/val/cat": 2}, "cat", (6, 2, 0)),
        ({"train/images/cat": 6, "test/images/cat": 2}, "cat", (5, 1, 2)),
        ({"train2017/cat": 6, "val2017/cat": 2}, "cat", (6, 2, 0)),
        ({"images_train/cat": 6, "images_test/cat": 2}, "cat", (5, 1, 2)),
        ({"pets_train/cat": 6, "pets_test/cat": 2}, "cat", (5, 1, 2)),
        ({"x_train/x_train/A": 6, "x_train/x_train/x_b": 4, "x_test/x_test/A": 2}, "A x_b", None),
        ({"My pets-Train/cat": 6, "My pets-Valid/cat": 2}, "cat", (6, 2, 0)),
        ({"old_train/a": 6, "old_car/b": 6}, "old_car old_train", None),
        ({"old_train": 6, "old_test": 6}, "old_test old_train", None),
        ({"cat/train": 6, "cat/test": 2, "dog/train": 4, "dog/test": 1}, "cat dog", (8, 2, 3)),
        ({"train/n01/images": 6, "train/n02/images": 6}, "n01 n02", (10, 2, 0)),
        ({"test": 6, "prod": 6}, "prod test", None),
        ({"dev": 6, "cat": 6}, "cat dev", None),
        ({"train": 6, "car": 6}, "car train", None),
        ({"train": 6, "test": 6}, "test train", None),
        ({"set": 6, "image": 6}, "image set", None),
        ({"con": 6, "nul": 6, "aux.txt": 6}, "aux.txt con nul", None),
    ],
)
def test_folders_of_splits_and_classes(
    store: DatasetStore,
    tmp_path: Path,
    spec: dict[str, int],
    classes: str,
    splits: tuple[int, int, int] | None,
) -> None:
    info = imported(store, tmp_path, folders(spec))
    assert sorted(info.classes) == classes.split()
    assert info.rejected == []
    if splits is not None:
        assert tuple(info.splits.values()) == splits


def test_images_without_labels_beside_splits_are_left_out(
    store: DatasetStore, tmp_path: Path
) -> None:
    spec = {"seg_train/seg_train/sea": 6, "seg_pred/seg_pred": 3, "data": 1}
    info = imported(store, tmp_path, folders(spec))
    assert info.classes == {"sea": 6}
    assert [one.code for one in info.rejected] == ["no_label"] * 4
    info = imported(store, tmp_path, folders({"train/cat": 6, "train/dog": 6, "test/test": 3}))
    assert info.classes == {"cat": 6, "dog": 6}


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"animals/cats": 6, "vehicles/cars": 6}, "animals/cats"),
        ({"train/animals/cats": 6, "train/vehicles/cars": 6}, "vehicles/cars"),
        ({"": 6}, "no image is in the folder of a class"),
        ({"data/images": 6}, "called images"),
        ({"train/images": 6, "val/images": 6}, "called images"),
    ],
)
def test_a_layout_that_looks_wrong_is_told(
    store: DatasetStore, tmp_path: Path, spec: dict[str, int], told: str
) -> None:
    files = {name.lstrip("/"): data for name, data in folders(spec).items()}
    assert told in notes(imported(store, tmp_path, files))["layout"]


def test_an_ordinary_layout_is_not_told(store: DatasetStore, tmp_path: Path) -> None:
    for spec in ({"a": 6, "b": 6}, {"a/deep": 6, "b": 6}, {"a/images": 6, "b/images": 6}):
        assert "layout" not in notes(imported(store, tmp_path, folders(spec)))


HIDDEN = [
    "cat/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg",
    "cat/.ipynb_checkpoints/1-checkpoint.jpg",
    "cat/Thumbs.db",
    "cat/.@__thumb/s1001.jpg",
    "#recycle/1.png",
    "cat/System Volume Information/x.png",
    "cat/$RECYCLE.BIN/y.png",
    "__MACOSX/cat/._1.png",
    "cat/~$1.png",
    "cat/Icon\r",
]


def test_what_systems_leave_behind_is_hidden(store: DatasetStore, tmp_path: Path) -> None:
    files = folders({"cat": 3, "dog": 3})
    info = imported(store, tmp_path, files | {n: photo(90 + i) for i, n in enumerate(HIDDEN)})
    assert info.classes == {"cat": 3, "dog": 3}
    assert {one.code for one in info.rejected} == {"hidden"}
    assert info.rejected_count == len(HIDDEN)


FLAT = {f"images/{n}.png": photo(n) for n in range(8)}
LABELS = {str(n): "cat" if n < 4 else "dög" for n in range(8)}
ROWS = [(f"{n}.png", label) for n, label in LABELS.items()]


def table(rows: Sequence[tuple[str, ...]], separator: str = ",", end: str = "\n") -> str:
    return end.join(separator.join(row) for row in rows) + end


TABLES: dict[str, bytes] = {
    "labels.csv": table([("file", "label"), *ROWS]).encode(),
    "bom.csv": table([("file", "label"), *ROWS]).encode("utf-8-sig"),
    "excel.csv": table([("Datei", "Klasse"), *ROWS], ";", "\r\n").encode("cp1252"),
    "unicode.txt": table([("Filename", "Class"), *ROWS], "\t").encode("utf-16"),
    "quoted.csv": table(
        [('"filename"', '"label"'), *((f'"{a}"', f'"{b}"') for a, b in ROWS)]
    ).encode(),
    "headless.csv": table(ROWS).encode(),
    "labels.tsv": table([("image_id", "breed"), *LABELS.items()], "\t").encode(),
    "paths.csv": table(
        [("path", "label"), *((f"C:\\old\\images\\{a}", b) for a, b in ROWS)]
    ).encode(),
    "more.csv": table(
        [("id", "width", "class_name", "label"), *((a, "8", b, "1") for a, b in ROWS)]
    ).encode(),
    "val_annotations.txt": table([(a, b, "0", "0", "8", "8") for a, b in ROWS], "\t").encode(),
    "list.txt": table([(f"images/{a}", b) for a, b in ROWS], " ").encode(),
    "one_hot.csv": table(
        [
            ("filename", "cat", "dög"),
            *((a, str(int(b == "cat")), str(int(b != "cat"))) for a, b in ROWS),
        ],
        ", ",
    ).encode(),
    "metadata.jsonl": "\n".join(json.dumps({"file_name": a, "label": b}) for a, b in ROWS).encode(),
    "list.json": json.dumps([{"image": a, "labels": [b]} for a, b in ROWS]).encode(),
    "map.json": json.dumps(dict(ROWS), ensure_ascii=False).encode(),
    "LOC_train.csv": table(
        [
            ("ImageId", "PredictionString"),
            *((a[:-4], f"{b} 1 2 3 {n}") for n, (a, b) in enumerate(ROWS)),
        ]
    ).encode(),
    "remarks.csv": ("# made by hand\n#\n" + table([("file", "label"), *ROWS])).encode(),
    "classes.json": json.dumps(
        {name: [a for a, b in ROWS if b == name] for name in ("cat", "dög")}
    ).encode(),
    "numbered.txt": table([(a, b, str(n)) for n, (a, b) in enumerate(ROWS)], " ").encode(),
    "sep.csv": ("sep=;\n" + table([("file", "label"), *ROWS], ";")).encode(),
}


@pytest.mark.parametrize("name", TABLES)
def test_labels_come_from_a_table(store: DatasetStore, tmp_path: Path, name: str) -> None:
    for place in ("", "images/"):
        info = imported(store, tmp_path, FLAT | {place + name: TABLES[name]})
        assert info.classes == {"cat": 4, "dög": 4}
        assert [(one.path, one.code, one.action) for one in info.rejected] == [
            (place + name, "labels_file", "read")
        ]
        assert place + name in notes(info)["labels_file"]


def test_names_and_classes_with_spaces_in_a_list(store: DatasetStore, tmp_path: Path) -> None:
    files = {f"my dog {n}.png": photo(n) for n in range(4)}
    rows = "".join(f"my dog {n}.png {'great dane' if n % 2 else 'pug'}\n" for n in range(4))
    info = imported(store, tmp_path, files | {"list.txt": rows.encode()})
    assert info.classes == {"great dane": 2, "pug": 2}


def test_a_table_says_the_split_or_its_folder_does(store: DatasetStore, tmp_path: Path) -> None:
    rows = [("file", "label", "split")]
    rows += [(a, b, "test" if "3" in a else "Training") for a, b in ROWS]
    info = imported(store, tmp_path, FLAT | {"labels.csv": table(rows).encode()})
    assert (info.splits["test"], info.splits["train"] + info.splits["validation"]) == (1, 7)
    files = {f"{'test' if n < 2 else 'train'}/{n}.png": photo(n) for n in range(8)}
    info = imported(store, tmp_path, files | {"labels.csv": TABLES["labels.csv"]})
    assert (info.classes, info.splits["test"]) == ({"cat": 4, "dög": 4}, 2)
    # Only the images of `train` are labeled, as in many competitions.
    files |= {f"test/{n}.png": photo(100 + n) for n in range(20, 24)}
    some = table([("id", "label"), *((str(n), LABELS[str(n)]) for n in range(2, 8))]).encode()
    info = imported(store, tmp_path, files | {"labels.csv": some})
    assert (sum(info.classes.values()), info.splits["test"] > 0) == (6, True)


def test_a_table_and_folders_that_disagree_are_told(store: DatasetStore, tmp_path: Path) -> None:
    files = folders({"cat": 20, "dog": 20})
    rows = [("file", "label"), ("cat/0.png", "dog"), ("cat/1.png", "cat"), ("gone.png", "dog")]
    info = imported(store, tmp_path, files | {"labels.csv": table(rows).encode()})
    assert info.classes == {"cat": 20, "dog": 20}
    note = notes(info)["labels_file"]
    assert "cat/0.png (cat, dog)" in note
    assert "1 names in it are no image" in note


def test_images_that_a_table_does_not_name_are_left_out(
    store: DatasetStore, tmp_path: Path
) -> None:
    rows = table([("file", "label"), *ROWS[:6], ROWS[0], (ROWS[1][0], "other")])
    info = imported(store, tmp_path, FLAT | {"labels.csv": rows.encode()})
    codes = {one.path: one.code for one in info.rejected}
    assert codes == {
        "labels.csv": "labels_file",
        "images/1.png": "label_conflict",
        "images/6.png": "no_label",
        "images/7.png": "no_label",
    }


def test_thousands_of_images_with_one_name_are_told_apart_at_once() -> None:
    images = [f"Data/k{number}/a.PNG" for number in range(20_000)]
    rows = [(f"k{number}/a.png", f"c{number % 2}") for number in range(300)]
    rows += [(f"data/k{number}/a", "c0") for number in range(300, 600)] + [("a.png", "c1")] * 300
    began = time.thread_time()
    found = read_tables([("x.csv", table([("file", "label"), *rows]).encode())], images)
    assert time.thread_time() - began < 3  # not a minute
    assert (len(found.labels), found.missing) == (600, 300)
    assert found.labels["Data/k599/a.PNG"].label == "c0"


def test_a_name_that_another_split_has_too_is_not_mistaken() -> None:
    """Only the images of `train` were sent; those of `val` have the same names."""
    images = [f"photos/train/{number}.png" for number in range(8)]
    labels = {image: "cat" if place < 4 else "dog" for place, image in enumerate(images)}
    train = [(f"train/{number}.png", labels[image]) for number, image in enumerate(images)]
    val = [(f"val/{number}.png", "bird") for number in range(8)]
    names = [(file.partition("/")[2], label) for file, label in train + val]
    split = [(*row, "train" if place < 8 else "val") for place, row in enumerate(names)]

    def read(*tables: tuple[str, list[tuple[str, ...]]]) -> TableLabels:
        head = ("file", "label", "split")
        texts = [(name, table([head[: len(rows[0])], *rows])) for name, rows in tables]
        return read_tables([(name, text.encode()) for name, text in texts], images)

    for found in (
        read(("photos/labels.csv", train + val)),
        read(("photos/labels.csv", val + train)),
        read(("labels.csv", split)),
        read(("labels.csv", [*split[8:], *split[:8]])),
        read(("train.csv", names[:8]), ("val.csv", names[8:])),
        read(("photos/val/a.csv", names[8:]), ("photos/train/a.csv", names[:8])),
    ):
        assert {image: found.labels[image].label for image in images} == labels
        assert not found.conflicts
    only_val = read(("photos/labels.csv", val), ("photos/val/labels.csv", names[8:]))
    assert (only_val.labels, only_val.missing) == ({}, 16)
    twice = read(("photos/labels.csv", [*train, ("train/0.png", "dog"), *val]))
    assert twice.conflicts == {images[0]}
    # Both are there, and only the column tells them apart.
    images += [image.replace("train", "val") for image in images]
    both = read(("labels.csv", split))
    assert len(both.labels) == 16
    assert both.labels["photos/val/0.png"].label == "bird"


def test_other_tables_are_ignored(store: DatasetStore, tmp_path: Path) -> None:
    files = folders({"cat": 3, "dog": 3})
    others = {
        "a.csv": b"a,b\n",
        "b.csv": b"x,y\n1,2\n" * 50,
        "c.json": b"[" * 100_000,
        "d.json": b'{"images": [{"file_name": "0.png"}]}',
        "e.csv": b"\xff\xfe\x00",
        "f.txt": b"notes about 0.png\n",
        "g.csv": b'"' + b"x" * 200_000,
        "h.jsonl": b"{}\n",
        "i.csv": b"",
        "j.jsonl": b"{}\n{}\n",
        "k.json": b"[{}]",
        "l.json": json.dumps(
            [dict.fromkeys(map(str, range(100_000)), 1)] + [{"a": 1}] * 999
        ).encode(),
    }
    info = imported(store, tmp_path, files | others)
    assert info.classes == {"cat": 3, "dog": 3}
    assert {one.code for one in info.rejected} == {"not_an_image"}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("Training", "train"),
        ("test1", "test"),
        ("validation-set", "validation"),
        ("trainset", "train"),
        ("dev", "validation"),
        ("test-multiple_fruits", None),
        ("training dogs", None),
        ("latest", None),
        ("set", None),
        ("", None),
    ],
)
def test_names_of_splits(name: str, split: str | None) -> None:
    assert split_of(name) == split


def test_labels_come_from_file_names_if_the_client_says_so(
    store: DatasetStore, tmp_path: Path
) -> None:
    names = [f"train/{label}{number}.jpg" for label in ("cat.", "great_dane_") for number in "012"]
    names += ["train/no number.jpg", "test1/7.jpg", "train/pug (3).jpg"]
    files = {name: photo(at) for at, name in enumerate(names)}
    plain = imported(store, tmp_path, {name: files[name] for name in names[:6]})
    assert "labels_from=file_names" in notes(plain)["layout"]
    path = tmp_path / "upload.zip"
    path.write_bytes(zipped(files))
    info = store.create("x", path, naming=Naming(labels_from="file_names")).info
    assert info.classes == {"cat": 3, "great_dane": 3, "pug": 1}
    assert {one.path for one in info.rejected} == {"train/no number.jpg", "test1/7.jpg"}


def test_archives_in_an_archive_are_told(store: DatasetStore, tmp_path: Path) -> None:
    info = imported(store, tmp_path, {"train.zip": zipped(folders({"cat": 3})), "a.csv": b"a,b"})
    assert "train.zip" in notes(info)["layout"]
