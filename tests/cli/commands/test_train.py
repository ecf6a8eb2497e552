"""What `opsin train` requests, and how the same request resumes its unfinished training."""

import http.server
import io
import json
import os
import re
import signal
from pathlib import Path
from threading import Timer
from typing import ClassVar

import pytest
from rich.console import Console

from cli.commands.training.train import presets, train, train_folder, training_options
from cli.commands.training.train_local import RunFolder, TerminalWork
from cli.output import CommandError
from cli.processes.signals import StopSignals
from contracts.jobs import Progress
from contracts.settings import MIB, Settings
from contracts.work import WorkStoppedError
from models.memory.ledger import MemoryLedger
from models.training.presets import PRESETS, training_request
from tests.cli.serving import serving
from tests.images import encoded, scene
from tests.models.datasets.packing import on_disk, tree, written

METRICS = {
    "pictures": 4, "loss": 0.5, "accuracy": 0.75, "macro_precision": 1, "macro_recall": 1,
    "macro_f1": 1, "calibration_error": 0,
}  # fmt: skip
RESULT = {
    "model": "pets", "version": 3, "held_out": "test", "metrics": {"test": METRICS},
    "per_class": [], "seconds": {"head": 2.5}, "promoted": True,
    "promotion": {"rule": "always", "promoted": True, "reason": "It is the first."},
}  # fmt: skip
JOB = {
    "id": "job_1", "kind": "training", "state": "succeeded", "attempt": 1, "result": RESULT,
    "progress": {"fraction": 1.0}, "created_at": "2026-11-20T09:30:00Z", "artifacts": [],
}  # fmt: skip


