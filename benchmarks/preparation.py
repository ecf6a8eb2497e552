"""What has to lie ready before anything is measured: versions in a store, pictures, the peers.

All of it is made once, under `var/bench`, and found again by the next run.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contestants import PEERS_VENV, ROOT, Subject
from benchmarks.load.pictures import write_pictures
from contracts.settings import Settings
from models.store.store import Store
from models.weights.samples import Samples

REQUIREMENTS = ROOT / "benchmarks" / "requirements-peers.txt"
_IMPORT_SECONDS = 900.0
_INSTALL_SECONDS = 1800.0


class NotPreparedError(RuntimeError):
    """Something is missing that cannot be made here. The message says what."""


@dataclass(frozen=True, slots=True)
class Bench:
    """The benchmark's own folder."""

    folder: Path

    @property
    def home(self) -> Path:
        """OPSIN_HOME of the Opsin that is measured."""
        return self.folder / "home"

    @property
    def pictures(self) -> Path:
        return self.folder / "pictures"

    @property
    def store(self) -> Store:
        return Store(self.home / "store")

    def variant(self, name: str) -> Path:
        """A home beside the first, since only one Opsin runs from a home.

        The store is the same, but for int8, which is a version of its own: see `prepare_int8`.
        """
        home = self.folder / f"home-{name}"
        home.mkdir(parents=True, exist_ok=True)
        for shared in ("samples", "weights") if name == "int8" else ("store", "samples", "weights"):
            link = home / shared
            if not link.is_symlink():
                link.symlink_to(self.home / shared)
        return home

    def picture(self) -> bytes:
        """One of the bodies, to ask whether a server is ready."""
        return next(iter(sorted(self.pictures.glob("*.jpg")))).read_bytes()


def weights_folder(settings: Settings) -> Path:
    """Where the caller's weights lie."""
    return settings.weights_dir or settings.weights_home


def prepare_pictures(bench: Bench, settings: Settings) -> int:
    """Write the JPEG bodies and give Opsin the samples it checks an export with."""
    samples = bench.home / "samples"
    samples.mkdir(parents=True, exist_ok=True)
    (bench.home / "weights").mkdir(exist_ok=True)
    for file in Samples.of(settings).pull():
        shutil.copy2(file, samples / file.name)
    return len(write_pictures(samples, bench.pictures))


def squeezenet(bench: Bench, settings: Settings) -> Subject:
    """SqueezeNet with its published weights; two copies of one thread use two cores best."""
    cores = os.cpu_count() or 1
    _import(bench, settings, "squeezenet")
    folder = _champion(bench, "squeezenet")
    return Subject("squeezenet", "SqueezeNet 1.1", 227, folder, processes=cores, threads=1)


def vgg16(bench: Bench, settings: Settings) -> Subject:
    """The whole VGG16; its weights do not fit into memory twice, so one copy takes all cores."""
    cores = os.cpu_count() or 1
    # First what Opsin itself would import, or it would do so in the middle of the benchmark.
    _import(bench, settings, "vgg16")
    store = bench.store
    if store.manifest("vgg16", store.resolve("vgg16")).classes is None:
        _bring(bench, settings, "vgg16", "benchmarks.vgg16")
    folder = _champion(bench, "vgg16")
    return Subject("vgg16", "VGG16", 224, folder, processes=1, threads=cores)


def _champion(bench: Bench, model: str) -> Path:
    return bench.store.path(model, bench.store.resolve(model)) / "saved_model"


def _import(bench: Bench, settings: Settings, model: str) -> None:
    if model not in bench.store.models():
        _bring(bench, settings, model, "models.export.import_child")


def _bring(bench: Bench, settings: Settings, model: str, module: str) -> None:
    """Have `module` put a version into the store, in a process of its own."""
    home = bench.home
    folders = (home / "store", home / "samples", home / "weights", weights_folder(settings))
    _make(model, module, *folders)


def prepare_int8(bench: Bench, model: str) -> None:
    """Quantize the champion into the store of the int8 variant, unless that was done.

    What a run that was cut short has left is not taken for it: a copy in float32.
    """
    home = bench.variant("int8")
    store = Store(home / "store")
    if model in store.models():
        if store.manifest(model, store.resolve(model)).precision == "int8":
            return
        shutil.rmtree(home / "store" / model)
    _make(model, "benchmarks.int8", bench.home / "store", bench.pictures, home)


def _make(model: str, module: str, *folders: Path) -> None:
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
        raise NotPreparedError(f"{model} could not be made: {lines[-1] if lines else '?'}")


def prepare_peers() -> str | None:
    """Install what the peers need, once; why there are none, or None if all is well."""
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:16]
    mark = PEERS_VENV / f".has-{digest}"
    if mark.exists():
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
    mark.touch()
    return None


def peer_version(package: str) -> str:
    """The installed version of a peer, or a question mark."""
    found = sorted(PEERS_VENV.glob(f"lib/python*/site-packages/{package}-*.dist-info"))
    return found[0].name.removesuffix(".dist-info").rpartition("-")[2] if found else "?"
