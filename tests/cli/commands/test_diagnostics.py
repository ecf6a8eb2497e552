"""`opsin doctor`, and `opsin tensorboard` without TensorFlow."""

import json
import re
import time
from pathlib import Path

import httpx
import psutil

from contracts.settings import Settings
from models.training.report.event_log import EventLog
from tests.cli.commands.test_up import ready
from tests.cli.conftest import Call
from tests.cli.running import Starter, until
from tests.ports import free_port


def state(text: str, check: str) -> str:
    found = re.search(rf"^(ok|warn|fail)\t{re.escape(check)}\t", text, re.MULTILINE)
    assert found, text
    return found[1]


def test_without_a_running_service_only_weights_are_missing(call: Call) -> None:
    code, text = call("doctor", OPSIN_PORT=free_port())
    assert code == 1, text
    for check in ("python", "data home", "disk", "processor", "redis", "database", "port"):
        assert state(text, check) == "ok"
    assert state(text, "weights squeezenet") == "fail"
    assert "opsin weights pull squeezenet" in text
    assert "4 of" in text, "nothing else fails"


def test_json_output(call: Call) -> None:
    code, text = call("doctor", "--json", OPSIN_PORT=free_port(), OPSIN_MODELS="squeezenet")
    assert code == 1
    begin, end = text.index("{"), text.rindex("}") + 1
    report = json.loads(text[begin:end])
    assert report["failed"] == 1
    (weights,) = [check for check in report["checks"] if check["state"] == "fail"]
    assert weights["name"] == "weights squeezenet"
    assert "opsin weights pull" in weights["help"]


def test_a_redis_that_does_not_answer_fails(call: Call, tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/none.sock"
    code, text = call("doctor", OPSIN_PORT=free_port(), OPSIN_REDIS_URL=url)
    assert code == 1
    assert state(text, "redis") == "fail"
    assert "OPSIN_REDIS_URL" in text


def test_an_open_address_without_a_key_fails(call: Call) -> None:
    code, text = call("doctor", OPSIN_PORT=free_port(), OPSIN_HOST="0.0.0.0")
    assert code == 1
    assert state(text, "key") == "fail"


def test_a_running_instance_is_checked(start: Starter, tmp_path: Path) -> None:
    home, port = tmp_path / "home", free_port()
    up = ready(start, home, port)
    run = start("-m", "cli", "doctor", OPSIN_HOME=home, OPSIN_PORT=port)
    assert run.wait() == 1, "there are no weights"
    assert set(re.findall(r"^fail\t(\w+)", run.text, re.MULTILINE)) == {"weights"}
    assert re.search(r"^ok\tredis\tvalkey \S+, \S+ ms, noeviction", run.text, re.MULTILINE)
    assert re.search(r"^ok\tdatabase\tsqlite, revision", run.text, re.MULTILINE)
    assert f"ready at http://127.0.0.1:{port}" in run.text
    up.process.terminate()
    assert up.wait() == 0


def test_tensorboard_answers_soon_and_shows_the_curves(start: Starter, tmp_path: Path) -> None:
    home, port = tmp_path / "home", free_port()
    log = EventLog(Settings(home=home).event_logs_home / "job_1")
    log.row({"phase": "head", "epoch": 1, "loss": 0.5, "accuracy": 0.75, "learning_rate": 0.1})
    log.close()
    run = start("-m", "cli", "tensorboard", "--port", str(port), OPSIN_HOME=home)
    url = f"http://127.0.0.1:{port}"

    def runs() -> list[str]:
        try:
            names: list[str] = httpx.get(f"{url}/data/runs", timeout=5, trust_env=False).json()
        except (httpx.TransportError, ValueError):
            return []
        return names

    began = time.monotonic()
    until(runs, 150)
    # It reads one log after the other.
    assert "job_1/training" in runs(), run.text
    assert time.monotonic() - began < 150
    maps = {Path(entry.path).name for entry in psutil.Process(run.process.pid).memory_maps()}
    assert not {name for name in maps if "tensorflow" in name}, "it loaded TensorFlow"
