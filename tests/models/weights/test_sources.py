import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from models.catalog import CATALOG
from models.training.parent import WEIGHT_NETWORKS
from models.weights.catalog import Weights, WeightsMissing
from models.weights.files import has_digest
from models.weights.sources import HttpsFile, Source, sample_files, weight_entries


def test_every_name_of_the_catalog_has_an_entry() -> None:
    names = {row.weights for row in CATALOG.values()}
    names |= {row.base_weights for row in CATALOG.values() if row.base_weights}
    names |= {name for row in CATALOG.values() for name in row.needs}
    assert names | set(WEIGHT_NETWORKS) == set(weight_entries()) - {"style_fast"}


@pytest.mark.parametrize("row", CATALOG.values(), ids=lambda row: row.name)
def test_licence_matches_the_catalog(row: object) -> None:
    assert isinstance(row, type(CATALOG["vgg16"]))
    assert weight_entries()[row.weights].licence == row.licence


def test_addresses_are_safe_and_formats_known() -> None:
    for entry in weight_entries().values():
        for source in entry.sources:
            assert source.format is not None
            if isinstance(source, HttpsFile):
                assert source.url.startswith("https://")
                assert source.url.endswith(source.file)


def test_samples_come_in_one_package() -> None:
    assert {row.file for row in sample_files()} == {"cat.png", "coffee.png", "astronaut.png"}
    assert len({(row.package, row.version) for row in sample_files()}) == 1


@pytest.mark.parametrize(
    "wrong", [{"file": "../w"}, {"digest": "sha256:12"}, {"digest": "crc:00"}, {"typo": "x"}]
)
def test_invalid_row_is_refused(wrong: dict[str, str]) -> None:
    row = {"kind": "directory", "file": "w", "digest": "md5:" + "0" * 32, "format": "npz"}
    adapter: TypeAdapter[object] = TypeAdapter(Source)
    adapter.validate_python(row)
    with pytest.raises(ValidationError):
        adapter.validate_python(row | wrong)


def test_weights_and_labels_need_no_tensorflow() -> None:
    code = (
        "import sys, models.weights.catalog, models.weights.samples, models.store.labels,"
        "models.catalog;"
        "sys.exit(bool({'tensorflow', 'keras', 'h5py', 'onnx'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_a_file_is_known_by_its_name_in_git(tmp_path: Path) -> None:
    path = tmp_path / "weights.h5"
    path.write_bytes(b"kernels\n" * 300_000)
    git = shutil.which("git")
    assert git is not None
    command = [git, "hash-object", "--no-filters", str(path)]
    name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    assert has_digest(path, f"git-blob:{name}")
    path.write_bytes(b"kernels\n" * 300_001)
    assert not has_digest(path, f"git-blob:{name}")


def test_keras_squeezenet_s_own_file_counts(tmp_path: Path) -> None:
    """The publisher's file and the one converted from torchvision have the same name."""
    sources = [
        source
        for source in weight_entries()["squeezenet"].sources
        if source.file == "squeezenet_weights_tf_dim_ordering_tf_kernels.h5"
    ]
    kinds = {source.digest.partition(":")[0] for source in sources}
    assert kinds == {"sha256", "git-blob"}
    (tmp_path / sources[0].file).write_bytes(b"another")
    content = b"kernels"
    blob = hashlib.sha1(b"blob 7\0" + content, usedforsecurity=False).hexdigest()
    entry = weight_entries()["squeezenet"].model_copy(
        update={
            "sources": (
                sources[0],
                sources[1].model_copy(update={"digest": f"git-blob:{blob}"}),
            )
        }
    )
    weights = Weights(tmp_path, None, offline=True, entries={"squeezenet": entry})
    with pytest.raises(WeightsMissing):
        weights.find("squeezenet")
    (tmp_path / sources[0].file).write_bytes(content)
    assert weights.find("squeezenet").digest == f"git-blob:{blob}"
