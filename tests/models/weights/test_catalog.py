import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import NotFound
from models.weights.catalog import Weights, WeightsMissing
from models.weights.sources import WeightEntry


def entry(content: bytes, url: str, *, digest: str | None = None) -> WeightEntry:
    """A file that may lie in a directory or come from `url`."""
    promised = digest or f"sha256:{hashlib.sha256(content).hexdigest()}"
    source = {"kind": "https", "file": "net.npz", "format": "npz", "digest": promised, "url": url}
    return WeightEntry.model_validate({"content": "A net", "licence": "MIT", "sources": [source]})


def weights_of(
    publisher: Any, tmp_path: Path, *, offline: bool = False, directory: Path | None = None
) -> Weights:
    entries = {"net": entry(publisher.content, publisher.url)}
    return Weights(tmp_path / "home", directory, offline, entries=entries)


def test_nothing_is_fetched_before_pull(publisher: Any, tmp_path: Path) -> None:
    weights = weights_of(publisher, tmp_path)
    with pytest.raises(WeightsMissing):
        weights.find("net")
    assert not (tmp_path / "home").exists()
    assert publisher.ranges == []


def test_pulled_file_is_found_and_not_pulled_again(publisher: Any, tmp_path: Path) -> None:
    weights = weights_of(publisher, tmp_path)
    file = weights.pull("net")
    assert file.path.read_bytes() == publisher.content
    assert (file.format, file.source) == ("npz", publisher.url.split("/")[2])
    assert weights.find("net") == weights.pull("net") == weights.verify("net") == file
    assert len(publisher.ranges) == 1
    (row,) = weights.rows()
    assert (row.present, row.size, row.reason) == (True, len(publisher.content), None)


def test_directory_is_used_in_place(publisher: Any, tmp_path: Path) -> None:
    directory = tmp_path / "directory"
    directory.mkdir()
    (directory / "net.npz").write_bytes(publisher.content)
    weights = weights_of(publisher, tmp_path, directory=directory)
    assert weights.pull("net").path == directory / "net.npz"
    assert publisher.ranges == []
    assert [p.name for p in directory.iterdir()] == ["net.npz"]


def test_failed_pull_is_reported_until_one_succeeds(publisher: Any, tmp_path: Path) -> None:
    weights = weights_of(publisher, tmp_path)
    publisher.status = 404
    with pytest.raises(WeightsMissing, match="answered 404"):
        weights.pull("net")
    with pytest.raises(WeightsMissing, match=r"answered 404.*opsin weights pull net.*WEIGHTS_DIR"):
        weights.find("net")
    (row,) = weights.rows()
    assert not row.present
    assert "answered 404" in (row.reason or "")
    assert str(tmp_path) not in (row.reason or "")
    publisher.status = 200
    path = weights.pull("net").path
    path.unlink()
    with pytest.raises(WeightsMissing) as caught:
        weights.find("net")
    assert "404" not in str(caught.value)


def test_offline_says_what_is_missing_and_fetches_nothing(publisher: Any, tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"'net' \(A net\).*OPSIN_OFFLINE"):
        weights_of(publisher, tmp_path, offline=True).pull("net")
    assert publisher.ranges == []


def test_damaged_file_is_noticed_and_replaced(publisher: Any, tmp_path: Path) -> None:
    weights = weights_of(publisher, tmp_path)
    path = weights.pull("net").path
    path.write_bytes(publisher.content[:-1])
    with pytest.raises(WeightsMissing, match="damaged"):
        weights.find("net")
    assert weights.pull("net").path.read_bytes() == publisher.content


def test_find_trusts_size_and_time_but_verify_reads(publisher: Any, tmp_path: Path) -> None:
    weights = weights_of(publisher, tmp_path)
    path = weights.pull("net").path
    before = path.stat()
    path.write_bytes(b"\xff" + publisher.content[1:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    weights.find("net")
    with pytest.raises(WeightsMissing, match="damaged"):
        weights.verify("net")
    with pytest.raises(WeightsMissing, match="damaged"):
        weights.find("net")


def test_two_processes_download_once(publisher: Any, tmp_path: Path) -> None:
    publisher.pause = 0.05
    code = (
        "import sys; from pathlib import Path; from models.weights.sources import WeightEntry;"
        "from models.weights.catalog import Weights;"
        "entry = WeightEntry.model_validate_json(sys.argv[2]);"
        "Weights(Path(sys.argv[1]), None, False, entries={'net': entry}).pull('net')"
    )
    row = entry(publisher.content, publisher.url).model_dump_json()
    command = [sys.executable, "-c", code, str(tmp_path / "home"), row]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert publisher.ranges == [None]
    assert (tmp_path / "home" / "net.npz").read_bytes() == publisher.content


def test_digest_may_be_a_prefix_or_md5(publisher: Any, tmp_path: Path) -> None:
    content = publisher.content
    prefix = f"sha256-prefix:{hashlib.sha256(content).hexdigest()[:8]}"
    md5 = f"md5:{hashlib.md5(content).hexdigest()}"
    for number, digest in enumerate((prefix, md5)):
        entries = {"net": entry(content, publisher.url, digest=digest)}
        weights = Weights(tmp_path / str(number), None, False, entries=entries)
        assert weights.pull("net").digest == digest


def test_file_is_found_only_with_its_companions(tmp_path: Path) -> None:
    parts = {"net.bin": b"numbers", "net.json": b"what they mean"}
    digests = {name: f"sha256:{hashlib.sha256(data).hexdigest()}" for name, data in parts.items()}
    beside = {"file": "net.json", "digest": digests["net.json"]}
    source = {"kind": "directory", "file": "net.bin", "format": "tfjs", "companions": [beside]}
    source["digest"] = digests["net.bin"]
    whole = {"content": "A net", "licence": "MIT", "sources": [source]}
    weights = Weights(tmp_path, None, True, entries={"net": WeightEntry.model_validate(whole)})
    (tmp_path / "net.bin").write_bytes(parts["net.bin"])
    with pytest.raises(WeightsMissing, match=r"with net\.bin and net\.json"):
        weights.find("net")
    (tmp_path / "net.json").write_bytes(b"something else")
    with pytest.raises(WeightsMissing, match=r"net\.json is damaged"):
        weights.find("net")
    (tmp_path / "net.json").write_bytes(parts["net.json"])
    file = weights.find("net")
    assert (file.path, file.companions) == (tmp_path / "net.bin", (tmp_path / "net.json",))
    assert [row.size for row in weights.rows()] == [len(parts["net.bin"] + parts["net.json"])]


def test_unknown_name_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"'nonet'.*squeezenet"):
        Weights(tmp_path, None, True).find("nonet")


@pytest.mark.shared
def test_shared_directory_has_squeezenet_and_the_base(shared: Path, tmp_path: Path) -> None:
    weights = Weights(tmp_path, shared / "weights", True)
    assert weights.find("squeezenet").format == "keras_h5"
    assert weights.find("vgg16_notop").format == "keras_h5"
    assert [row.name for row in weights.rows() if row.present] == ["squeezenet", "vgg16_notop"]
