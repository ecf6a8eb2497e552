import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import COMMAND_GROUPS, COMMANDS, EXAMPLES, GROUPS, _report, build, load_command
from cli.output import CommandError
from cli.streams import debug
from contracts.errors import ModelNotReady
from contracts.settings import RELEASE
from tests.cli.running import ROOT, Starter


def test_help_loads_nothing_heavy() -> None:
    """What `opsin` imports before it knows the command decides how quickly it answers."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "cli", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "classify" in done.stdout
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.split("\n")}
    assert "typer" in loaded
    heavy = {"celery", "cv2", "fastapi", "keras", "numpy", "redis", "sqlalchemy", "tensorflow"}
    assert not loaded & heavy


@pytest.mark.parametrize("name", COMMANDS)
def test_each_summary_is_that_of_the_command(name: str) -> None:
    assert load_command(name).help.startswith(COMMANDS[name][1])


@pytest.mark.parametrize(
    "module", ["cli.main", "cli.commands.up", "cli.commands.classify", "cli.commands.diagnostics"]
)
def test_no_command_loads_tensorflow_by_itself(module: str) -> None:
    program = (
        f"import sys, {module}; print([m for m in ('tensorflow', 'keras', 'celery', 'fastapi') "
        "if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_version_option(start: Starter) -> None:
    run = start("-m", "cli", "--version")
    assert run.wait() == 0
    assert run.text == f"Opsin {RELEASE}\n"


def test_a_bad_setting_is_named_as_in_the_environment(start: Starter) -> None:
    run = start("-m", "cli", "up", OPSIN_PORT="http")
    assert run.wait() == 2
    assert "OPSIN_PORT: Input should be a valid integer" in run.text
    assert "Traceback" not in run.text


def test_an_unknown_network_is_refused(start: Starter) -> None:
    run = start("-m", "cli", "up", OPSIN_MODELS="squeezenet,resnet")
    assert run.wait() == 2
    assert "OPSIN_MODELS names resnet; known are efficientnet_lite0" in run.text


@pytest.mark.parametrize("role", ["serve", "worker"])
def test_serve_and_worker_need_a_redis(start: Starter, role: str) -> None:
    run = start("-m", "cli", role)
    assert run.wait() == 2
    assert f"`opsin {role}` needs OPSIN_REDIS_URL" in run.text


def test_it_runs_from_any_folder(tmp_path: Path) -> None:
    """A folder of the user's with the name of one of ours is not imported."""
    (tmp_path / "cli").mkdir()
    (tmp_path / "cli" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "cli", "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "classify" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (CommandError("plain words", exit_code=2), "plain words"),
        (ValueError("odd"), "fault of Opsin: ValueError: odd"),
        (OSError(28, "No space left on device", "/x\udce9"), r"/x\xe9: No space left on device."),
        (ModelNotReady("It loads."), "It loads."),
    ],
)
def test_any_failure_is_one_line(
    failure: Exception, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    debug.set(False)
    assert _report(failure) == (2 if isinstance(failure, CommandError) else 1)
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_debug_shows_where_an_unexpected_failure_comes_from() -> None:
    debug.set(True)
    try:
        with pytest.raises(ValueError, match="odd"):
            _report(ValueError("odd"))
    finally:
        debug.set(False)


def test_every_command_is_in_one_group_with_an_example() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(COMMANDS)
    assert set(EXAMPLES) == set(COMMANDS)
    shown = CliRunner().invoke(build(), ["--help"]).stdout
    for title, names in GROUPS.items():
        assert f"{title}:" in shown
        assert EXAMPLES[names[0]] in shown
    assert EXAMPLES["explain"] in CliRunner().invoke(build(), ["explain", "--help"]).stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_free_of_pythons_types_and_cuts_nothing_off(name: str) -> None:
    root = load_command(name)
    for words in [[], *([each] for each in getattr(root, "commands", {}))]:
        shown = CliRunner().invoke(build(), [name, *words, "--help"]).stdout
        usage, _, rest = shown.partition("\n")
        assert not set("{}<>") & set(usage), usage
        assert not re.search(r"<\w+( range)?>|list\[|\.\.\.$", rest, re.MULTILINE), rest
        argument = re.search(r"Arguments:\n  (\S+)", rest)
        assert argument is None or argument[1].isupper(), rest


def test_every_example_is_a_call_that_the_command_understands() -> None:
    for name, example in EXAMPLES.items():
        words = shlex.split(example.partition("opsin ")[2])
        assert words[0] == name
        options = [word for word in words if word.startswith("--")]
        known = CliRunner().invoke(build(), [*_command_words(words), "--help"]).stdout
        assert all(option in known for option in options), example


def _command_words(words: list[str]) -> list[str]:
    return words[:2] if hasattr(load_command(words[0]), "commands") else words[:1]


@pytest.mark.parametrize(
    ("words", "meant"), [("clasify x", "classify"), ("jobs list --stat x", "--state")]
)
def test_a_misspelt_word_gets_a_suggestion(start: Starter, words: str, meant: str) -> None:
    run = start("-m", "cli", *words.split())
    assert run.wait() == 2
    assert "Did you mean" in run.text
    assert meant in run.text


@pytest.mark.parametrize(
    "spelling",
    ["Grad-CAM", *(pytest.param(s, marks=pytest.mark.slow) for s in ("grad-cam", "GradCAM"))],
)
def test_a_choice_may_be_written_as_it_is_pronounced(spelling: str) -> None:
    explain = ["explain", "none.png", "--method", spelling, "--local"]
    done = CliRunner().invoke(build(), explain)
    assert isinstance(done.exception, CommandError), done.output  # the file, not the method
    assert "none.png" in done.exception.message


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("explain a.png --method grad-cm", "'grad-cm' is none of grad_cam, hires_cam"),
        ("explain a.png --method grad-cm", "Did you mean grad_cam?"),
        ("classify a.png --top one", "'--top': This is not a whole number."),
        ("explain a.png --alpha one", "'--alpha': This is not a number."),
    ],
)
def test_a_wrong_value_is_explained_without_words_of_python(
    start: Starter, words: str, text: str
) -> None:
    run = start("-m", "cli", *words.split())
    assert run.wait() == 2
    assert text in run.text
    assert "Value error" not in run.text
    assert "Input should" not in run.text