class TrainingServer(http.server.BaseHTTPRequestHandler):
    """Takes datasets and trainings, and finishes each at once."""

    requests: ClassVar[list[tuple[str, bytes]]] = []

    def do_GET(self) -> None:
        events = b'id: 1\nevent: state\ndata: {"state": "succeeded"}\n\n'
        self._send(events if self.path.endswith("/events") else json.dumps(JOB).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.requests.append((self.path, body))
        dataset = {"id": "ds_1", "name": "pets", "trainable": True}
        self._send(json.dumps(dataset if self.path == "/v1/datasets" else JOB).encode())

    def _send(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Log nothing."""


REQUEST = training_request(
    {"dataset_id": "ds_1", "model": "pets", "network": "cnn_small", "epochs": {"scratch": 2}}
)


def work_at(root: Path, signals: StopSignals, out: io.StringIO) -> TerminalWork:
    return TerminalWork(RunFolder.of(root, REQUEST), REQUEST, Console(file=out), signals)


def test_only_requested_fields_are_sent_so_that_a_preset_keeps_the_rest() -> None:
    fields = training_options(
        None, augment=False, epochs=3, preset="fruits360", network=None, model="pets"
    )
    assert fields == {
        "preset": "fruits360",
        "model": "pets",
        "epochs": {"head": 3, "finetune": 3, "scratch": 3},
    }
    assert training_options('{"l2": 0.1}', augment=True, epochs=None)["l2"] == 0.1


def test_presets_say_which_accuracy_was_published(capsys: pytest.CaptureFixture[str]) -> None:
    presets()
    heading, *rows = capsys.readouterr().out.splitlines()
    assert "published accuracy" in heading
    accuracy = {row.split("\t")[0]: row.split("\t")[-1] for row in rows}
    assert accuracy["cats_dogs_frozen"] == "93% with 2,000 images"
    assert "96.5% measured here" in accuracy["cats_dogs_frozen_tuned"]
    assert accuracy["faces_tuned"] == "none"
    assert set(accuracy) == set(PRESETS)


def test_a_misspelt_layer_is_refused_before_an_image_is_read(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    fields = {"model": "pets", "network": "vgg16", "strategy": "fine_tuning"}
    with pytest.raises(CommandError, match="Did you mean block5"):
        train_folder(
            Settings(_env_file=None, home=tmp_path),
            tmp_path / "pictures",
            fields | {"unfreeze_from": "blck5"},
        )
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


@pytest.mark.parametrize("text", ["{", "[1]", "null", '"a"'])
def test_options_that_are_not_an_object_are_refused(text: str) -> None:
    with pytest.raises(CommandError, match="--options"):
        training_options(text, augment=False, epochs=None)


def test_the_same_request_resumes_its_unfinished_training(tmp_path: Path) -> None:
    first, second = RunFolder.of(tmp_path, REQUEST), RunFolder.of(tmp_path, REQUEST)
    assert second.job_id == first.job_id
    assert (first.attempt, second.attempt) == (1, 2)
    second.remove()
    assert RunFolder.of(tmp_path, REQUEST).job_id != first.job_id
    other = REQUEST.model_copy(update={"seed": 9})
    assert RunFolder.of(tmp_path, other).folder != first.folder


def test_the_same_training_runs_in_one_terminal_only(tmp_path: Path) -> None:
    run_folder = RunFolder.of(tmp_path, REQUEST)
    with (
        run_folder.locked(),
        pytest.raises(CommandError, match="another terminal"),
        run_folder.locked(),
    ):
        pass


def test_a_training_in_a_terminal_waits_for_the_memory_of_jobs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C ends the wait."""
    settings = Settings(_env_file=None, home=tmp_path / "home", training_memory_mb=2000)
    folder = written(tmp_path / "pets", tree({"cat": 6, "dog": 6}))
    interrupt = Timer(3, os.kill, (os.getpid(), signal.SIGINT))
    with MemoryLedger.of(settings).reserve(2000 * MIB, lambda: None):
        interrupt.start()
        with pytest.raises(CommandError, match="Stopped"):
            train_folder(settings, folder, {"model": "pets", "network": "squeezenet"})
    assert capfd.readouterr().err.count("waiting for memory") == 1


def test_each_epoch_is_printed_once_and_artifacts_are_kept(tmp_path: Path) -> None:
    out = io.StringIO()
    row = {"epoch": 1, "phase": "scratch", "loss": 0.5, "accuracy": 0.75}
    with StopSignals() as signals, work_at(tmp_path, signals, out) as work:
        work.progress(Progress(fraction=0.5, phase="scratch", eta_seconds=61))
        work.metrics(row)
        work.metrics(row)
        work.artifact("curves.png", "image/png", b"png")
    assert out.getvalue().count("75.0%") == 1
    assert "1/2" in out.getvalue()
    assert (tmp_path / work.job_id / "curves.png").read_bytes() == b"png"


def test_a_training_in_a_terminal_says_once_that_it_has_had_its_memory(tmp_path: Path) -> None:
    peaks: list[str] = []
    with StopSignals() as signals, work_at(tmp_path, signals, io.StringIO()) as work:
        work.at_peak = lambda: peaks.append("peak")
        work.metrics({"epoch": 1, "phase": "head", "loss": 0.5})
        assert not peaks
        for epoch in (1, 2):
            work.metrics({"epoch": epoch, "phase": "scratch", "loss": 0.5})
    assert len(peaks) == 1


def test_ctrl_c_ends_a_training_at_the_next_step(tmp_path: Path) -> None:
    class Pressed(StopSignals):
        def stop_requested(self) -> bool:
            return True

    with pytest.raises(WorkStoppedError):
        work_at(tmp_path, Pressed(), io.StringIO()).check()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"model": "vgg16", "network": "cnn_small"}, "published network"),
        ({"model": "pets", "network": "nothing"}, "network: Input should be"),
        ({"model": "pets", "preset": "nothing"}, "Known: mnist"),
        ({"model": "pets", "network": "cnn_small", "strategy": "fine_tuning"}, "can be fine-tuned"),
    ],
)
def test_a_wrong_option_is_refused_before_any_image_is_read(
    tmp_path: Path, body: dict[str, str], message: str
) -> None:
    settings = Settings(home=tmp_path / "home")
    with pytest.raises(CommandError, match=message):
        train_folder(settings, tmp_path, body)
    assert not (tmp_path / "home" / "datasets").exists()


