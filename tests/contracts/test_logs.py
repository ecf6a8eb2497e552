import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import logging, structlog
from contracts.logs import configure_logs
configure_logs("info", "{form}")
structlog.contextvars.bind_contextvars(request_id="r1")
structlog.get_logger("ours").info("hello", n=1)
structlog.get_logger("ours").debug("too quiet")
logging.getLogger("theirs").warning("from %s", "afar")
try:
    secret = "hush"
    1 / 0
except ZeroDivisionError:
    structlog.get_logger("ours").exception("broken")
"""


def run(form: str) -> list[str]:
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(form=form)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert not process.stdout
    return process.stderr.splitlines()


def test_all_loggers_write_the_same_json() -> None:
    ours, theirs, broken = (json.loads(line) for line in run("json"))
    assert (ours["event"], ours["n"], ours["level"], ours["logger"]) == ("hello", 1, "info", "ours")
    assert (theirs["event"], theirs["level"]) == ("from afar", "warning")
    assert {line["request_id"] for line in (ours, theirs, broken)} == {"r1"}
    assert broken["exception"][0]["exc_type"] == "ZeroDivisionError"
    assert "hush" not in json.dumps(broken)


def test_console_format_is_plain_text() -> None:
    text = "\n".join(run("console"))
    assert "hello" in text
    assert "from afar" in text
    assert "ZeroDivisionError" in text


ESCAPES = """
import structlog
from contracts.logs import configure_logs
configure_logs("info", "{form}")
log = structlog.get_logger("ours")
log.info("request", path="/a\\x1b[2Jb\\x9b31m\\u202e", other="/a\\r\\nforged")
log.info("\\x1b]0;title\\x07", path=["\\x1b[2J"])
"""


def test_nothing_that_a_client_sends_moves_the_terminal() -> None:
    for form in ("console", "json"):
        result = subprocess.run(
            [sys.executable, "-c", ESCAPES.format(form=form)],
            cwd=ROOT,
            capture_output=True,
            timeout=120,
            check=True,
        )
        text = result.stderr.decode()
        assert not {one for one in text if not one.isprintable()} - {"\n"}, form
        assert len(text.splitlines()) == 2, "no line is forged"
        assert "[2J" in text


UNWRITTEN = """
import structlog
from contracts.logs import configure_logs
configure_logs("info", "{form}")
structlog.get_logger("ours").info("hello")
print("went on", flush=True)
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
@pytest.mark.parametrize("form", ["json", "console"])
def test_a_line_that_cannot_be_written_breaks_nothing(form: str) -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-c", UNWRITTEN.format(form=form)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=full,
            timeout=120,
            check=False,
        )
    assert result.stdout == b"went on\n"
