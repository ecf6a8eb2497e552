"""Prepares a run: versions in a store, images, the peers' environment.

Everything is made once, below `var/bench`, and reused by the next run.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load.images import write_images
from benchmarks.systems import PEERS_VENV, ROOT, Subject
from contracts.settings import Settings
from models.serving.openvino.frontend import converting_core, import_openvino
from models.serving.signature_view import signature_view
from models.store.store import Store
from models.weights.samples import Samples

REQUIREMENTS = ROOT / "benchmarks" / "requirements-peers.txt"
_IMPORT_SECONDS = 900.0
_INSTALL_SECONDS = 1800.0


class NotPreparedError(RuntimeError):
    """Something is missing that cannot be prepared. The message says what."""


@dataclass(frozen=True, slots=True)
class Bench:
    """The folder of the benchmark."""

    folder: Path

    @property
    def home(self) -> Path:
        """OPSIN_HOME of the measured Opsin."""
        return self.folder / "home"

    @property
    def images(self) -> Path:
        return self.folder / "pictures"

    @property
    def store(self) -> Store:
        return Store(self.home / "store")

    def variant(self, name: str) -> Path:
        """Another home, because only one Opsin can use a home at a time.

        It shares the store: int8 needs no version of its own, as the ranges of both networks are
        published.
        """
        home = self.folder / f"home-{name}"
        home.mkdir(parents=True, exist_ok=True)
        for shared in ("store", "samples", "weights"):
            link = home / shared
            if not link.is_symlink():
                shutil.rmtree(link, ignore_errors=True)  # of an earlier release
                link.symlink_to(self.home / shared)
        return home

    def image(self) -> bytes:
        """One of the JPEG files, for checking whether a server is ready."""
        return min(self.images.glob("*.jpg")).read_bytes()


def weights_folder(settings: Settings) -> Path:
    """The folder of the caller's weights."""
    return settings.weights_dir or settings.weights_home


def prepare_images(bench: Bench, settings: Settings) -> int:
    """Write the JPEG files and copy the samples that exports are checked with."""
    samples = bench.home / "samples"
    samples.mkdir(parents=True, exist_ok=True)
    (bench.home / "weights").mkdir(exist_ok=True)
    for file in Samples.of(settings).pull():
        shutil.copy2(file, samples / file.name)
    return len(write_images(samples, bench.images))


def squeezenet(bench: Bench, settings: Settings) -> Subject:
    """SqueezeNet with its published weights, one single-threaded copy per core."""
    cores = os.cpu_count() or 1
    _import(bench, settings, "squeezenet")
    folder = _champion(bench, "squeezenet")
    graph = _graph(bench, "squeezenet", folder)
    return Subject("squeezenet", "SqueezeNet 1.1", 227, folder, graph, processes=cores, threads=1)


def vgg16(bench: Bench, settings: Settings) -> Subject:
    """VGG16 in one copy on all cores, because two copies do not fit into memory."""
    cores = os.cpu_count() or 1
    # Import what Opsin would import itself, so that it does not do so during the benchmark.
    _import(bench, settings, "vgg16")
    store = bench.store
    if store.manifest("vgg16", store.resolve("vgg16")).classes is None:
        _add_version(bench, settings, "vgg16", "benchmarks.comparison.vgg16")
    folder = _champion(bench, "vgg16")
    graph = _graph(bench, "vgg16", folder)
    return Subject("vgg16", "VGG16", 224, folder, graph, processes=1, threads=cores)


def _champion(bench: Bench, model: str) -> Path:
    return bench.store.path(model, bench.store.resolve(model)) / "saved_model"


def _graph(bench: Bench, model: str, saved_model: Path) -> Path:
    """The file of the graph for peers that compute with OpenVINO, one for each version."""
    openvino = import_openvino()
    file = bench.folder / "graphs" / f"{model}-{saved_model.parent.name}.xml"
    if not file.with_suffix(".bin").exists():
        file.parent.mkdir(exist_ok=True)
        with signature_view(saved_model, "serve") as view:
            graph = converting_core(openvino).read_model(view)
        openvino.save_model(graph, file, compress_to_fp16=False)
    return file


def _import(bench: Bench, settings: Settings, model: str) -> None:
    if model not in bench.store.models():
        _add_version(bench, settings, model, "models.export.import_child")


def _add_version(bench: Bench, settings: Settings, model: str, module: str) -> None:
    """Run `module` in its own process to put a version into the store."""
    home = bench.home
    folders = (home / "store", home / "samples", home / "weights", weights_folder(settings))
    _run_module(model, module, *folders)


def _run_module(model: str, module: str, *folders: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", module, model, *map(str, folders)],
        cwd=ROOT,
        env=os.environ | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        timeout=_IMPORT_SECONDS,
        check=False,
    )
    if ended.returncode:
        lines = ended.stderr.decode(errors="replace").strip().splitlines()
        raise NotPreparedError(f"{model} could not be prepared: {lines[-1] if lines else '?'}")


def prepare_peers() -> str | None:
    """Install the peers once; returns why it failed, or None."""
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:16]
    marker = PEERS_VENV / f".has-{digest}"
    if marker.exists():
        return None
    python = PEERS_VENV / "bin" / "python"
    try:
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(PEERS_VENV)], check=True, timeout=120)
        subprocess.run(
            [str(python), "-m", "pip", "install", "-q", "-r", str(REQUIREMENTS)],
            check=True,
            timeout=_INSTALL_SECONDS,
        )
    except (subprocess.SubprocessError, OSError) as error:
        return f"the peers could not be installed: {error}"
    marker.touch()
    return None


def peer_version(package: str) -> str:
    """The installed version of a peer, or a question mark."""
    folders = sorted(PEERS_VENV.glob(f"lib/python*/site-packages/{package}-*.dist-info"))
    return folders[0].name.removesuffix(".dist-info").rpartition("-")[2] if folders else "?"
