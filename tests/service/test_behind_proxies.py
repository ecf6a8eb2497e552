"""Behind proxies as the how-to configures them: under a path of a site, and with TLS."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from contracts.jobs import Artifact
from contracts.settings import Settings
from tests.ports import free_port
from tests.service.caddy import caddy, require_caddy
from tests.service.nginx import PAGE, UPSTREAM, nginx, require_nginx, snippets
from tests.service.parts import NOW, FakeServices, gray_png

StartService = Callable[[Settings, FakeServices], AbstractContextManager[str]]
Proxy = Callable[[Path, str, int], AbstractContextManager[None]]
KEY = "a-key-of-sixteen-or-more"
JOB = "job_0123456789abcdef"
# What of the suite speaks HTTP with the service as any client would.
HTTP_PART = (
    *("tests/service/http/test_uploads.py", "tests/service/http/test_errors.py"),
    *("tests/service/http/test_headers.py", "tests/service/http/test_fast_route.py"),
    *("tests/service/middleware/test_body_limit.py", "tests/service/inference"),
    *("tests/service/explanation", "tests/service/jobs/test_routes.py"),
    *("tests/service/datasets", "tests/service/registry", "tests/service/protocols"),
    "tests/service/test_conventions.py",
)
# These compare a URL without a prefix, send raw bytes to one, or get nginx's own answer.
DIRECT = (
    *(
        "declared_length_is_refused",
        "respond_async_returns",
        "job_has_its_model",
        "job_has_the_files",
    ),
    *(
        "activations_as_a_job",
        "control_character_in_an_id",
        "dataset_is_created",
        "large_or_deferred",
    ),
    *("repeated_key_returns_the_first", "impossible_promotion", "disconnect_withdraws"),
    *("video_becomes_a_job", "busy_decoder_refuses"),
)


@contextmanager
def nginx_site(folder: Path, upstream: str, port: int) -> Iterator[None]:
    location = snippets()[1].replace(UPSTREAM, upstream)
    with nginx(folder, f"server {{ listen 127.0.0.1:{port};\n{location} }}", port):
        yield


PROXIES: dict[str, tuple[Callable[[], str], Proxy]] = {
    "nginx": (require_nginx, nginx_site),
    "caddy": (require_caddy, caddy),
}


@pytest.fixture(params=PROXIES)
def site(
    request: pytest.FixtureRequest, served: StartService, fakes: FakeServices, tmp_path: Path
) -> Iterator[httpx.Client]:
    """A site at `/`, with the API below `/opsin/`."""
    require, proxy = PROXIES[request.param]
    require()
    settings = Settings(_env_file=None, api_key=KEY, trusted_proxies="127.0.0.1")
    port = free_port()
    with served(settings, fakes) as url:
        headers = {"X-API-Key": KEY}
        with (
            proxy(tmp_path, url, port),
            httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers) as client,
        ):
            yield client


def test_every_url_leads_back_through_the_proxy(site: httpx.Client, fakes: FakeServices) -> None:
    headers = {"Prefer": "respond-async"}
    accepted = site.post("/opsin/v1/classify", content=gray_png(), headers=headers)
    assert accepted.status_code == 202
    assert site.get(accepted.headers["Location"]).json()["id"] == accepted.json()["id"]
    fakes.files.store_artifact(JOB, "a.png", b"an image")
    path = f"/v1/jobs/{JOB}/artifacts/a.png"
    kept = Artifact(name="a.png", media_type="image/png", size=8, url=path)
    fakes.jobs.put(JOB, artifacts=[kept])
    (artifact,) = site.get(f"/opsin/v1/jobs/{JOB}").json()["artifacts"]
    part = site.get(artifact["url"], headers={"Range": "bytes=3-"})
    assert (part.status_code, part.content) == (206, b"image")
    assert site.get("/opsin/openapi.json").json()["servers"][0]["url"] == "/opsin"
    page = site.get("/opsin/", follow_redirects=True)
    assert page.url.path == "/opsin/"
    for link in re.findall(r'(?:src|href)="([^":#]+)"', page.text):
        assert site.get(urljoin(str(page.url), link)).status_code == 200


def test_requests_of_all_kinds_pass(site: httpx.Client) -> None:
    url, image = "/opsin/v1/classify", gray_png()
    for answer in (
        site.post(url, content=image),
        site.post(url + "/", content=image, headers={"Content-Type": "application/octet-stream"}),
        site.post(url, files={"image": ("a.png", image)}),
        site.post(url, content=(image[at : at + 100] for at in range(0, len(image), 100))),
    ):
        assert answer.status_code == 200, answer.text
    assert site.head("/opsin/healthz").status_code == 200
    refused = site.post(url, content=bytes(17 * 2**20))
    assert (refused.status_code, refused.json()["code"]) == (413, "payload_too_large")
    assert site.get("/opsin/v1/models", headers={"X-API-Key": "no"}).status_code == 401


def test_events_come_as_they_happen(site: httpx.Client, fakes: FakeServices) -> None:
    fakes.jobs.put(JOB, state="running", attempt=1, started_at=NOW)
    with site.stream("GET", f"/opsin/v1/jobs/{JOB}/events", timeout=60) as stream:
        lines = stream.iter_lines()
        assert next(line for line in lines if line.startswith("event:")) == "event: state"
        fakes.jobs.put(JOB, state="succeeded", attempt=1, started_at=NOW, finished_at=NOW)
        assert any('"succeeded"' in line for line in lines)


def test_a_site_of_its_own_with_tls(
    served: StartService, fakes: FakeServices, tmp_path: Path
) -> None:
    require_nginx()
    settings = Settings(_env_file=None, api_key=KEY, trusted_proxies="127.0.0.1")
    port = free_port()
    certificate, key = _self_signed(tmp_path)
    with served(settings, fakes) as url:
        server = snippets()[0].replace("listen 443", f"listen 127.0.0.1:{port}")
        server = server.replace(UPSTREAM, url)
        server = re.sub(r"/etc/ssl/opsin\.pem", str(certificate), server)
        server = re.sub(r"/etc/ssl/opsin\.key", str(key), server)
        with nginx(tmp_path, server, port):
            answer = httpx.post(
                f"https://127.0.0.1:{port}/v1/classify",
                content=gray_png(),
                headers={"X-API-Key": KEY, "Prefer": "respond-async"},
                verify=False,
            )
    assert answer.status_code == 202
    assert answer.headers["Location"].startswith("/v1/jobs/")
    assert answer.headers["Strict-Transport-Security"]


def test_the_snippet_for_traefik_is_connected() -> None:
    """Traefik is in no package index, so that only its file is checked."""
    (snippet,) = re.findall(r"```yaml\n(http:.*?)```", PAGE.read_text(), re.DOTALL)
    http = yaml.safe_load(snippet)["http"]
    (router,) = http["routers"].values()
    (middleware,) = router["middlewares"]
    (prefix,) = http["middlewares"][middleware]["stripPrefix"]["prefixes"]
    assert router["rule"] == f"PathPrefix(`{prefix}`)"
    servers = http["services"][router["service"]]["loadBalancer"]["servers"]
    assert servers == [{"url": UPSTREAM}]


@pytest.mark.slow
@pytest.mark.timeout(1800)  # each test within it has its own limit
def test_the_http_part_of_the_suite_passes_behind_nginx() -> None:
    require_nginx()
    chosen = ["-k", " and ".join(f"not {name}" for name in DIRECT), *HTTP_PART]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *chosen]
    env = os.environ | {"OPSIN_TEST_THROUGH_NGINX": "1"}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:]


def _self_signed(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem, private = folder / "opsin.pem", folder / "opsin.key"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return pem, private
