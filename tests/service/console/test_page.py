"""The page at `/` and its files: what browsers may do with them, and that no text is missing."""

import json
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from hashlib import sha256
from pathlib import Path
from typing import get_args

import httpx
import pytest
from fastapi import Request
from hatchling.builders.wheel import WheelBuilder

from contracts.errors import CODES
from contracts.faces.liveness import ACTIONS, LivenessReason
from contracts.inference.evaluation import EvaluatedSplit, Verdict
from contracts.jobs import WORK_QUEUES, JobKind, JobState
from contracts.settings import Settings
from contracts.training.trainings import PHASES, PRETRAINED, TrainableNetwork
from service.console import page as console
from service.console.assets import LANGUAGES, load_assets, texts
from tests.conftest import ROOT
from tests.service.parts import FakeServices

FOLDER = Path(console.__file__).parent
SCRIPTS = sorted((FOLDER / "static").rglob("*.js"))
CATALOG: dict[str, dict[str, str]] = json.loads((FOLDER / "texts.json").read_text("utf-8"))
MAX_COMPRESSED = 150_000
StartService = Callable[[Settings, FakeServices], AbstractContextManager[str]]


def directives(policy: str) -> dict[str, str]:
    items = (item.strip().partition(" ") for item in policy.split(";"))
    return {name: value for name, _, value in items}


def test_the_policy_allows_nothing_inline_and_no_other_origin(steady: httpx.Client) -> None:
    answer = steady.get("/")
    policy = directives(answer.headers["Content-Security-Policy"])
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert "http" not in answer.headers["Content-Security-Policy"]
    assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", answer.text)
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", answer.text)


def test_files_have_a_digest_in_their_path_and_are_kept(steady: httpx.Client) -> None:
    text = steady.get("/").text
    paths = re.findall(r'(?:src|href)="(_console/[^"]+)"', text)
    assert {Path(path).name for path in paths} >= {"app.js", "console.css", "theme.js", "icon.svg"}
    for path in paths:
        answer = steady.get("/" + path)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["Cache-Control"]
        assert answer.headers["Content-Encoding"] == "gzip"
        plain = steady.get("/" + path, headers={"Accept-Encoding": "identity"})
        assert plain.content == answer.content
    stale = paths[0].replace(load_assets().digest, "0" * 16)
    assert steady.get("/" + stale).status_code == 404
    assert steady.get(f"/_console/{load_assets().digest}/..%2fpage.py").status_code == 404


def test_every_file_is_in_the_wheel() -> None:
    packed = {one.distribution_path for one in WheelBuilder(str(ROOT)).recurse_included_files()}
    files = [path for path in FOLDER.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert {path.relative_to(ROOT).as_posix() for path in files} <= packed


def test_all_scripts_and_styles_are_small() -> None:
    assert sum(len(one.packed) for one in load_assets().files.values()) < MAX_COMPRESSED


def test_each_text_is_in_each_language() -> None:
    for key, entry in CATALOG.items():
        assert entry.keys() == set(LANGUAGES), key
        assert all(text.strip() for text in entry.values()), key
        values = {tuple(sorted(re.findall(r"\{(\w+)\}", text))) for text in entry.values()}
        assert len(values) == 1, f"{key}: the texts take different values"


def test_an_image_is_called_an_image() -> None:
    """The word of the glossary, as in the API's messages, which the page shows beside its own."""
    assert [key for key, entry in CATALOG.items() if "picture" in entry["en"].lower()] == []


def used_keys(script: str) -> set[str]:
    """The keys that a script names: `t("…")`, or any text with the form of a key."""
    named = set(re.findall(r"\bt\(\s*\"([^\"]+)\"", script))
    groups = "|".join(sorted({key.partition(".")[0] for key in CATALOG}))
    written = re.findall(rf"\"((?:{groups})\.[a-z_]+(?:\.[a-z]+)*)\"", script)
    return named | {key for key in written if not key.endswith((".js", ".jpg", ".webm", ".mp4"))}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_each_text_that_a_script_uses_exists(script: Path) -> None:
    assert used_keys(script.read_text("utf-8")) - texts("en").keys() == set()


def test_a_consent_names_the_text_that_was_shown() -> None:
    for language in LANGUAGES:
        shown = texts(language)["faces.consent"].encode()
        assert texts(language)["faces.consent.digest"] == f"sha256:{sha256(shown).hexdigest()}"


def test_each_code_and_name_of_the_api_has_a_text() -> None:
    """Keys that scripts build from values of the API, such as a job's kind."""
    wanted = {f"kind.{kind}" for kind in get_args(JobKind)}
    wanted |= {f"state.{state}" for state in get_args(JobState)}
    wanted |= {f"queue.{queue}" for queue in WORK_QUEUES.values()}
    wanted |= {f"action.{action}" for action in ACTIONS}
    wanted |= {f"liveness.{reason}" for reason in get_args(LivenessReason)}
    wanted |= {f"nav.{page}" for page in console.PAGES}
    wanted |= {f"phase.{phase}" for phases in PHASES.values() for phase in phases}
    wanted |= {f"versions.verdict.{verdict}" for verdict in get_args(Verdict)}
    wanted |= {f"split.{split}" for split in get_args(EvaluatedSplit)}
    assert wanted - CATALOG.keys() == set()


@pytest.mark.parametrize("code", sorted(CODES))
def test_each_error_of_the_api_says_what_to_do_in_the_readers_language(code: str) -> None:
    """`detail` is in English, and is about the request; this is about the page."""
    for language in LANGUAGES:
        assert texts(language).get(f"advice.{code}")


def test_the_training_form_knows_the_networks_and_phases_of_the_api() -> None:
    script = (FOLDER / "static/training.js").read_text("utf-8")

    def constant(name: str) -> str:
        return re.search(rf"const {name} = (?:new Set\()?([\[{{].*?[\]}}])\)?;", script)[1]  # type: ignore[index]

    assert set(json.loads(constant("PRETRAINED"))) == PRETRAINED
    assert set(json.loads(constant("NETWORKS"))) <= set(get_args(TrainableNetwork))
    phases = json.loads(re.sub(r"(\w+):", r'"\1":', constant("PHASES")))
    assert phases == {strategy: list(names) for strategy, names in PHASES.items()}


def test_jobs_of_every_kind_can_be_filtered() -> None:
    script = (FOLDER / "static/pages/jobs.js").read_text("utf-8")
    listed = re.search(r"const KINDS = (\[.*?\]);", script)
    assert set(json.loads(listed[1] if listed else "[]")) == set(get_args(JobKind))


def test_each_answer_has_the_headers_that_bind_a_browser(steady: httpx.Client) -> None:
    """Also scripts, images, errors and redirects: each can be opened in a frame by itself."""
    digest = load_assets().digest
    paths = ["/", *(f"/_console/{digest}/{name}" for name in load_assets().files)]
    paths += ["/_console/samples/none.png", f"/_console/{'0' * 16}/app.js", "/nowhere", "/docs"]
    for path in [*paths, "//example.org/", "//example.org/..", "/docs/"]:
        answer = steady.get(path)
        policy = directives(answer.headers["Content-Security-Policy"])
        assert policy["default-src"] == policy["frame-ancestors"] == "'none'", path
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert answer.headers.get("Location", "../docs") == "../docs"


def test_only_files_of_a_release_may_be_kept(steady: httpx.Client) -> None:
    for path in ("/v1/models", "/v1/jobs", "/v1/session", "/v1/system", "/nowhere"):
        assert steady.get(path).headers["Cache-Control"] == "no-store", path
    assert steady.get("/").headers["Cache-Control"] == "no-cache"


def test_no_script_turns_text_into_html() -> None:
    for script in SCRIPTS:
        text = script.read_text("utf-8")
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text
        ), script


