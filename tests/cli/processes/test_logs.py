import json
from pathlib import Path

from cli.processes.logs import Follower, rotate, tail


def test_the_log_of_the_last_run_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "api.log"
    for text in ("first", "second"):
        rotate(log).write_text(text)
    assert log.read_text() == "second"
    assert (tmp_path / "api.log.1").read_text() == "first"


def test_json_lines_are_formatted_for_people(tmp_path: Path) -> None:
    log = tmp_path / "api.log"
    entries = [
        {"level": "info", "event": "starting"},
        {"level": "error", "event": "Traceback\nKeyError: 'a'"},
        {"level": "error", "event": "x", "exception": [{"exc_type": "E", "exc_value": "why"}]},
    ]
    log.write_text("plain\n" + "\n".join(map(json.dumps, entries)) + "\n[1]\n")
    assert tail(log, lines=6).splitlines() == [
        "  info: starting",
        "  error: Traceback",
        "  KeyError: 'a'",
        "  error: x",
        "    E: why",
        "  [1]",
    ]


def test_a_missing_log_is_empty(tmp_path: Path) -> None:
    assert tail(tmp_path / "none.log", lines=3) == ""


def test_only_whole_lines_are_shown_and_only_once(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    shown: list[tuple[str, str]] = []
    follower = Follower([log], lambda name, line: shown.append((name, line)))
    follower.show_new()
    log.write_text("one\ntw")
    follower.show_new()
    follower.show_new()
    with log.open("a") as file:
        file.write("o\n")
    follower.show_new()
    assert shown == [("worker", "one"), ("worker", "two")]
