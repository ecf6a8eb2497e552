"""Neither OpenVINO nor NNCF may open a connection, whatever the user's own opt-in says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models import keras_warnings

pytestmark = keras_warnings.ignored

_ROOT = Path(__file__).resolve().parents[3]

_GUARD = """
import sys
reached = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        reached.append((event, arguments))
sys.addaudithook(watch)
from models.serving.openvino.frontend import import_nncf, import_openvino
openvino = import_openvino()
"""

_LOAD = """
from pathlib import Path
from models.serving.selection import choose_runtime
from models.serving.runtime import RuntimeOptions
from models.store.manifest import read_manifest
folder = Path(sys.argv[1])
choice = choose_runtime(folder, read_manifest(folder), RuntimeOptions("openvino", "auto", 1))
assert choice.runtime.name.startswith("openvino"), choice
"""

_QUANTIZE = """
import numpy
nncf = import_nncf()
ops = openvino.opset13
given = ops.parameter([1, 3, 8, 8], numpy.float32)
kernel = numpy.ones((2, 3, 3, 3), numpy.float32)
convolution = ops.convolution(given, kernel, [1, 1], [0, 0], [0, 0], [1, 1])
pictures = [numpy.ones((1, 3, 8, 8), numpy.float32)] * 2
nncf.quantize(openvino.Model([convolution], [given]), nncf.Dataset(pictures), subset_size=2)
"""

_VERDICT = """
import threading
loaded = sys.modules.get("openvino_telemetry")
assert loaded is None, loaded
assert "tensorflow" not in sys.modules
assert not reached, reached
"""


def _run(script: str, home: Path, *arguments: str) -> None:
    consent = home / "intel"
    consent.mkdir()
    # The user has agreed to telemetry some day; and nothing here looks like a test or a CI run.
    (consent / "openvino_telemetry").write_text("1\n")
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "NNCF_CI", "NNCF_DEV")}
    subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=_ROOT,
        env=environment | {"HOME": str(home)},
        check=True,
        timeout=300,
    )


def test_serving_opens_no_connection_and_loads_no_tensorflow(folder: Path, tmp_path: Path) -> None:
    _run(_GUARD + _LOAD + _VERDICT, tmp_path, str(folder))


@pytest.mark.slow
def test_quantization_opens_no_connection(tmp_path: Path) -> None:
    _run(_GUARD + _QUANTIZE + _VERDICT, tmp_path)
