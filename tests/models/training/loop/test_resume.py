"""A training that is killed repeatedly ends with bit-identical results."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]


def check_killed(folder: Path, strategy: str, kills: int, squeezenet: Path) -> None:
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
    output = json.loads(ended.stdout)
    undisturbed, disturbed = output["results"]
    assert output["hits"] >= 2
    assert output["resumed"] >= 1  # otherwise it has only shown that it can start again
    assert disturbed == undisturbed
    assert len(disturbed["history"]) >= 2


@pytest.mark.parametrize("strategy", ["scratch", pytest.param("tuned", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_three_kills_do_not_change_the_result(
    strategy: str, tmp_path: Path, squeezenet_file: Path
) -> None:
    check_killed(tmp_path, strategy, 3, squeezenet_file)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["scratch", "tuned"])
def test_twenty_kills_do_not_change_the_result(
    strategy: str, tmp_path: Path, squeezenet_file: Path
) -> None:
    check_killed(tmp_path, strategy, 20, squeezenet_file)