def test_early_stopping_is_said(tmp_path: Path) -> None:
    out = io.StringIO()
    row = {"epoch": 1, "phase": "scratch", "loss": 0.5, "accuracy": 0.75}
    with StopSignals() as signals, work_at(tmp_path, signals, out) as work:
        work.progress(Progress(fraction=0.5, phase="scratch"))
        work.metrics(row)
        work.progress(Progress(fraction=0.9, phase="export"))
    assert "stopped after 1 of 2 epochs" in out.getvalue()
    assert "training: loss 0.500, accuracy  75.0%" in out.getvalue()


def test_a_folder_from_which_nothing_can_be_learned_leaves_nothing(tmp_path: Path) -> None:
    folder = written(tmp_path / "flowers", {"rose/a.png": encoded(scene(), "png")})
    settings = Settings(_env_file=None, home=tmp_path / "home", min_free_disk_bytes=0)
    with pytest.raises(CommandError, match="of at least 2 classes"):
        train_folder(settings, folder, {"model": "pets", "network": "cnn_small"})
    assert on_disk(settings.datasets_home) <= {".staging"}


def test_a_training_on_a_server_is_followed_to_its_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(tmp_path / "pets", tree({"cat": 2, "dog": 2}))
    with serving(TrainingServer) as url:
        train(folder, "pets", network="vgg16", server=url)
        train(Path("ds_7"), "pets", network="vgg16", server=url)
        with pytest.raises(CommandError, match="neither a folder"):
            train(Path("nowhere"), "pets", server=url)
    upload, first, second = [body for _, body in TrainingServer.requests]
    assert b"cat/" in upload
    assert json.loads(first) == {"model": "pets", "network": "vgg16", "dataset_id": "ds_1"}
    assert json.loads(second)["dataset_id"] == "ds_7"
    assert "pets version 3 is champion" in capsys.readouterr().out


class RefusingServer(TrainingServer):
    """Takes datasets and refuses trainings."""

    requests: ClassVar[list[tuple[str, bytes]]] = []

    def do_DELETE(self) -> None:
        self.requests.append((f"DELETE {self.path}", b""))
        self._send(b"")

    def do_POST(self) -> None:
        if self.path == "/v1/datasets":
            super().do_POST()
            return
        self.rfile.read(int(self.headers["Content-Length"]))
        problem = {
            "type": "x", "title": "Invalid", "status": 422, "detail": "There is no such field.",
            "code": "validation_error", "request_id": "1",
        }  # fmt: skip
        content = json.dumps(problem).encode()
        self.send_response(422)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def test_a_refused_training_leaves_no_dataset(tmp_path: Path) -> None:
    written(tmp_path / "pets", tree({"cat": 1, "dog": 1}))
    with serving(RefusingServer) as url:
        for dataset, sent in ((tmp_path / "pets", "DELETE /v1/datasets/ds_1"), (Path("ds_7"), "")):
            RefusingServer.requests.clear()
            with pytest.raises(CommandError, match="no such field"):
                train(dataset, "pets", network="vgg16", server=url)
            last = RefusingServer.requests[-1][0] if RefusingServer.requests else ""
            assert last == sent


def test_a_wrong_folder_is_named(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, home=tmp_path / "home")
    cup = tmp_path / "train" / "cup"
    cup.mkdir(parents=True)
    (cup / "1.JPG").write_bytes(b"x")
    for folder, words in (
        (tmp_path / "nowhere", "nowhere does not exist"),
        (cup / "1.JPG", "is a file"),
        (cup, f"Name the folder above it: {tmp_path / 'train'}"),
    ):
        with pytest.raises(CommandError, match=re.escape(words)):
            train_folder(settings, folder, {"model": "pets"})
