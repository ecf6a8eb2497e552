"""The container files say what the command line can do, and keep what we promise of them.

Docker is not needed: what can be checked without it is checked here.
"""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from cli.home import Home
from cli.processes.supervisor import Supervisor
from cli.processes.valkey import embedded
from contracts.settings import Settings
from tests.cli.conftest import home, start
from tests.cli.running import Starter, until
from tests.ports import free_port

__all__ = ["home", "start"]  # fixtures

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILES = ("Dockerfile", "Dockerfile.gpu")
TOOLS = Path(sys.executable).parent


def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return content


def ours() -> dict[str, Any]:
    return {n: s for n, s in compose()["services"].items() if s["command"][:1] == ["opsin"]}


def commands() -> set[tuple[str, ...]]:
    """Every `opsin …` that a container runs."""
    found = {tuple(service["command"]) for service in ours().values()}
    for name in DOCKERFILES:
        for line in re.findall(r"^CMD (.*)$", (ROOT / name).read_text(), re.MULTILINE):
            found.add(tuple(json.loads(line)))
    return found


def tool(name: str) -> str:
    path = shutil.which(name, path=str(TOOLS)) or shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def test_the_commands_are_the_roles_of_an_installation() -> None:
    assert commands() == {
        ("opsin", "serve"),
        ("opsin", "worker"),
        ("opsin", "worker", "--jobs"),
        ("opsin", "weights", "pull"),
        ("opsin", "tensorboard", "--host", "0.0.0.0", "--wait"),
    }


def test_jobs_leave_the_processors_to_who_serves() -> None:
    """Niceness counts within a container; between containers their shares do, 1,024 unless told."""
    shares = {name: one.get("cpu_shares", 1024) for name, one in compose()["services"].items()}
    jobs = {name for name, one in ours().items() if "--jobs" in one["command"]}
    serving = max(shares[name] for name in jobs) * 10
    assert all(shares[name] >= serving for name in shares.keys() - jobs)


@pytest.mark.parametrize("command", sorted(commands()))
def test_each_command_is_the_command_lines_own(command: tuple[str, ...]) -> None:
    subprocess.run(
        [sys.executable, "-m", "cli", *command[1:], "--help"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )


def test_the_weights_service_runs_as_written(start: Starter, shared: Path) -> None:
    run = start(
        *("-m", "cli", *ours()["weights"]["command"][1:]),
        OPSIN_WEIGHTS_DIR=shared / "weights",
        OPSIN_OFFLINE=1,
    )
    assert run.wait() == 0, run.text


def test_the_health_check_tells_up_from_down(start: Starter) -> None:
    port = free_port()
    program, dash_c, code = ours()["api"]["healthcheck"]["test"][1:]
    assert (program, dash_c) == ("python", "-c")
    code = code.replace(":8000/", f":{port}/")
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode
        != 0
    )
    server = start("tests/cli/stand_in.py", "serve", OPSIN_PORT=port)

    def healthy() -> bool:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
        return done.returncode == 0

    until(healthy)
    server.process.terminate()
    assert server.wait() == 0


@pytest.mark.slow
def test_api_and_worker_run_as_written(start: Starter, shared: Path, home: Home) -> None:
    """The two commands with their settings, a real Valkey between them; then a real answer."""
    valkey, port = embedded(home), free_port()
    processes = Supervisor(lambda line: None, shutdown_seconds=5)
    processes.start(valkey.program)
    try:
        valkey.wait(10, processes.require_all)
        given: dict[str, object] = {
            "OPSIN_HOME": home.root,
            "OPSIN_PORT": port,
            "OPSIN_REDIS_URL": valkey.url,
            "OPSIN_MODELS": "squeezenet",
            "OPSIN_WEIGHTS_DIR": shared / "weights",
            "OPSIN_OFFLINE": 1,
        }
        api = start("-m", "cli", *ours()["api"]["command"][1:], **given)
        until(lambda: _is_ok(f"http://127.0.0.1:{port}/healthz"), 60)
        worker = start("-m", "cli", *ours()["worker"]["command"][1:], **given)
        until(lambda: _is_ok(f"http://127.0.0.1:{port}/readyz"), 90)
        for run in (api, worker):
            run.process.terminate()
        # uvicorn, once it has finished, ends by the signal it was sent; so does a worker that
        # was sent it before Celery took over.
        for run in (api, worker):
            assert run.wait() in {0, -signal.SIGTERM}, run.text
    finally:
        processes.stop()
        valkey.remove_socket()


def _is_ok(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).is_success
    except httpx.HTTPError:
        return False


@pytest.mark.parametrize("name", ["api", "weights", "worker", "worker-gpu", "jobs", "jobs-gpu"])
def test_every_setting_reaches_the_containers(name: str) -> None:
    """From the shell or the file `.env`: Compose passes a name without a value on."""
    of_the_container = {"home", "host", "port", "redis_url", "weights_dir", "log_file_mb"}
    given = ours()[name]["environment"]
    for field in Settings.model_fields.keys() - of_the_container - {"api_key"}:
        setting = f"OPSIN_{field.upper()}"
        assert setting in given
        assert given[setting] is None or given[setting].startswith(f"${{{setting}:-")
    assert ("OPSIN_API_KEY" in given) == (name == "api")
    known = {f"OPSIN_{field.upper()}" for field in Settings.model_fields}
    assert {one for one in given if one.startswith("OPSIN_")} <= known


