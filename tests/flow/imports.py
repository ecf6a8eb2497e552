"""Published networks in a store, imported once for all runs of the tests.

An import takes half a minute of two cores. What it makes depends on the code, the packages and the
weights, so it is kept in a folder that is named after all of them.
"""

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from models.locks import locked
from tests.flow.installation import ROOT, link

KEPT = ROOT / ".pytest_cache" / "imported"
_SECONDS = 600


def kept_store(weights: Sequence[Path], samples: Path) -> Path:
    """The folder of the store that this code makes of these weights."""
    return KEPT / _digest([*_code(), *_files([*weights, samples])]) / "store"


def import_networks(store: Path, networks: Iterable[str], folders: Sequence[Path]) -> None:
    """Import what is missing. Processes that run tests in parallel divide the work.

    Args:
        store: From `kept_store`.
        networks: In the order in which this process takes them.
        folders: Of samples and of weights, as `models.export.import_child` takes them.
    """
    store.mkdir(parents=True, exist_ok=True)
    for network in networks:
        note = store.parent / f"{network}.json"
        with locked(store.parent / f"{network}.lock", timeout=_SECONDS):
            if not _is_whole(store / network, note):
                shutil.rmtree(store / network, ignore_errors=True)
                _import(network, [store, *folders])
                note.write_text(json.dumps(_state(store / network)))
    _forget_others(store.parent)


def copied_networks(store: Path, networks: Iterable[str], target: Path) -> Path:
    """A store of some networks, by links if possible, so that no test reaches the kept one."""
    target.mkdir()
    for network in networks:
        if (store / network).is_dir():
            shutil.copytree(store / network, target / network, copy_function=link)
    return target


def _import(network: str, folders: Sequence[Path]) -> None:
    # A network without weights fails here; the worker then reports it as unavailable.
    subprocess.run(
        [sys.executable, "-m", "models.export.import_child", network, *map(str, folders)],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
        timeout=_SECONDS,
        check=False,
    )


def _code() -> list[Path]:
    """What an import runs or reads: its module, all that this one imports, data and versions."""
    found: set[Path] = set()
    waiting = {ROOT / "models/export/import_child.py", ROOT / "models/export/conversion_child.py"}
    while waiting:
        path = waiting.pop()
        found.add(path)
        waiting |= {one for one in _imported_by(path) if one not in found}
    data = [path for path in (ROOT / "models").rglob("*.t[os]*") if path.is_file()]
    return sorted({*found, *data, ROOT / "requirements/worker.txt"})


def _imported_by(path: Path) -> Iterator[Path]:
    """The files of the modules of this project that a file names in its imports."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            file = ROOT / (name.replace(".", "/") + ".py")
            if file.is_file():
                yield file


def _files(folders: Iterable[Path]) -> list[Path]:
    return [path for folder in folders for path in sorted(folder.glob("*")) if path.is_file()]


def _digest(paths: Iterable[Path]) -> str:
    """Of the contents of what is in the checkout, and of names and sizes of weights."""
    whole = hashlib.sha256(sys.version.encode())
    for path in paths:
        if path.is_relative_to(ROOT) and path.suffix in {".py", ".toml", ".tsv", ".txt"}:
            whole.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
        elif not path.name.startswith("."):
            whole.update(f"{path.name}\0{path.stat().st_size}".encode())
    return whole.hexdigest()[:16]


def _state(folder: Path) -> list[list[object]]:
    """What would show that a file was changed."""
    return [
        [str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns]
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]


def _is_whole(folder: Path, note: Path) -> bool:
    return note.is_file() and json.loads(note.read_text()) == _state(folder)


def _forget_others(kept: Path) -> None:
    """Keep the newest two: each has half a gigabyte."""
    os.utime(kept)
    others = sorted(KEPT.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for other in others[2:]:
        shutil.rmtree(other, ignore_errors=True)


def from_either_end(networks: Sequence[str], process: str) -> list[str]:
    """The networks; of two processes, the second begins with the last."""
    return list(reversed(networks)) if process.endswith("1") else list(networks)
