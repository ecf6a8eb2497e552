"""Whatever makes a job of a dataset waits for who changes or deletes that dataset."""

import io
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.settings import Settings
from database.engine import open_engine
from database.tables import Record
from models.store.labels import Label, write_labels
from service.app import create_app
from tests.models.datasets.packing import tree, zipped
from tests.models.drafts import DRAFT, write_files
from tests.service.parts import FakeServices, datasets_in

_VERSION = "/v1/models/{name}/versions/{version}"
_TRAINING = {"model": "mine", "network": "squeezenet"}
# The requests, by path: the body for a dataset.
USES: dict[str, Callable[[str], dict[str, Any]]] = {
    "/v1/trainings": lambda dataset: _TRAINING | {"dataset_id": dataset},
    "/v1/sweeps": lambda dataset: {
        "training": _TRAINING | {"dataset_id": dataset},
        "grid": {"seed": [1, 2]},
    },
    f"{_VERSION}/quantize": lambda dataset: {"dataset_id": dataset},
    f"{_VERSION}/evaluations": lambda dataset: {"dataset_id": dataset},
    "/v1/faces/calibrations": lambda dataset: {"dataset_id": dataset, "target_fmr": 0.3},
}


@pytest.fixture
def fakes(tmp_path: Path) -> FakeServices:
    engine = open_engine(f"sqlite:///{tmp_path / 'opsin.db'}")
    Record.metadata.create_all(engine)
    engine.dispose()
    fakes = FakeServices(datasets=datasets_in(tmp_path))
    with fakes.store.staging() as folder:
        write_files(folder)
        write_labels(folder, [Label(name, name) for name in ("cat", "dog", "cow")])
        fakes.store.publish("pets", folder, DRAFT)
    return fakes


@pytest.fixture
def dataset(client: httpx.Client) -> str:
    archive = {"archive": io.BytesIO(zipped(tree({"cat": 5, "dog": 5, "cow": 5})))}
    answer = client.post("/v1/datasets?validation=0.2&test=0.2", files=archive)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def path_of(template: str) -> str:
    return template.replace("{name}", "pets").replace("{version}", "1")


def test_every_request_with_a_dataset_is_in_the_table() -> None:
    document = create_app(Settings(_env_file=None), FakeServices().open_services).openapi()
    schemas = document["components"]["schemas"]
    using = set()
    for path, operations in document["paths"].items():
        content = operations.get("post", {}).get("requestBody", {}).get("content", {})
        reference = content.get("application/json", {}).get("schema", {}).get("$ref", "")
        fields = schemas.get(reference.rpartition("/")[2], {}).get("properties", {})
        if "dataset_id" in fields:
            using.add(path)
    assert using | {"/v1/sweeps"} == USES.keys()  # a sweep has it in its training


@pytest.mark.parametrize("template", USES)
def test_a_job_is_not_made_while_its_dataset_is_changed(
    client: httpx.Client, fakes: FakeServices, dataset: str, template: str
) -> None:
    body = USES[template](dataset)
    with ThreadPoolExecutor(1) as threads:
        with fakes.datasets.store.lock(dataset):
            answer = threads.submit(client.post, path_of(template), json=body)
            time.sleep(0.3)
            assert not answer.done()
            assert fakes.jobs.worked == []
        assert answer.result(30).status_code == 202, answer.result().text
        with fakes.datasets.store.lock(dataset):
            answer = threads.submit(client.post, path_of(template), json=body)
            time.sleep(0.1)
            fakes.datasets.rows.delete(dataset)
        refused = answer.result(30)
    assert (refused.status_code, refused.json()["code"]) == (404, "dataset_not_found")
    assert len(fakes.jobs.worked) == 1
