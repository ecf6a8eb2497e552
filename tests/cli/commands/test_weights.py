from pathlib import Path

from tests.cli.running import Starter
from tests.ports import free_port


def weights(start: Starter, *arguments: str, **settings: object) -> tuple[int, str]:
    run = start("-m", "cli", "weights", *arguments, **settings)
    return run.wait(), run.text


def test_the_list_names_the_whole_catalog(start: Starter) -> None:
    code, text = weights(start, "list")
    assert code == 0
    for name in ("efficientnet_lite0", "squeezenet", "vgg16_notop", "face_embedder", "face_finder"):
        assert name in text


def test_weights_that_cannot_be_fetched_are_a_plain_line(start: Starter) -> None:
    code, text = weights(start, "pull", "squeezenet", OPSIN_OFFLINE=1)
    assert code == 1
    assert "OPSIN_OFFLINE" in text
    assert "Traceback" not in text


def test_without_any_weights_pull_fails(start: Starter) -> None:
    code, text = weights(start, "pull", OPSIN_OFFLINE=1)
    assert code == 1
    assert "No network has weights" in text


def test_missing_weights_are_reported_once_at_the_start(start: Starter) -> None:
    run = start("-m", "cli", "up", OPSIN_OFFLINE=1, OPSIN_PORT=free_port())
    assert run.wait() == 1
    assert run.text.count("! squeezenet: ") == 1
    assert "without OPSIN_OFFLINE" in run.text


def test_an_unknown_name_lists_the_known(start: Starter) -> None:
    code, text = weights(start, "pull", "resnet")
    assert code == 1
    assert "efficientnet_lite0" in text


def test_a_folder_of_weights_is_enough(start: Starter, shared: Path, tmp_path: Path) -> None:
    folder = shared / "weights"
    code, text = weights(
        start, "pull", OPSIN_OFFLINE=1, OPSIN_WEIGHTS_DIR=folder, OPSIN_MODELS="squeezenet,vgg16"
    )
    assert code == 0
    assert "weights for squeezenet, vgg16" in text
    assert "vgg16: its base is here, but not its classes." in text
    assert "no method=fast" in text
    assert "opsin weights pull style_fast" in text


def test_a_damaged_file_is_found(start: Starter, shared: Path, tmp_path: Path) -> None:
    name = "squeezenet_v1.1_imagenet_fp16.npz"
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / name).write_bytes((shared / "weights" / name).read_bytes())
    code, text = weights(start, "verify", OPSIN_WEIGHTS_DIR=folder)
    assert code == 0
    assert "ok squeezenet sha256:" in text
    with (folder / name).open("r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    code, text = weights(start, "verify", "squeezenet", OPSIN_WEIGHTS_DIR=folder)
    assert code == 1
    assert "damaged" in text
