"""`opsin embed`, `layers`, `filters`, `quantize`, `evaluate`, `video` and the sheet of `explain`.

A small real server answers as docs/reference/api.md says.
"""

import csv
import http.server
import io
import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image
from typer.testing import CliRunner

from cli.commands.create import dream, style
from cli.commands.dataset_video import video
from cli.commands.embed import embed
from cli.commands.evaluate import evaluate
from cli.commands.explain import explain
from cli.commands.layers import activations, filters, layers
from cli.commands.models import app as models
from cli.commands.quantize import quantize
from cli.commands.training.sweep import sweep
from cli.output import CommandError
from contracts.inference.explanation import METHODS
from models.rendering.png import is_explanation, png
from tests.cli.serving import serving

JOB = {
    "id": "job_1", "kind": "filters", "state": "succeeded", "attempt": 1,
    "progress": {"fraction": 1.0}, "created_at": "2026-11-20T09:30:00Z", "artifacts": [],
    "result": {"version": 2},
}  # fmt: skip
QUANTIZED = {
    "model": "m", "version": 2, "quantized_from": 1, "precision": "int8",
    "accuracy": {"before": 0.88, "after": 0.875}, "accuracy_loss": 0.005,
    "max_accuracy_loss": 0.01, "promoted": False,
    "pictures": {"calibration": 100, "measured": 1200},
}  # fmt: skip
LAYER = {"name": "conv1", "type": "Conv2D", "output_shape": [None, 8, 3], "explainable": True}
TARGET = {"index": 281, "id": "n1", "label": "tabby", "probability": 0.3791}
NUMBERS = {"model": "squeezenet", "version": 1, "layer": "fire9_concat", "target": TARGET}
PNG = png(Image.new("RGB", (30, 20), "orange"))


EVALUATION = {
    "model": "m", "version": 3, "network": "cnn_small", "runtime": "openvino-bfloat16",
    "dataset_id": "ds_1", "dataset_digest": "sha256:1", "split": "test",
    "classes": ["cat", "dog"], "pictures": 4, "accuracy": 0.75,
    "accuracy_interval": {"low": 0.194, "high": 0.994},
    "metrics": {
        "pictures": 4, "loss": 0.5, "accuracy": 0.75, "macro_precision": 0.8,
        "macro_recall": 0.75, "macro_f1": 0.7, "calibration_error": 0.1,
    },
    "per_class": [
        {
            "label": "cat", "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2,
            "recall_interval": {"low": 0.013, "high": 0.987},
        }
    ],
    "confusion_matrix": {"labels": ["cat", "dog"], "counts": [[1, 1], [0, 2]]},
    "most_wrong": [], "unknown_classes": {"cow": 2}, "seconds": 1.5,
    "comparison": {
        "against": 1, "runtime": "openvino-bfloat16", "pictures": 4, "accuracy": 0.75,
        "against_accuracy": 0.5, "against_accuracy_interval": {"low": 0.07, "high": 0.93},
        "difference": 0.25, "difference_interval": {"low": -0.4, "high": 0.7},
        "both_right": 2, "only_version_right": 1, "only_against_right": 0, "both_wrong": 1,
        "p_value": 1.0, "verdict": "no_difference",
    },
    "warnings": [{"code": "unknown_classes", "detail": "2 images were left out."}],
}  # fmt: skip

SWEEP = {
    "model": "m", "metric": "accuracy", "combinations": 2, "best": 1, "version": 4,
    "promoted": False,
    "promotion": {"rule": "never", "promoted": False, "reason": "As requested: never."},
    "trainings": [
        {"number": 1, "values": {"head.units": [8], "seed": 1}, "score": 0.75, "version": 4},
        {
            "number": 2,
            "values": {"head.units": [9], "seed": 1},
            "error": {"code": "not_trainable", "detail": "No."},
        },
    ],
}  # fmt: skip


