"""Images are added without reading the whole dataset into objects, and with the same result."""

import hashlib
import json
import os
import random
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import pytest

from contracts.errors import DatasetNotFound
from contracts.training.datasets import DatasetFile, DatasetInfo, Listing
from models.datasets.addition import NewImage, NewImages
from models.datasets.admission import content_path
from models.datasets.archives.limits import Limits
from models.datasets.dataset import SPLITS
from models.datasets.labeling import remove_duplicates
from models.datasets.listing import LISTING, write_listing
from models.datasets.report import report
from models.datasets.splitting import Fractions, split_files
from models.datasets.store import DatasetStore
from models.store import staging
from tests.models.datasets.packing import on_disk, photo, tree, written
from tests.models.datasets.stored import image_path


@pytest.fixture
def store(tmp_path: Path) -> DatasetStore:
    return DatasetStore(tmp_path / "datasets", Limits(free_bytes=0))


def add(store: DatasetStore, dataset_id: str, new: NewImages) -> tuple[DatasetFile, ...]:
    with store.lock(dataset_id), store.addition(dataset_id, new) as addition:
        addition.stage()
        addition.publish()
    return addition.files


def computed_anew(listing: Listing) -> Listing:
    """The listing as it would be if all of its files had been sent at once."""
    info = listing.info
    fractions = Fractions(listing.validation, listing.test, info.seed)
    files = split_files(remove_duplicates(listing.files), fractions)
    whole = report(
        info.id,
        info.name,
        files,
        files.__getitem__,
        seed=info.seed,
        revision=info.revision,
        created_at=info.created_at,
    )
    return listing.model_copy(update={"info": whole, "files": files})


