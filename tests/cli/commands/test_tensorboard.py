"""TensorBoard on what a training wrote: there soon, and without TensorFlow."""

import time
from pathlib import Path

import httpx
import psutil

from contracts.settings import Settings
from models.training.report.event_log import EventLog
from tests.cli.running import Starter, free_port, until


def test_it_answers_soon_and_shows_the_curves(start: Starter, tmp_path: Path) -> None:
    home, port = tmp_path / "home", free_port()
    log = EventLog(Settings(home=home).event_logs_home / "job_1")
    log.row({"phase": "head", "epoch": 1, "loss": 0.5, "accuracy": 0.75, "learning_rate": 0.1})
    log.close()
    run = start("-m", "cli", "tensorboard", "--port", str(port), OPSIN_HOME=home)
    url = f"http://127.0.0.1:{port}"

    def runs() -> list[str]:
        try:
            found: list[str] = httpx.get(f"{url}/data/runs", timeout=5, trust_env=False).json()
        except (httpx.TransportError, ValueError):
            return []
        return found

    began = time.monotonic()
    until(runs, 150)
    # It reads one after the other.
    assert "job_1/training" in runs(), run.text
    assert time.monotonic() - began < 150
    maps = {Path(one.path).name for one in psutil.Process(run.process.pid).memory_maps()}
    assert not {name for name in maps if "tensorflow" in name}, "it took TensorFlow in"