class Server(http.server.BaseHTTPRequestHandler):
    """Answers every request, and records it."""

    requests: ClassVar[list[tuple[str, bytes]]] = []

    def do_GET(self) -> None:
        self._record(b"")
        if self.path.endswith("/events"):
            self._send(b'id: 1\nevent: state\ndata: {"state": "succeeded"}\n\n')
        elif "/artifacts/" in self.path:
            self._send(PNG)
        elif self._route == "/v1/models/m":
            self._json({"name": "m", "aliases": {"champion": 3, "canary": 1}})
        elif self._route == "/v1/jobs/job_2":
            self._json(JOB | {"id": "job_2", "kind": "evaluation", "result": EVALUATION})
        elif self._route == "/v1/jobs/job_3":
            self._json(JOB | {"id": "job_3", "kind": "sweep", "result": SWEEP})
        else:
            self._json({"/v1/models/m/layers": {"items": [LAYER]}}.get(self._route, JOB))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._record(body)
        if self._route == "/v1/embed":
            count = body.count(b'name="image"')
            self._json({"results": [{"name": "x", "embedding": [0.5, -1.25]}] * count})
        elif self._route == "/v1/classify":
            lemon = {"index": 951, "id": "n2", "label": "lemon", "probability": 0.1}
            capitals = lemon | {"index": 7, "label": "LEMON"}
            results = [{"name": "x", "predictions": [TARGET, capitals, lemon]}]
            timing = {"decode": 0, "queue": 0, "compute": 0, "total": 0}
            answer = {"model": "m", "version": 1, "batch_size": 1, "results": results}
            self._json(answer | {"timing_ms": timing})
        elif self._route in {"/v1/heatmap", "/v1/activations"}:
            wants_json = self.headers["Accept"] == "application/json"
            self._json(NUMBERS) if wants_json else self._send(PNG)
        elif self._route.endswith("/evaluations"):
            self._json(JOB | {"id": "job_2"})
        elif self._route == "/v1/sweeps":
            self._json(JOB | {"id": "job_3"})
        else:
            self._json(JOB)

    @property
    def _route(self) -> str:
        return self.path.partition("?")[0]

    def _record(self, body: bytes) -> None:
        self.requests.append((f"{self.command} {self.path}", body))

    def _json(self, content: Any) -> None:
        self._send(json.dumps(content).encode())

    def _send(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("X-Request-Id", "1")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Log nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    Server.requests.clear()
    with serving(Server) as url:
        yield url


@pytest.fixture
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A photo in a folder; the working folder is another one."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    path = tmp_path / "photos" / "cat.png"
    Image.new("RGB", (20, 10), "orange").save(path)
    return path


def test_embeddings_are_written_whole(server: str, photo: Path) -> None:
    embed([photo.parent], recursive=True, table=Path("v.csv"), model="m", server=server)
    with Path("v.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [[str(photo), "0.5", "-1.25"]]
    assert Server.requests[-1][0] == "POST /v1/embed?model=m"


def test_layers_are_listed(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    layers("m", server=server)
    assert capsys.readouterr().out.splitlines()[1] == "conv1\tConv2D\tany × 8 × 3\tyes"  # noqa: RUF001
    layers("m", as_json=True, server=server)
    assert json.loads(capsys.readouterr().out) == {"items": [LAYER]}
    summary = CliRunner().invoke(models, ["summary", "m", "--server", server])
    assert "conv1" in summary.output


def test_activations_and_filters_go_to_the_working_folder(server: str, photo: Path) -> None:
    activations(photo, layer="conv1", resize="squash", server=server)
    assert "resize=squash" in Server.requests[-1][0]
    assert Path("cat-activations.png").read_bytes() == PNG
    filters("m", layer="conv1", chosen="0,3", server=server)
    assert Path("m-filters.png").read_bytes() == PNG
    body = next(body for route, body in Server.requests if route == "POST /v1/filters")
    assert json.loads(body) == {"model": "m", "layer": "conv1", "filters": [0, 3]}
    assert [path.name for path in photo.parent.iterdir()] == ["cat.png"]


def test_quantize_follows_its_job(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    quantize("m", 1, "ds_1", promote=False, as_json=True, server=server)
    assert json.loads(capsys.readouterr().out) == {"version": 2}
    route, body = Server.requests[0]
    assert route == "POST /v1/models/m/versions/1/quantize"
    assert json.loads(body) == {"dataset_id": "ds_1", "promote": False}


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({"promoted": True}, "✓ version 2 is champion"),
        ({"accuracy_loss": 0.05}, "It does not become champion: it may lose 1.0%"),
        ({}, "`opsin models promote m 2` makes it so."),
    ],
)
def test_quantize_says_what_the_copy_lost(
    result: dict[str, Any],
    said: str,
    server: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(JOB, "result", QUANTIZED | result)
    quantize("m", 1, "ds_1", server=server)
    printed = capsys.readouterr()
    first, *_ = printed.out.splitlines()
    assert first == (
        "m version 2 is the int8 copy of version 1: 87.5% of 1,200 images correct, version 1 88.0%"
    )
    assert said in printed.out + printed.err
    assert "{" not in printed.out


def test_frames_of_a_video_are_added(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = tmp_path / "ada.mp4"
    clip.write_bytes(b"a video")
    video("ds_1", clip, "ada", rate=4, region="face", as_json=True, server=server)
    assert json.loads(capsys.readouterr().out) == {"version": 2}
    route, body = Server.requests[0]
    assert route == ("POST /v1/datasets/ds_1/videos?label=ada&rate=4&max_frames=100&region=face")
    assert b'name="video"; filename="ada.mp4"' in body
    with pytest.raises(CommandError, match="cannot be read"):
        video("ds_1", tmp_path / "nonesuch", "ada", server=server)


def test_a_sheet_shows_every_method_for_one_class(server: str, photo: Path) -> None:
    """The class is chosen once, so that it has one probability, and all explain that class."""
    explain([photo], all_methods=True, server=server)
    asked = [route for route, _ in Server.requests if "/v1/heatmap" in route]
    assert len(asked) == len(METHODS) + 1
    assert all("class_index=281" in route for route in asked[1:])
    assert not any("legend=true" in route for route in asked)
    plain = Path("cat-heatmap.png").read_bytes()
    assert is_explanation(plain)
    explain([photo], all_methods=True, legend=True, server=server)
    with Image.open("cat-heatmap.png") as sheet, Image.open(io.BytesIO(plain)) as before:
        assert sheet.height > before.height  # with a color bar
    assert [path.name for path in photo.parent.iterdir()] == ["cat.png"]


def test_a_class_is_chosen_by_its_name_or_its_number(
    server: str, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for chosen, index in (("lemon", 951), ("Lemon", 7), ("n1", 281), ("7", 7)):
        explain([photo], chosen=chosen, server=server)
        assert f"class_index={index}&" in f"{Server.requests[-1][0]}&"
    with pytest.raises(CommandError, match=r"no class 'lemn'. Did you mean lemon\?"):
        explain([photo], chosen="lemn", server=server)
    assert capsys.readouterr().err.count("cat-heatmap.png is replaced.") == 3


def test_heatmaps_of_images_of_one_name_are_all_kept(server: str, photo: Path) -> None:
    other = photo.with_suffix(".jpg")
    other.write_bytes(photo.read_bytes())
    explain([photo, other], server=server)
    assert {path.name for path in Path().iterdir()} == {"cat-heatmap.png", "cat-2-heatmap.png"}


def test_images_after_one_that_fails_are_explained(
    server: str, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing, other = photo.with_name("none.png"), photo.with_name("dog.png")
    other.write_bytes(photo.read_bytes())
    with pytest.raises(CommandError, match="1 of 3 images"):
        explain([photo, missing, other], server=server)
    assert {path.name for path in Path().iterdir()} == {"cat-heatmap.png", "dog-heatmap.png"}
    assert "none.png" in capsys.readouterr().err


@pytest.mark.parametrize(("output", "sent"), [("map", "output=map"), ("json", "method=grad_cam")])
def test_the_map_or_its_numbers(server: str, photo: Path, output: Any, sent: str) -> None:
    explain([photo], output=output, out=Path("x"), server=server)
    content = Path("x").read_bytes()
    assert content == PNG if output == "map" else json.load(io.BytesIO(content)) == NUMBERS
    assert sent in Server.requests[-1][0]


def test_evaluation_names_versions_by_alias_and_says_who_is_better(
    server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate("m", "ds_1", against="canary", split="test", server=server)
    sent = [(line, body) for line, body in Server.requests if line.startswith("POST")]
    line, body = sent[-1]
    assert line == "POST /v1/models/m/versions/3/evaluations"
    assert json.loads(body) == {"dataset_id": "ds_1", "against": 1, "split": "test"}
    out = capsys.readouterr().out.replace("\n", " ")
    assert "m version 3: 75.00% of 4 test images correct (95% interval: 19.4% to 99.4%)" in out
    assert "McNemar p = 1: no difference that chance" in out
    evaluate("m@2", "ds_1", as_json=True, server=server)
    posted = [line for line, _ in Server.requests if line.startswith("POST")]
    assert posted[-1] == "POST /v1/models/m/versions/2/evaluations"
    assert json.loads(capsys.readouterr().out) == EVALUATION
    with pytest.raises(CommandError, match=r"no alias 'beta'; it has champion, canary"):
        evaluate("m@beta", "ds_1", server=server)
    with pytest.raises(CommandError, match="ds_"):
        evaluate("m", "no-such-folder", server=server)


@pytest.mark.parametrize(
    ("folders", "split"), [(["cat", "dog"], "all"), (["train/cat", "test/cat"], None)]
)
def test_all_images_of_class_folders_are_measured(
    folders: list[str],
    split: str | None,
    server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in folders:
        Path("held-out", folder).mkdir(parents=True)
    monkeypatch.setattr("cli.commands.evaluate.dataset_on_server", lambda *_: nullcontext("ds_1"))
    evaluate("m", "held-out", server=server)
    sent = [json.loads(body) for line, body in Server.requests if line.endswith("evaluations")]
    assert sent[-1].get("split") == split


def test_style_and_dream_send_a_form_and_keep_the_result(server: str, photo: Path) -> None:
    style(photo, [photo, photo], weights="0.7,0.3", size=64, server=server)
    assert Path("cat-style.png").read_bytes() == PNG
    body = next(body for route, body in Server.requests if route == "POST /v1/style_transfers")
    assert body.count(b'name="style"') == 2
    assert b'name="content"' in body
    for field in (b'name="style_weights"\r\n\r\n0.7,0.3', b'name="size"\r\n\r\n64'):
        assert field in body
    dream(photo, layers="a,b", out=Path("dreamt.png"), server=server)
    assert Path("dreamt.png").read_bytes() == PNG
    body = next(body for route, body in Server.requests if route == "POST /v1/dreams")
    assert b'name="layers"\r\n\r\na,b' in body


def test_sweep_sends_the_values_and_shows_every_training(
    server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tries = ["head.units=[[8], [9]]", "optimizer=adam,sgd", "seed = 1, 2"]
    sweep("ds_1", "m", tries, network="squeezenet", max_trainings=3, server=server)
    route, body = Server.requests[0]
    assert route == "POST /v1/sweeps"
    assert json.loads(body) == {
        "training": {"model": "m", "network": "squeezenet", "dataset_id": "ds_1"},
        "grid": {"head.units": [[8], [9]], "optimizer": ["adam", "sgd"], "seed": [1, 2]},
        "max_trainings": 3,
    }
    lines = capsys.readouterr().out.splitlines()
    assert "1*" in lines[1]
    assert "0.7500" in lines[1]
    assert "not_trainable" in lines[2]
    for wrong in ("seed", "=1", "seed=", "seed=[1"):
        with pytest.raises(CommandError, match="--try"):
            sweep("ds_1", "m", [wrong], server=server)
