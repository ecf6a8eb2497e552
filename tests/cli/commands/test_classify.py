import csv
import http.server
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from cli.commands.classify import _write_csv
from cli.commands.embed import _write as _write_vectors
from cli.output import CommandError
from contracts.inference.inference import InferenceResponse
from tests.cli.running import ROOT, Starter
from tests.cli.serving import serving
from tests.ports import free_port

ANSWER_OF_ONE = {
    "name": "a.jpg",
    "width": 5,
    "height": 4,
    "predictions": [{"index": 340, "id": "n02391049", "label": "zebra", "probability": 0.93}],
}
ANSWER = {
    "model": "squeezenet",
    "version": 1,
    "batch_size": 1,
    "results": [
        ANSWER_OF_ONE,
        {"name": "b.jpg", "error": {"code": "invalid_image", "detail": "Not [an] image."}},
    ],
    "timing_ms": {"decode": 1, "queue": 2, "compute": 3, "total": 6},
}
PROBLEM = {
    "type": "about:blank",
    "title": "The bytes are not a readable image",
    "status": 422,
    "detail": "The file is empty.",
    "code": "invalid_image",
    "request_id": "1",
}


class Server(http.server.BaseHTTPRequestHandler):
    """Answers as the API does: a single bad image is an error, one of several is an item."""

    def do_GET(self) -> None:
        self._send(200, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != "Bearer 0123456789abcdef":
            title = "A valid key is required"
            self._send(401, {**PROBLEM, "status": 401, "code": "unauthorized", "title": title})
        elif body.count(b'name="image"') == 1:
            self._send(422, PROBLEM)
        else:
            assert "top_k=3" in self.path
            assert "resize=squash" in self.path
            self._send(200, ANSWER)

    def _send(self, status: int, content: object) -> None:
        self.send_response(status)
        self.send_header("X-Request-Id", "1")
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Log nothing."""


class Counting(http.server.BaseHTTPRequestHandler):
    """Says zebra to every image, and once that it is busy."""

    sizes: ClassVar[list[int]] = []

    def do_GET(self) -> None:
        self._send(200, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        count = body.count(b'name="image"')
        self.sizes.append(count)
        if len(self.sizes) == 2:
            busy = {**PROBLEM, "status": 429, "code": "queue_full", "detail": "Full."}
            self._send(429, busy)
        else:
            self._send(200, ANSWER | {"results": [ANSWER_OF_ONE] * count})

    def _send(self, status: int, content: object) -> None:
        self.send_response(status)
        self.send_header("X-Request-Id", "1")
        self.send_header("Retry-After", "0.1")
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Log nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    with serving(Server) as url:
        yield url


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    for path in paths:
        path.write_bytes(b"x")
    return [str(path) for path in paths]


OPTIONS = ("--top", "3", "--resize", "squash", "--key", "0123456789abcdef")


def test_a_table_for_each_image_and_a_line_for_each_error(
    start: Starter, server: str, files: list[str]
) -> None:
    run = start("-m", "cli", "classify", *files, "--server", server, *OPTIONS)
    assert run.wait() == 1
    assert "zebra" in run.text
    assert "93.0%" in run.text
    assert "b.jpg: Not [an] image." in run.text
    assert "1 of 2 images could not be classified." in run.text


def test_json_has_the_form_of_the_api(
    start: Starter, server: str, files: list[str], tmp_path: Path
) -> None:
    missing = str(tmp_path / "none.jpg")
    run = start("-m", "cli", "classify", missing, *files, "--json", "--server", server, *OPTIONS)
    assert run.wait() == 1
    answer = InferenceResponse.model_validate_json(run.text.splitlines()[0])
    assert [result.name for result in answer.results] == ["none.jpg", "a.jpg", "b.jpg"]
    assert answer.results[1].predictions is not None
    assert answer.results[1].predictions[0].label == "zebra"


def test_a_single_bad_image_is_an_error_of_that_image(
    start: Starter, server: str, files: list[str]
) -> None:
    run = start("-m", "cli", "classify", files[0], "--server", server, *OPTIONS)
    assert run.wait() == 1
    assert "a.jpg: The file is empty." in run.text


def test_a_file_without_a_byte_is_named_and_not_sent(
    start: Starter, server: str, files: list[str]
) -> None:
    Path(files[1]).write_bytes(b"")
    run = start("-m", "cli", "classify", files[1], "--server", server, *OPTIONS)
    assert run.wait() == 1
    assert "b.jpg: The file is empty." in run.text
    for command in (["explain", files[1]], ["style", files[1], files[0]]):
        run = start("-m", "cli", *command, "--server", server, "--key", OPTIONS[-1])
        assert run.wait() == 1
        assert f"{files[1]} is empty." in run.text


def test_a_refusal_is_shown(start: Starter, server: str, files: list[str]) -> None:
    run = start("-m", "cli", "classify", *files, "--server", server, "--key", "another-key-of-16")
    assert run.wait() == 1
    assert "A valid key is required" in run.text


def test_a_missing_named_server_is_an_error(start: Starter, files: list[str]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    run = start("-m", "cli", "classify", *files, "--server", url)
    assert run.wait() == 1
    assert f"No Opsin answers at {url}" in run.text


def test_without_server_and_weights_the_error_says_what_helps(
    start: Starter, files: list[str]
) -> None:
    run = start("-m", "cli", "classify", *files, OPSIN_PORT=free_port(), OPSIN_OFFLINE=1)
    assert run.wait() == 1
    assert "opsin weights pull" in run.text


def test_folders_are_classified_in_requests_of_a_size_that_the_server_takes(
    start: Starter, tmp_path: Path
) -> None:
    names = [f"{number:03}.JPG" for number in range(70)]
    for folder in ("a", "a/@eaDir", "a/.hidden"):
        (tmp_path / folder).mkdir()
    for name in names:
        (tmp_path / "a" / name).write_bytes(b"x")
    for name in ("a/notes.txt", "a/@eaDir/000.JPG", "a/.hidden/000.JPG", "a/.000.JPG"):
        (tmp_path / name).write_bytes(b"x")
    with serving(Counting) as url:
        Counting.sizes.clear()
        run = start(
            *("-m", "cli", "classify", str(tmp_path / "a"), "--recursive"),
            *("--csv", str(tmp_path / "out.csv"), "--server", url),
        )
        assert run.wait() == 0, run.text
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [str(tmp_path / "a" / name) for name in names]
    assert {row["label"] for row in rows} == {"zebra"}
    assert list(rows[0]) == ["file", "label", "probability", "error"]  # there is one class, not 5
    assert Counting.sizes == [32, 32, 32, 6]  # the second was refused once, as the queue was full
    assert "Classifying 70 images" in run.text


def test_a_pattern_in_quotes_and_a_server_without_a_scheme(
    start: Starter, server: str, files: list[str], tmp_path: Path
) -> None:
    where = ("--server", server.removeprefix("http://"), *OPTIONS)
    odd = tmp_path / "[1].png"
    odd.write_bytes(b"x")  # a file with the name of a pattern
    for words in ([f"{tmp_path}/?.jpg"], [files[0], str(odd)]):
        run = start("-m", "cli", "classify", *words, *where)
        assert run.wait() == 1
        assert "1 of 2 images could not be classified" in run.text
    odd.unlink()
    run = start("-m", "cli", "classify", f"{tmp_path}/*.png", *where)
    assert run.wait() == 1
    assert f"There is no file {tmp_path}/*.png." in run.text


def test_an_image_from_the_standard_input(server: str, files: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cli", "classify", "-", files[1], "--server", server, *OPTIONS]
    environment = {"OPSIN_HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        command, input=b"x", cwd=ROOT, env=environment, capture_output=True, check=False
    )
    assert b"zebra" in done.stdout
    assert b"1 of 2 images" in done.stderr, "as the server says of two images"


def test_a_folder_needs_recursive(start: Starter, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    run = start("-m", "cli", "classify", str(tmp_path / "empty"))
    assert run.wait() == 2
    assert "--recursive" in run.text
    run = start("-m", "cli", "classify", str(tmp_path / "empty"), "--recursive")
    assert run.wait() == 1
    assert "There is no image" in run.text


@pytest.mark.slow
def test_without_a_server_the_network_runs_here(
    start: Starter, photos: Path, shared: Path, tmp_path: Path
) -> None:
    text = tmp_path / "notes.png"
    text.write_text("no picture")
    run = start(
        *("-m", "cli", "classify", str(photos / "cat.png"), str(text), "--json", "--local"),
        *("--model", "squeezenet", "--top", "5"),
        OPSIN_WEIGHTS_DIR=shared / "weights",
    )
    assert run.wait(120) == 1
    answer = next(line for line in run.text.splitlines() if line.startswith("{"))
    cat, fault = InferenceResponse.model_validate_json(answer).results
    assert cat.predictions is not None
    labels = {prediction.label for prediction in cat.predictions}
    assert labels & {"Egyptian cat", "tabby", "tiger cat", "Egyptian_cat", "tiger_cat"}
    assert fault.error is not None
    assert fault.error.code in {"invalid_image", "unsupported_media_type"}


@pytest.mark.parametrize("write", [lambda rows, to: _write_csv(rows, to, 5), _write_vectors])
def test_what_fails_at_once_leaves_an_earlier_table_alone(
    tmp_path: Path, write: Callable[[Iterator[Any], Path], int]
) -> None:
    def refused() -> Iterator[Any]:
        raise CommandError("There is no model 'pets'.")
        yield

    table = tmp_path / "out.csv"
    with pytest.raises(CommandError, match="no model"):
        write(refused(), table)
    assert not table.exists()
    table.write_text("earlier")
    with pytest.raises(CommandError, match="no model"):
        write(refused(), table)
    assert table.read_text() == "earlier"
