"""The application as a whole: what it imports, and that all of it is documented."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.errors import CODES
from contracts.settings import RELEASE, Settings
from tests.service.parts import FakeServices

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("tensorflow", "keras", "h5py", "onnx", "jax", "torch")
MEMORY_MIB = 160


def test_the_api_process_loads_no_network_library() -> None:
    program = (
        "import sys, psutil, service.app, service.server\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])\n"
        # Not ru_maxrss: on Linux a child begins with the peak of the process that started it.
        "print(psutil.Process().memory_info().rss // 2**20)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    loaded, memory = done.stdout.splitlines()
    assert loaded == "[]"
    assert int(memory) < MEMORY_MIB


def test_the_lifespan_opens_and_closes(client: httpx.Client, fakes: FakeServices) -> None:
    assert client.get("/healthz").status_code == 200
    assert fakes.open_count == 1


@pytest.fixture
def document(client: httpx.Client) -> dict[str, Any]:
    answer: dict[str, Any] = client.get("/openapi.json").json()
    return answer


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def parameters_of(document: dict[str, Any], operation: dict[str, Any]) -> list[dict[str, Any]]:
    shared = document["components"]["parameters"]
    return [
        shared[one["$ref"].split("/")[-1]] if "$ref" in one else one
        for one in operation["parameters"]
    ]


def test_every_endpoint_is_described(document: dict[str, Any]) -> None:
    assert len(operations(document)) >= 13
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(ids)) == len(ids)
    for method, path, operation in operations(document):
        where = f"{method} {path}"
        assert operation["summary"], where
        assert operation["description"], where
        assert "example" in str(operation["responses"]), where
        for parameter in parameters_of(document, operation):
            assert parameter["description"], f"{where} {parameter['name']}"


def test_every_error_is_documented_as_a_problem(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        for status, answer in operation["responses"].items():
            if status >= "400" and path != "/readyz":
                (kind,) = answer["content"]
                plain = path.startswith("/v2") or path.endswith(
                    (":predict", "/metadata", "/labels/{label}")
                )
                expected = "application/json" if plain else "application/problem+json"
                assert kind == expected, f"{method} {path} {status}"
                assert set(answer["content"][kind]["examples"]) <= set(CODES)
            assert "X-Request-Id" in answer["headers"]
    assert "HTTPValidationError" not in str(document)


def test_the_headers_of_inference_are_declared(document: dict[str, Any]) -> None:
    for path in ("/v1/classify", "/v1/embed"):
        operation = document["paths"][path]["post"]
        named = {p["name"]: p for p in parameters_of(document, operation)}
        assert {"X-Request-Id", "X-Timeout-Ms", "Prefer", "Idempotency-Key"} <= named.keys()
        assert named["X-Timeout-Ms"]["schema"]["maximum"] == 600_000
        content = document["paths"][path]["post"]["requestBody"]["content"]
        assert {"image/jpeg", "image/tiff", "multipart/form-data"} <= content.keys()


def test_every_endpoint_is_in_the_reference(document: dict[str, Any]) -> None:
    text = (ROOT / "docs/reference/api.md").read_text()
    listed = {line.split("`")[1] for line in text.splitlines() if line.startswith("| `")}
    known = {f"{method} {path}" for method, path, _ in operations(document)}
    assert listed == known


def test_every_setting_is_in_the_reference() -> None:
    text = (ROOT / "docs/reference/settings.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `OPSIN_")]
    listed = {row[0].split("`")[1]: row[2].rstrip(" |") for row in rows}
    known = {
        f"OPSIN_{name.upper()}": field.description for name, field in Settings.model_fields.items()
    }
    assert listed == known


def test_the_release_is_the_packages() -> None:
    assert f'\nversion = "{RELEASE}"\n' in (ROOT / "pyproject.toml").read_text()