def test_compose_has_no_secret_to_write_to_a_read_only_container() -> None:
    assert "secrets" not in compose()
    assert not any("secrets" in service for service in compose()["services"].values())


def test_all_are_hardened() -> None:
    for name, service in compose()["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["restart"] in {"unless-stopped", "no"}, name
        grace = float(service["stop_grace_period"].rstrip("s"))
        assert grace > Settings.model_fields["shutdown_seconds"].default, name


def test_only_what_people_look_at_is_published_and_only_to_this_machine() -> None:
    services = compose()["services"]
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert list(published) == ["api", "tensorboard", "grafana", "jaeger"]
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)
    assert services["api"]["environment"]["OPSIN_API_KEY"].startswith("${OPSIN_API_KEY:?")


def test_the_profile_observability_is_complete() -> None:
    """Everything that its files name is there: mounted files, targets and data sources."""
    services = compose()["services"]
    chosen = {n: s for n, s in services.items() if s.get("profiles") == ["observability"]}
    assert set(chosen) == {"prometheus", "grafana", "jaeger"}
    for service in chosen.values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert (
                (ROOT / source).exists()
                if source.startswith(".")
                else source in compose()["volumes"]
            )
    deploy = ROOT / "deploy"
    scraped = yaml.safe_load((deploy / "prometheus/prometheus.yml").read_text())
    for name in scraped["rule_files"]:
        assert (deploy / "prometheus" / name).is_file()
    (job,) = scraped["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["api:8000"]}]
    key_file = job["authorization"]["credentials_file"]
    assert f'"$$OPSIN_API_KEY" > {key_file} ' in chosen["prometheus"]["entrypoint"][2]
    sources = yaml.safe_load((deploy / "grafana/provisioning/datasources/opsin.yml").read_text())
    hosts = {one["type"]: httpx.URL(one["url"]).host for one in sources["datasources"]}
    assert hosts == {"prometheus": "prometheus", "jaeger": "jaeger"}


def test_the_queue_keeps_what_it_is_given() -> None:
    redis = compose()["services"]["redis"]
    joined = " ".join(redis["command"])
    assert "--appendonly yes" in joined
    assert "--maxmemory-policy noeviction" in joined
    assert redis["healthcheck"]["test"][0] == "CMD"


def test_the_gpu_worker_gets_a_gpu_and_the_profiles_choose() -> None:
    services = compose()["services"]
    device = services["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"][0]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert services["worker"]["profiles"] == ["cpu"]
    assert services["worker-gpu"]["profiles"] == ["gpu"]


def test_what_is_built_is_what_the_dockerfiles_offer() -> None:
    built = {name: service for name, service in ours().items() if "build" in service}
    images = {service["image"] for service in built.values()}
    assert {service["image"] for service in ours().values()} == images, "each is built by someone"
    for name, service in built.items():
        build = service["build"]
        text = (ROOT / build.get("dockerfile", "Dockerfile")).read_text()
        stages = re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE)
        assert build.get("target", stages[-1]) in stages, name


@pytest.mark.parametrize("name", DOCKERFILES)
def test_nothing_runs_as_root_and_all_packages_are_hashed(name: str) -> None:
    text = (ROOT / name).read_text()
    final = [stage for stage in re.split(r"^FROM ", text, flags=re.MULTILINE) if "CMD [" in stage]
    assert final
    assert all("USER 10001:10001" in stage for stage in final)
    for line in re.findall(r"pip install .*", text):
        assert "--require-hashes" in line or "--no-deps --no-build-isolation --no-index" in line


def test_the_api_image_has_no_tensorflow() -> None:
    assert not re.search(r"^(tensorflow|keras)==", _requirements("api"), re.MULTILINE)
    assert re.search(r"^tensorflow==", _requirements("worker"), re.MULTILINE)
    assert re.search(r"^nvidia-cudnn-cu\d+==", _requirements("gpu"), re.MULTILINE)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint(name: str) -> None:
    done = subprocess.run(
        [tool("hadolint"), ROOT / name], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_compose_specifications_schema() -> None:
    done = subprocess.run(
        [
            *(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec"),
            ROOT / "docker-compose.yml",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_docker_compose_config() -> None:
    docker = [tool("docker"), "compose"]
    if subprocess.run([*docker, "version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("docker has no compose here")
    done = subprocess.run(
        [*docker, "--profile", "cpu", "--profile", "gpu", "config", "--quiet"],
        cwd=ROOT,
        env={"OPSIN_API_KEY": "0123456789abcdef", "PATH": "/usr/bin:/usr/local/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def _requirements(name: str) -> str:
    return (ROOT / "requirements" / f"{name}.txt").read_text()
