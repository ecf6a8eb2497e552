"""What `opsin train` requests, and how the same request resumes its unfinished training."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from cli.commands.train import train_folder, training_options
from cli.commands.train_local import RunFolder, TerminalWork
from cli.output import CommandError
from cli.processes.signals import StopSignals
from contracts.jobs import Progress
from contracts.settings import Settings
from contracts.work import WorkStoppedError
from models.training.presets import training_request

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