def test_no_id_of_the_address_leads_to_another_route() -> None:
    """`#/learn?dataset=../models/pets/versions/1` showed a version, and deleted it as a dataset."""
    for script in SCRIPTS:
        assert not re.search(r"(?<!at)`v1/[^`?]*\$\{", script.read_text("utf-8")), script


@pytest.mark.parametrize(
    ("accepted", "cookie", "language"),
    [
        (None, None, "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", None, "zh"),
        ("fr, zh-TW;q=0.7", None, "zh"),
        ("fr", None, "en"),
        ("zh", "opsin_language=en", "en"),
        ("en", "opsin_language=zh; other=1", "zh"),
        ("en", "opsin_language=<script>", "en"),
    ],
)
def test_the_page_is_in_the_language_of_its_reader(
    steady: httpx.Client, accepted: str | None, cookie: str | None, language: str
) -> None:
    sent = {"Accept-Language": accepted or "", "Cookie": cookie or ""}
    answer = steady.get("/", headers={name: value for name, value in sent.items() if value})
    assert answer.headers["Content-Language"] == language
    assert texts(language)["nav.classify"] in answer.text
    assert f"texts.{language}.js" in answer.text


def test_behind_a_prefix_every_address_has_it(served: StartService, fakes: FakeServices) -> None:
    settings = Settings(_env_file=None, root_path="/opsin")
    with served(settings, fakes) as url, httpx.Client(base_url=url) as client:
        paths = re.findall(r'(?:src|href)="([^"#]+)"', client.get("/").text)
        assert paths
        assert all(path.startswith("/opsin/") for path in paths)
        for path in paths:
            assert client.get(path).status_code == 200, path


def test_samples_are_those_of_the_home(
    served: StartService, fakes: FakeServices, tmp_path: Path
) -> None:
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples/cat.png").write_bytes(b"a photo")
    (tmp_path / "samples/secret.txt").write_bytes(b"not for anyone")
    settings = Settings(_env_file=None, home=tmp_path)
    with served(settings, fakes) as url, httpx.Client(base_url=url) as client:
        assert 'data-samples="cat.png"' in client.get("/").text
        assert client.get("/_console/samples/cat.png").content == b"a photo"
        for ranges, status, content in (("0-0", 206, b"a"), ("0-0,2-2", 200, b"a photo")):
            headers = {"Range": f"bytes={ranges}"}
            answer = client.get("/_console/samples/cat.png", headers=headers)
            assert (answer.status_code, answer.content) == (status, content)
        for name in ("secret.txt", "coffee.png", "..%2fopsin.db"):
            assert client.get(f"/_console/samples/{name}").status_code == 404


def test_a_cookie_of_quotes_costs_nothing() -> None:
    """The page needs no key; Python's own parser takes seconds for this one (CVE-2024-7592)."""
    quotes = b'opsin_language="' + b'\\"' * 30_000 + b'"; opsin_language=zh'
    request = Request({"type": "http", "headers": [(b"cookie", quotes)]})
    began = time.process_time()
    assert console.language_of(request) == "zh"
    assert time.process_time() - began < 1
