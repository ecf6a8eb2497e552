import json
from pathlib import Path

from cli.processes.logs import Follower, limit_size, rotate, tail


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


def test_a_large_log_begins_anew_under_its_writer(tmp_path: Path) -> None:
    log = tmp_path / "api.log"
    shown: list[str] = []
    follower = Follower([log], lambda _, line: shown.append(line))
    with log.open("ab", buffering=0) as writer:
        for number in range(10):
            writer.write(b"%d\n" % number)
            assert limit_size(log, 6) == (number in {3, 7})
            follower.show_new()
    assert log.read_text() == "8\n9\n"
    assert (tmp_path / "api.log.1").read_text() == "4\n5\n6\n7\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["api.log", "api.log.1"]
    assert shown[-2:] == ["8", "9"]
    assert not limit_size(tmp_path / "none.log", 6)
