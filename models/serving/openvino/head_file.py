"""The heads of a version as OpenVINO reads them, kept in `derived/` so that a load is short.

TensorFlow's graph of a SavedModel takes longer to read than everything else about a version whose
base is in memory. The file says to which base the heads belong, and holds only for the very files
of the SavedModel that it was made from and the same version of OpenVINO. Otherwise, or if it is
damaged, the SavedModel is read again. The parity gate checks what comes of either.
"""

import hashlib
import json
import logging
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.inference.manifest import Draft, Endpoint, Manifest
from models.serving.openvino.base_cut import Division, Model, constant_bytes, graph_digest
from models.store.manifest import DERIVED, sha256_of

HEADS = "heads.npz"
_FORMAT = 1
_LARGEST = 64 * 1024 * 1024  # bytes of weights; larger ones would not be read much sooner
SMALL = 4 * 1024 * 1024
"""Heads of so many bytes take little memory beside their base; a dense layer of VGG16 does not."""

_SOURCE = "saved_model"
Bytes = npt.NDArray[np.uint8]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Head:
    """What follows the base in one endpoint.

    Attributes:
        digest: Of the head.
        graph: From the base's output to the endpoint's; a model of OpenVINO. None if the two are
            the same.
    """

    digest: str
    graph: Model | None


@dataclass(frozen=True, slots=True)
class Heads:
    """The heads of a version.

    Attributes:
        base: The digest of their base.
        by_endpoint: One for each endpoint that serves.
    """

    base: str
    by_endpoint: dict[Endpoint, Head]

    @classmethod
    def of(cls, openvino: Any, core: Any, division: Division) -> "Heads":
        """The heads of a version that was divided."""
        heads = {
            endpoint: Head("", None)
            if graph is None
            else Head(graph_digest(graph), detached(openvino, core, graph))
            for endpoint, graph in division.heads.items()
        }
        return cls(division.digest, heads)


def write_heads(openvino: Any, folder: Path, manifest: Draft, heads: Heads) -> None:
    """Keep the heads of a version, unless they are large or the folder cannot be written to.

    Args:
        openvino: The module.
        folder: The version's.
        manifest: The version's, or its draft.
        heads: Its heads.
    """
    graphs = {
        endpoint: head.graph
        for endpoint, head in heads.by_endpoint.items()
        if head.graph is not None
    }
    if sum(map(constant_bytes, graphs.values())) > _LARGEST:
        return
    try:
        arrays = _arrays(openvino, graphs)
        _write(folder, arrays, _description(openvino, folder, manifest, heads, arrays))
    except (OSError, RuntimeError) as error:  # the next load takes longer, no more than that
        _LOG.info("heads_not_kept: %s of %s", error, folder)


def _arrays(openvino: Any, graphs: dict[Endpoint, Model]) -> dict[str, Bytes]:
    """The graphs of the heads.

    Raises:
        OSError: There is no room for temporary files.
        RuntimeError: OpenVINO could not write one.
    """
    return {
        f"{endpoint}_{kind}": np.frombuffer(content, np.uint8)
        for endpoint, graph in graphs.items()
        for kind, content in _serialized(openvino, graph).items()
    }


def _description(
    openvino: Any, folder: Path, manifest: Draft, heads: Heads, arrays: dict[str, Bytes]
) -> Bytes:
    """What the graphs belong to."""
    described = {
        "format": _FORMAT,
        "openvino": openvino.get_version(),
        "base": heads.base,
        "heads": {endpoint: head.digest for endpoint, head in heads.by_endpoint.items()},
        "sources": _sources(folder, manifest),
        "contents": {name: _digest(array.tobytes()) for name, array in arrays.items()},
    }
    return np.frombuffer(json.dumps(described).encode(), np.uint8)


def _write(folder: Path, arrays: dict[str, Bytes], description: Bytes) -> None:
    """Replace the file; in containers, two workers may have one process id.

    Raises:
        OSError: It cannot be written.
    """
    (folder / DERIVED).mkdir(exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{HEADS}.", dir=folder / DERIVED)
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.savez(file, allow_pickle=False, description=description, **arrays)
        draft.replace(folder / DERIVED / HEADS)
    except OSError:
        with suppress(OSError):
            draft.unlink()
        raise


def read_heads(openvino: Any, core: Any, folder: Path, manifest: Draft) -> Heads | None:
    """The kept heads of a version; None if there are none that belong to these files.

    Args:
        openvino: The module.
        core: An `openvino.Core`.
        folder: The version's.
        manifest: The version's, or its draft.
    """
    try:
        with (
            (folder / DERIVED / HEADS).open("rb") as file,
            np.load(file, allow_pickle=False) as arrays,
        ):
            described = json.loads(arrays["description"].tobytes())
            expected = (_FORMAT, openvino.get_version(), _sources(folder, manifest))
            if tuple(described[key] for key in ("format", "openvino", "sources")) != expected:
                return None
            contents = {name: arrays[name].tobytes() for name in described["contents"]}
        for name, content in contents.items():
            if _digest(content) != described["contents"][name]:
                return None
        graphs = {
            endpoint: core.read_model(contents[f"{endpoint}_xml"], contents[f"{endpoint}_bin"])
            for endpoint in described["heads"]
            if f"{endpoint}_xml" in contents
        }
        heads = {
            endpoint: Head(digest, graphs.get(endpoint))
            for endpoint, digest in described["heads"].items()
        }
        return Heads(str(described["base"]), heads)
    except FileNotFoundError:
        return None
    except Exception as error:  # noqa: BLE001  a damaged file can fail in many ways, each of them here
        _LOG.info("heads_not_read: %r of %s", error, folder)
        return None


def kept_base(folder: Path) -> str | None:
    """The digest of the base that a version's kept heads name; None if there are none, or large.

    It is not checked whether they belong to these files, so it is good for an estimate only.
    """
    try:
        with (
            (folder / DERIVED / HEADS).open("rb") as file,
            np.load(file, allow_pickle=False) as arrays,
        ):
            if os.fstat(file.fileno()).st_size > SMALL:
                return None
            return str(json.loads(arrays["description"].tobytes())["base"])
    except Exception:  # noqa: BLE001  as in `read_heads`
        return None


def detached(openvino: Any, core: Any, graph: Model) -> Model:
    """A copy of a graph that keeps no other weights of the SavedModel in memory, unless large."""
    if constant_bytes(graph) > _LARGEST:
        return graph
    try:
        files = _serialized(openvino, graph)
        return core.read_model(files["xml"], files["bin"])
    except (OSError, RuntimeError) as error:  # a temporary folder that is full, say
        _LOG.info("head_not_detached: %s", error)
        return graph


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _serialized(openvino: Any, graph: Model) -> dict[str, bytes]:
    """OpenVINO's two files of a graph, by their endings."""
    with tempfile.TemporaryDirectory(prefix="opsin-head-") as folder:
        files = {kind: Path(folder) / f"head.{kind}" for kind in ("xml", "bin")}
        openvino.serialize(graph, str(files["xml"]), str(files["bin"]))
        return {kind: file.read_bytes() for kind, file in files.items()}


def _sources(folder: Path, manifest: Draft) -> dict[str, str]:
    """The digests of the files that the heads come from; those of a draft are computed."""
    if isinstance(manifest, Manifest):
        files = manifest.files.items()
        return {name: file.sha256 for name, file in files if name.startswith(f"{_SOURCE}/")}
    paths = sorted(path for path in (folder / _SOURCE).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in paths}
