"""kill -9 of a training, again and again: it ends as if nothing had happened, to the bit."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def killed(folder: Path, strategy: str, kills: int, squeezenet: Path) -> None:
    shutil.copy(squeezenet, folder / "squeezenet.npz")
    (folder / "digest").write_text(hashlib.sha256(squeezenet.read_bytes()).hexdigest())
    ended = subprocess.run(
        [sys.executable, "-m", "tests.models.training.killed", folder, strategy, str(kills)],
        cwd=ROOT,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    said = json.loads(ended.stdout)
    undisturbed, disturbed = said["results"]
    assert said["hits"] >= 2
    assert said["resumed"] >= 1  # else it only showed that it can begin anew
    assert disturbed == undisturbed
    assert len(disturbed["history"]) >= 2


@pytest.mark.parametrize("strategy", ["scratch", pytest.param("tuned", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_killed_thrice_it_ends_with_the_same_figures(
    strategy: str, tmp_path: Path, squeezenet_file: Path
) -> None:
    killed(tmp_path, strategy, 3, squeezenet_file)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["scratch", "tuned"])
def test_killed_twenty_times_it_ends_with_the_same_figures(
    strategy: str, tmp_path: Path, squeezenet_file: Path
) -> None:
    killed(tmp_path, strategy, 20, squeezenet_file)
