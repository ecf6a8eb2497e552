import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from models.weights.files import FetchError
from models.weights.https import download


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def fetch(publisher: Any, target: Path, *, seconds: float = 30, progress: Any = None) -> None:
    deadline = time.monotonic() + seconds
    digest = digest_of(publisher.content)
    download(publisher.url, target, digest, progress=progress, deadline=deadline)


def test_only_the_complete_file_appears(publisher: Any, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    fetch(publisher, tmp_path / "w", progress=lambda done, total: seen.append((done, total)))
    assert (tmp_path / "w").read_bytes() == publisher.content
    assert [p.name for p in tmp_path.iterdir()] == ["w"]
    assert seen[-1] == (len(publisher.content), len(publisher.content))
    assert sorted(seen) == seen


def test_dropped_connection_is_resumed(publisher: Any, tmp_path: Path) -> None:
    publisher.drop_after = [500_000, 200_000]
    fetch(publisher, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == publisher.content
    assert publisher.ranges == [None, "bytes=500000-", "bytes=700000-"]


def test_killed_download_leaves_no_file_and_is_resumed(publisher: Any, tmp_path: Path) -> None:
    publisher.pause = 1
    target = tmp_path / "w"
    code = (
        "import sys, time; from pathlib import Path;"
        "from models.weights.https import download;"
        "download(sys.argv[1], Path(sys.argv[2]), sys.argv[3],"
        "deadline=time.monotonic() + 60)"
    )
    arguments = [publisher.url, str(target), digest_of(publisher.content)]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments])
    part = tmp_path / "w.part"
    give_up = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size) and time.monotonic() < give_up:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(60)
    had = part.stat().st_size
    assert 0 < had < len(publisher.content)
    assert not target.exists()
    publisher.pause = 0
    fetch(publisher, target)
    assert target.read_bytes() == publisher.content
    assert publisher.ranges == [None, f"bytes={had}-"]
    assert not part.exists()


def test_server_without_ranges_starts_over(publisher: Any, tmp_path: Path) -> None:
    publisher.with_ranges = False
    (tmp_path / "w.part").write_bytes(publisher.content[:1000])
    fetch(publisher, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == publisher.content


@pytest.mark.parametrize("length", [1000, 2_000_000])
def test_damaged_part_is_discarded(publisher: Any, tmp_path: Path, length: int) -> None:
    (tmp_path / "w.part").write_bytes(b"x" * length)
    fetch(publisher, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == publisher.content
    assert publisher.ranges == [f"bytes={length}-", None]


def test_file_with_another_digest_is_refused(publisher: Any, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="digest differs"):
        download(
            publisher.url,
            tmp_path / "w",
            digest_of(b"what was promised"),
            deadline=time.monotonic() + 30,
        )
    assert list(tmp_path.iterdir()) == []
    assert len(publisher.ranges) == 1


def test_permanent_refusal_is_not_retried(publisher: Any, tmp_path: Path) -> None:
    publisher.status = 404
    with pytest.raises(FetchError, match="404"):
        fetch(publisher, tmp_path / "w")
    assert len(publisher.ranges) == 1


def test_transient_refusal_is_retried(publisher: Any, tmp_path: Path) -> None:
    publisher.status = 503
    with pytest.raises(FetchError, match="503"):
        fetch(publisher, tmp_path / "w")
    assert len(publisher.ranges) == 4


def test_unreachable_server_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="cannot be reached from this machine"):
        download(
            "http://127.0.0.1:9/file",
            tmp_path / "w",
            digest_of(b""),
            deadline=time.monotonic() + 30,
        )


def test_part_is_kept_at_the_deadline(publisher: Any, tmp_path: Path) -> None:
    publisher.pause = 1
    with pytest.raises(FetchError, match="too slow"):
        fetch(publisher, tmp_path / "w", seconds=3)
    assert not (tmp_path / "w").exists()
    assert (tmp_path / "w.part").stat().st_size > 0
