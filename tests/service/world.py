"""A service in which something of every kind exists, and what its OpenAPI document says of it.

Tests go through all operations of the document with it, so that a new one is tested by itself or
fails here until it is added.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from jwt.algorithms import ECAlgorithm
from PIL import Image

from contracts.inference.explanation import LayerInfo
from contracts.jobs import Artifact
from contracts.settings import Settings
from models.explain.layers import write_layers
from models.store.labels import Label, write_labels
from tests.models.datasets.packing import photo, tree, zipped
from tests.models.drafts import DRAFT, write_files
from tests.openapi.document import document
from tests.service.parts import NOW, FakeServices, datasets_in, face_services_in, gray_png

KEY = "a-key-of-sixteen-or-more"
JOB = "job_0123456789abcdef"
ARTIFACT = "result.png"
DEFERRED = {"Prefer": "respond-async"}

Sent = dict[str, Any]
"""Arguments of `httpx.Client.request`."""


@dataclass(frozen=True)
class Operation:
    """One operation of the document."""

    id: str
    method: str
    path: str
    described: dict[str, Any]

    @property
    def headers(self) -> set[str]:
        """The names of the headers that it takes."""
        return {one["name"] for one in self.described["parameters"] if one.get("in") == "header"}

    @property
    def parameters(self) -> set[str]:
        """The names of everything that it takes beside a body."""
        return {one["name"] for one in self.described["parameters"] if "name" in one}

    @property
    def body_types(self) -> set[str]:
        """The media types of its body."""
        return set(self.described.get("requestBody", {}).get("content", {}))

    def answer_types(self, status: str = "200") -> set[str]:
        """The media types of a response."""
        return set(self.described["responses"].get(status, {}).get("content", {}))


def operations(method: str | None = None) -> list[Operation]:
    """All operations, or those of one method."""
    return [
        Operation(described["operationId"], name.upper(), path, described)
        for path, methods in document()["paths"].items()
        for name, described in methods.items()
        if method in {None, name.upper()}
    ]


@dataclass
class World:
    """What exists: ids by the names of the parameters of paths."""

    client: httpx.Client
    ids: dict[str, str] = field(default_factory=dict)

    def url(self, operation: Operation) -> str:
        """The path of an operation on something that exists."""
        path = operation.path
        for name, value in self.ids.items():
            is_artifact = name == "name" and "/artifacts/" in path
            path = path.replace(f"{{{name}}}", ARTIFACT if is_artifact else value)
        return path

    def create(self, path: str, status: int = 201, **sent: Any) -> dict[str, Any]:
        """Send a POST that has to succeed."""
        answer = self.client.post(path, **sent)
        assert answer.status_code == status, answer.text
        made: dict[str, Any] = answer.json()
        return made


def empty_services(folder: Path, redis_url: str) -> FakeServices:
    """With a database, Redis and a store; only workers, queues and decoders are fakes."""
    faces = face_services_in(folder, redis_url=redis_url, tables=True)
    fakes = FakeServices(faces=faces, datasets=datasets_in(folder))
    fakes.with_keys()
    with fakes.store.staging() as version:
        write_files(version)
        write_labels(version, [Label(name, name) for name in ("cat", "dog")])
        layers = [LayerInfo(name="conv1", type="Layer", output_shape=[9, 9, 64], explainable=True)]
        write_layers(version, layers)
        fakes.store.publish("squeezenet", version, DRAFT)
    fakes.store.promote("squeezenet", 1)
    kept = Artifact(name=ARTIFACT, media_type="image/png", size=3, url=f"/v1/jobs/{JOB}/artifacts")
    fakes.files.store_artifact(JOB, ARTIFACT, b"PNG")
    fakes.jobs.put(JOB, kind="dream", state="succeeded", finished_at=NOW, artifacts=[kept])
    return fakes


def settings(folder: Path) -> Settings:
    return Settings(_env_file=None, home=folder, api_key=KEY, max_images=4, max_image_bytes=20_000)


def fill(client: httpx.Client) -> World:
    """Create one of everything that is created by requests."""
    world = World(client, {"name": "squeezenet", "model": "squeezenet", "version": "1"})
    world.ids |= {"alias": "champion", "label": "champion", "job_id": JOB, "device_id": "phone"}
    archive = {"archive": ("pets.zip", zipped(tree({"cat": 8, "dog": 8})))}
    pets = world.create("/v1/datasets", files=archive)["id"]
    files = client.get(f"/v1/datasets/{pets}/files?status=admitted").json()["items"]
    world.ids |= {"dataset_id": pets, "file_id": files[0]["id"]}
    world.ids["subject_id"] = world.create("/v1/faces/subjects", json={"name": "Ada"})["id"]
    key = {"name": "ci", "scopes": ["infer"]}
    world.ids["key_id"] = world.create("/v1/keys", json=key)["id"]
    return world


def public_key() -> dict[str, Any]:
    """The JWK of a new device."""
    jwk: dict[str, Any] = ECAlgorithm.to_jwk(
        generate_private_key(SECP256R1()).public_key(), as_dict=True
    )
    return jwk


def noise(seed: int) -> bytes:
    """A small PNG that differs from that of any other seed."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 48, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def people(world: World) -> str:
    """A dataset of three people with two images each."""
    made: str = world.create("/v1/datasets", json={"name": "people"})["id"]
    for place, person in enumerate(("ada", "bob", "eve")):
        images = [("image", ("a.png", photo(9000 + 2 * place + n))) for n in range(2)]
        url = f"/v1/datasets/{made}/images"
        world.create(url, params={"label": person}, files=images)
    return made