@pytest.mark.parametrize("seed", range(4))
def test_additions_give_what_computing_everything_anew_gives(
    store: DatasetStore, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    labels = ["cat", 'a "quoted" \\ one', "猫", "{}],"]
    files = tree({label.replace("\\", ""): 6 for label in labels[: rng.randint(0, 4)]})
    if seed % 2:
        files = {f"train/{path}": data for path, data in files.items()}
    made = store.create("x", written(tmp_path / "folder", files) if files else None).info.id
    for _ in range(12):
        # Images of a small pool: many are sent twice, some of them with another label.
        images = [
            NewImage(rng.choice(["a.png", "b", "ä.png"]), photo(rng.randrange(40)))
            for _ in range(rng.randint(2, 5))
        ]
        add(store, made, NewImages(images, rng.choice(labels), rng.choice([None, *SPLITS])))
        listing = store.listing(made)
        assert listing == computed_anew(listing)
        assert len({file.path for file in listing.files}) == len(listing.files)
    stored = {path.name for path in (image_path(store, made, "00").parent.parent).glob("*/*")}
    assert stored == {file.sha256 for file in listing.files if file.status == "admitted"}
    assert len(store.load(made).examples) == sum(listing.info.classes.values())


def test_an_unpublished_addition_leaves_nothing(store: DatasetStore, tmp_path: Path) -> None:
    made = store.create("x", written(tmp_path / "folder", tree({"cat": 3}))).info.id
    before, listing = on_disk(tmp_path), store.listing(made)
    new = NewImages([NewImage("a.png", photo(77))], "cat", None)
    with store.lock(made), store.addition(made, new) as addition:
        addition.stage()
    assert (on_disk(tmp_path), store.listing(made)) == (before, listing)


def test_a_listing_of_another_layout_is_normalized(store: DatasetStore, tmp_path: Path) -> None:
    made = store.create("x", written(tmp_path / "folder", tree({"cat": 3}))).info.id
    path = tmp_path / "datasets" / made / LISTING
    edited = json.loads(path.read_text())
    edited["files"][0] = dict(reversed(edited["files"][0].items()))
    path.write_text(json.dumps(edited, indent=1))
    assert store.revision(made) == 1
    add(store, made, NewImages([NewImage("a.png", photo(77))], "cat", None))
    listing = store.listing(made)
    assert (listing.info.revision, listing.info.classes) == (2, {"cat": 4})
    assert listing == computed_anew(listing)


def test_a_damaged_listing_is_told_and_can_be_deleted(store: DatasetStore, tmp_path: Path) -> None:
    made = store.create("x", written(tmp_path / "folder", tree({"cat": 3}))).info.id
    path = tmp_path / "datasets" / made / LISTING
    path.write_bytes(path.read_bytes()[:-40])
    new = NewImages([NewImage("a.png", photo(77))], "cat", None)
    with pytest.raises(DatasetNotFound, match="damaged"), store.lock(made):
        store.addition(made, new).__enter__()
    store.delete(made)
    assert store.ids() == []


def large_listing(store: DatasetStore, root: Path, files: int) -> str:
    """Replace the listing of an empty dataset by one of many files that exist only there."""
    made = store.create("large", None).info
    many = [
        DatasetFile(
            id=f"file_{number:024x}",
            path=f"class {number % 10}/an image with some name {number}.jpg",
            status="admitted",
            label=f"class {number % 10}",
            sha256=f"{number:064x}",
            size=1000,
            width=640,
            height=480,
            media_type="image/jpeg",
        )
        for number in range(files)
    ]
    listing = Listing(info=made, validation=0.15, test=0.15, files=many)
    write_listing(root / made.id, computed_anew(listing))
    return made.id


def test_adding_to_a_large_dataset_takes_little_memory(store: DatasetStore, tmp_path: Path) -> None:
    made = large_listing(store, tmp_path / "datasets", 20_000)
    new = NewImages([NewImage("a.png", photo(1))], "class 3", None)
    tracemalloc.start()
    try:
        (file,) = add(store, made, new)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert file.status == "admitted"
    assert peak < 25_000_000, "an object for each file would take 125 MB"
    listing = store.listing(made)
    assert len(listing.files) == 20_001
    assert listing == computed_anew(listing)


def test_the_revision_is_read_from_the_beginning(tmp_path: Path, store: DatasetStore) -> None:
    made = store.create('a "name" with \\ and {"revision":7,', None).info
    path = tmp_path / "datasets" / made.id / LISTING
    path.write_bytes(path.read_bytes()[:-30])
    assert store.revision(made.id) == 1
    with pytest.raises(DatasetNotFound):
        store.revision("ds_nonesuch")


def test_an_older_release_reads_the_listing(store: DatasetStore, tmp_path: Path) -> None:
    """It knows no `answer`, and ignores what it does not know."""
    made = store.create("x", written(tmp_path / "folder", tree({"cat": 3}))).info.id
    add(store, made, NewImages([NewImage("a.png", photo(77))], "cat", None))
    stored = json.loads((tmp_path / "datasets" / made / LISTING).read_bytes())
    assert set(stored) == {"info", "validation", "test", "answer", "files"}
    assert list(stored)[-1] == "files"
    assert DatasetInfo.model_validate(stored["info"]).created_at < datetime.now(UTC)


class Disk:
    """Remembers what has reached the disk, so that a power cut can be imagined at any moment."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.flushed: set[tuple[int, int]] = set()
        self.lost: list[Path] = []
        fsync = os.fsync

        def flush(handle: int) -> None:
            fsync(handle)
            status = os.fstat(handle)
            self.flushed.add((status.st_dev, status.st_ino))

        monkeypatch.setattr(os, "fsync", flush)

    def is_safe(self, path: Path) -> bool:
        status = path.stat()
        return (status.st_dev, status.st_ino) in self.flushed

    def note_what_a_listing_names_too_early(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Look, whenever a listing is about to take effect, whether its images are safe."""
        rename = Path.rename

        def renamed(path: Path, target: Path) -> Path:
            if target.name == LISTING:
                files = target.parent / "files"
                needed = [*files.rglob("*"), files] if files.exists() else []
                self.lost += [one for one in needed if not self.is_safe(one)]
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", renamed)


@pytest.mark.parametrize("few", [0, 1000])
def test_a_dataset_names_no_image_that_a_power_cut_would_lose(
    store: DatasetStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    disk = Disk(monkeypatch)
    disk.note_what_a_listing_names_too_early(monkeypatch)
    monkeypatch.setattr(staging, "_FEW", few)
    synced = []

    def sync(path: Path) -> bool:
        """The whole file system is safe after this."""
        synced.append(path)
        for one in (tmp_path / "datasets").rglob("*"):
            status = one.stat()
            disk.flushed.add((status.st_dev, status.st_ino))
        return actual(path)

    actual = staging._flush_file_system
    monkeypatch.setattr(staging, "_flush_file_system", sync)
    made = store.create("x", written(tmp_path / "folder", tree({"cat": 3}))).info.id
    disk.flushed.clear()  # only what follows counts: the folders get new entries
    for path in (tmp_path / "datasets" / made / "files").rglob("*"):
        if path.is_file():
            status = path.stat()
            disk.flushed.add((status.st_dev, status.st_ino))
    images = [NewImage(f"{number}.png", photo(100 + number)) for number in range(5)]
    add(store, made, NewImages(images, "cat", None))
    new_folders = {
        content_path(Path("x"), hashlib.sha256(one.data).hexdigest()).parent.name for one in images
    }
    lost = [path for path in disk.lost if path.is_file() or path.name in new_folders | {"files"}]
    assert lost == []
    assert bool(synced) == (few == 0)
