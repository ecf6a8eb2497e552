"""Whatever a file's name and the terminal's encoding, no command ends in a traceback."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.streams import shown
from tests.cli.commands.test_classify import Server
from tests.cli.running import ROOT
from tests.cli.serving import serving
from tests.ports import free_port

NAME = b"caf\xe9 [1]\n.png"


@pytest.fixture
def photo(tmp_path: Path) -> bytes:
    path = os.path.join(os.fsencode(tmp_path), b"photos", NAME)  # noqa: PTH118 (bytes)
    (tmp_path / "photos").mkdir()
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(b"x")
    return path


@pytest.fixture
def server() -> Iterator[str]:
    with serving(Server) as url:
        yield url


def opsin(*words: str | bytes, folder: Path, **env: str) -> subprocess.CompletedProcess[bytes]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OPSIN_", "LC_"))}
    environment |= {"PYTHONPATH": str(ROOT), "OPSIN_HOME": str(folder / "home"), **env}
    environment |= {"OPSIN_PORT": str(free_port()), "OPSIN_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-P", "-m", "cli", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        check=False,
        timeout=180,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize(
    ("words", "encoding"),
    [
        ("classify PHOTO --local", "ascii"),
        ("explain PHOTO --local", "utf-8"),
        ("faces enroll PHOTO --name Ada", "utf-8"),
        ("train FOLDER --model pets", "latin-1"),
        ("datasets add FOLDER", "utf-8"),
        ("datasets add PHOTO", "utf-8"),
        ("restore PHOTO", "ascii"),
        ("models download pets --out PHOTO", "utf-8"),
    ],
)
def test_a_name_that_is_not_utf8_never_ends_in_a_traceback(
    words: str, encoding: str, photo: bytes, tmp_path: Path
) -> None:
    places = {"PHOTO": photo, "FOLDER": os.fsencode(tmp_path / "photos")}
    sent = [places.get(word, word) for word in words.split()]
    done = opsin(*sent, folder=tmp_path, PYTHONIOENCODING=encoding)
    assert b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
    assert b"fault of Opsin" not in done.stderr
    assert done.returncode in {0, 1, 2}


def test_every_answer_is_valid_utf8(photo: bytes, server: str, tmp_path: Path) -> None:
    key = ("--key", "0123456789abcdef", "--server", server, "--top", "3", "--resize", "squash")
    other = tmp_path / "b.jpg"
    other.write_bytes(b"y")
    json_out = opsin("classify", photo, str(other), "--json", *key, folder=tmp_path)
    assert json.loads(json_out.stdout)["results"][0]["name"] == "a.jpg"  # as the server says
    opsin("classify", photo, str(other), "--csv", "out.csv", *key, folder=tmp_path)
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        heading, first, second = list(csv.reader(file))
    assert heading[:3] == ["file", "label", "probability"]
    assert first[:3] == [shown(os.fsdecode(photo)), "zebra", "0.930000"]
    assert second[-1] == "Not [an] image."


def test_a_name_is_shown_in_printable_characters() -> None:
    assert shown(os.fsdecode(NAME)) == r"caf\xe9 [1]\n.png"
    assert shown("日本 ✓") == "日本 ✓"
    assert shown("a\u202egnp.exe") == r"a\u202egnp.exe"
