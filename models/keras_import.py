"""Keras without scikit-learn and matplotlib, which it loads for wrappers and galleries.

Opsin uses neither through Keras, and each process that computes would pay for them: 1.4 of the 4.4
seconds of processor time that the import of TensorFlow takes, and 80 MB. Keras does without them
where they are not installed, so they look absent to it, and only to it, while it is imported.
"""

import sys
import threading
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_UNUSED = ("sklearn", "matplotlib")


def install() -> None:
    """Make the first import of Keras in this process the quick one."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds Keras; while a thread imports it, hides the unused packages from that thread."""

    def __init__(self) -> None:
        self.importing_thread: int | None = None

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in _UNUSED and self.importing_thread == threading.get_ident():
            raise ModuleNotFoundError(f"Keras does without {fullname} here.", name=fullname)
        if fullname != "keras":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _KerasLoader(spec.loader, self)
        return spec


class _KerasLoader(Loader):
    def __init__(self, loader: Loader, finder: _Finder) -> None:
        self._loader = loader
        self._finder = finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._finder.importing_thread = threading.get_ident()
        try:
            self._loader.exec_module(module)
        finally:
            self._finder.importing_thread = None
