"""The API process reuses the memory of one image for the next."""

import subprocess
import sys

import pytest

# As drawing on an image does: a few arrays of a megabyte, all freed at its end.
_DRAW = """
import resource
from cli.processes.malloc import configure_malloc
{tune}
import numpy as np
def draw():
    return [np.ones(1_000_000, np.uint8) for _ in range(3)]
for _ in range(20):
    draw()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    draw()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 50)
"""


def _page_faults_per_image(tune: str) -> int:
    script = _DRAW.format(tune=tune)
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    return int(ran.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="it tunes glibc")
def test_the_next_image_reuses_memory() -> None:
    assert _page_faults_per_image("pass") > 200, "otherwise there is nothing to tune"
    assert _page_faults_per_image("configure_malloc()") < 20


def test_products_use_one_thread_unless_configured() -> None:
    script = (
        "import os; from cli.processes.malloc import configure_malloc; configure_malloc(); "
        "print(os.environ[NAME])"
    )
    for given, expected in (({}, "1"), ({"OPENBLAS_NUM_THREADS": "3"}, "3")):
        ran = subprocess.run(
            [sys.executable, "-c", script.replace("NAME", "'OPENBLAS_NUM_THREADS'")],
            env=given,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        assert ran.stdout.strip() == expected