def creating_requests(world: World) -> Iterator[tuple[str, Sent, Sent]]:
    """For each operation with an `Idempotency-Key`, two different requests that it accepts."""
    one, other = {"content": gray_png(40)}, {"content": gray_png(120)}
    deferred = {"headers": DEFERRED}
    for name in ("classify", "embed", "heatmap", "detect_faces"):
        yield name, one | deferred, other | deferred
    layer = {"params": {"layer": "conv1"}}
    yield "activations", one | deferred | layer, other | deferred | layer
    yield "create_dataset", {"json": {"name": "a"}}, {"json": {"name": "b"}}
    labeled = {"params": {"label": "cat"}}
    yield "add_images", labeled | one, labeled | other
    clips = [labeled | {"files": {"video": ("a.mp4", data)}} for data in (b"a clip", b"another")]
    yield "add_video_frames", clips[0], clips[1]
    enrolled = [{"files": {"image": ("a.png", gray_png(level))}} for level in (40, 120)]
    yield "enroll", enrolled[0], enrolled[1]
    dreams = [
        {
            "files": {"image": ("a.png", noise(n))},
            "data": {"model": "squeezenet", "layers": "conv1"},
        }
        for n in range(2)
    ]
    yield "dream", dreams[0], dreams[1]
    styles = [
        {"files": {"content": ("a.png", noise(1)), "style": ("b.png", noise(n))}} for n in (2, 3)
    ]
    yield "style_transfer", styles[0], styles[1]
    for name, body, change in json_requests(world):
        yield name, {"json": body}, {"json": body | change}


def json_requests(world: World) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """The same for those that take JSON: a body, and what the other request has in its place."""
    of_pets = {"dataset_id": world.ids["dataset_id"]}
    subject = {"purpose": "login", "subject_id": world.ids["subject_id"]}
    yield "filters", {"model": "squeezenet", "layer": "conv1"}, {"steps": 7}
    training = of_pets | {"model": "pets", "network": "squeezenet"}
    yield "create_training", training, {"seed": 9}
    sweep = {"training": training, "grid": {"head.dropout": [0, 0.5]}}
    yield "create_sweep", sweep, {"max_trainings": 1}
    yield "quantize_version", of_pets | {"promote": False}, {"promote": True}
    yield "evaluate_version", of_pets, {"split": "train"}
    calibration = {"dataset_id": people(world), "target_fmr": 0.3}
    yield "create_calibration", calibration, {"target_fmr": 0.4}
    yield "create_subject", {"name": "Bea"}, {"name": "Cid"}
    yield "create_challenge", subject, {"device_id": "phone"}
    device = {"device_id": "tablet", "public_key": public_key()}
    yield "register_device", device, {"device_id": "watch"}
    yield "create_key", {"name": "b", "scopes": ["infer"]}, {"name": "c"}
    yield "rotate_key", {"grace_seconds": 0}, {"grace_seconds": 9}