def test_a_command_of_a_group_is_found(start: Starter) -> None:
    run = start("-m", "cli", "evaluate", "pets")
    assert run.wait() == 2
    assert "No such command 'evaluate'. Did you mean 'models evaluate'?" in run.text


def test_every_group_of_commands_is_known() -> None:
    groups = {name for name in COMMANDS if hasattr(load_command(name), "commands")}
    assert groups == set(COMMAND_GROUPS)


def test_quiet_prints_only_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSIN_HOME", str(tmp_path))
    for words in (["--quiet", "keys", "create"], ["keys", "create", "--quiet"]):
        made = CliRunner().invoke(build(), [*words, "phone", "--scope", "infer"])
        assert made.exit_code == 0, made.output
        assert made.stderr == ""
        assert len(made.stdout.splitlines()) == 1
    assert "key_" in CliRunner().invoke(build(), ["keys", "create", "x", "--scope", "infer"]).stderr


def test_the_shell_completes_commands_and_options() -> None:
    for typed, position, expected in (
        ("opsin cla", 1, "classify"),
        ("opsin jobs fol", 2, "follow"),
    ):
        done = subprocess.run(
            # The shell's variable is named after the program.
            [
                sys.executable,
                "-c",
                "import sys; sys.argv[0] = 'opsin'; from cli.main import *; run()",
            ],
            cwd=ROOT,
            env={
                **os.environ,
                "_OPSIN_COMPLETE": "complete_bash",
                "COMP_WORDS": typed,
                "COMP_CWORD": str(position),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert expected in done.stdout.split(), done.stderr
