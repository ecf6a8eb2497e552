"""Reads a torch state dict without torch: tensors by name, as NumPy arrays.

There are two layouts. The *legacy* layout is a sequence of pickles (magic number, protocol,
machine, state dict, keys of the storages), followed by each storage as an element count and raw
bytes. The *zip* layout has the state dict in ``<name>/data.pkl`` and each storage in
``<name>/data/<key>``. Both pickles rebuild tensors from storages with a few functions, the only
ones that this module ever calls. See torch/serialization.py and torch/_utils.py for the formats.
"""

# A pickle runs whatever it names. Here every name is looked up in `_GLOBALS` and nowhere else, so
# another one is an error and not a call. The file's digest has been verified before, too.
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

Tensors = dict[str, npt.NDArray[Any]]

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_MAX_ELEMENTS = 1 << 31  # far above any network here, far below what would fill the memory


class UnreadableCheckpointError(ValueError):
    """The file is not a plain state dict, or is incomplete."""


@dataclass(slots=True)
class _Storage:
    """A flat array of which tensors are views; filled when its bytes have been read."""

    dtype: np.dtype[Any]
    size: int
    elements: npt.NDArray[Any] | None = None


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A view of a storage, in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> npt.NDArray[Any]:
        elements = self.storage.elements
        if elements is None:
            raise UnreadableCheckpointError("a tensor without its storage")
        sizes = zip(self.shape, self.strides, strict=True)
        last = self.offset + sum((size - 1) * stride for size, stride in sizes)
        if min(*self.strides, self.offset, *self.shape, 0) < 0 or (
            0 not in self.shape and last >= elements.size
        ):
            raise UnreadableCheckpointError("a tensor reaches beyond its storage")
        view = np.lib.stride_tricks.as_strided(
            elements[self.offset :], self.shape, [s * elements.itemsize for s in self.strides]
        )
        return np.ascontiguousarray(view).reshape(self.shape)


def read_torch_checkpoint(path: Path) -> Tensors:
    """The tensors of a checkpoint by name, each with its own shape and dtype.

    Args:
        path: A file that ``torch.save(model.state_dict(), path)`` wrote, in either layout.

    Raises:
        UnreadableCheckpointError: It is something else, is truncated, or names another function.
    """
    try:
        if zipfile.is_zipfile(path):
            return _read_zip(path)
        with path.open("rb") as file:
            return _read_legacy(file)
    except UnreadableCheckpointError:
        raise
    except (
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        struct.error,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        raise UnreadableCheckpointError(
            f"{path.name} is not a torch state dict: {error}"
        ) from error


@dataclass(slots=True)
class _Storages:
    """The storages that a pickle has referred to so far."""

    by_key: dict[str, _Storage] = field(default_factory=dict)

    def named(self, reference: tuple[Any, ...]) -> _Storage:
        """The storage of ``('storage', type, key, device, element count[, view])``."""
        kind, dtype, key, _device, size = reference[:5]
        if kind != "storage" or any(reference[5:]):
            raise UnreadableCheckpointError("a storage of an unknown kind")
        if not isinstance(dtype, np.dtype) or not 0 <= int(size) <= _MAX_ELEMENTS:
            raise UnreadableCheckpointError("a storage of an implausible size")
        return self.by_key.setdefault(str(key), _Storage(dtype, int(size)))


def _rebuild_tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_rest: object
) -> _Tensor:
    """torch._utils._rebuild_tensor_v2, without gradients and hooks."""
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor: _Tensor, *_rest: object) -> _Tensor:
    """torch._utils._rebuild_parameter."""
    return tensor


_GLOBALS: dict[tuple[str, str], Callable[..., object] | np.dtype[Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "FloatStorage"): np.dtype("<f4"),
    ("torch", "DoubleStorage"): np.dtype("<f8"),
    ("torch", "HalfStorage"): np.dtype("<f2"),
    ("torch", "LongStorage"): np.dtype("<i8"),
    ("torch", "IntStorage"): np.dtype("<i4"),
}


class _Unpickler(pickle.Unpickler):
    """Resolves only the names in `_GLOBALS`."""

    def __init__(self, file: IO[bytes], storages: _Storages) -> None:
        super().__init__(file)
        self._storages = storages

    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return _GLOBALS[module_name, global_name]
        except KeyError:
            raise UnreadableCheckpointError(
                f"a checkpoint must not use {module_name}.{global_name}"
            ) from None

    def persistent_load(self, pid: Any) -> _Storage:
        return self._storages.named(pid)


def _read_legacy(file: IO[bytes]) -> Tensors:
    storages = _Storages()

    def load() -> Any:
        return _Unpickler(file, storages).load()

    if load() != _LEGACY_MAGIC or load() != _PROTOCOL or not load()["little_endian"]:
        raise UnreadableCheckpointError("not a torch checkpoint of a known layout")
    state = load()
    for key in load():
        storage = storages.by_key[key]
        (count,) = struct.unpack("<q", file.read(8))
        if count != storage.size:
            raise UnreadableCheckpointError("a storage has another size than declared")
        _fill(storage, file.read(count * storage.dtype.itemsize))
    return _arrays(state)


def _read_zip(path: Path) -> Tensors:
    storages = _Storages()
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise UnreadableCheckpointError("not a torch checkpoint of a known layout")
        root = pickles[0].removesuffix("data.pkl")
        if (
            root + "byteorder" in archive.namelist()
            and archive.read(root + "byteorder") != b"little"
        ):
            raise UnreadableCheckpointError("a big-endian checkpoint")
        with archive.open(pickles[0]) as file:
            state = _Unpickler(file, storages).load()
        for key, storage in storages.by_key.items():
            member = archive.getinfo(f"{root}data/{key}")
            if member.file_size != storage.size * storage.dtype.itemsize:
                raise UnreadableCheckpointError("a storage has another size than declared")
            _fill(storage, archive.read(member))
    return _arrays(state)


def _fill(storage: _Storage, raw: bytes) -> None:
    if len(raw) != storage.size * storage.dtype.itemsize:
        raise UnreadableCheckpointError("the checkpoint is truncated")
    storage.elements = np.frombuffer(raw, storage.dtype)


def _arrays(state: Any) -> Tensors:
    if not isinstance(state, dict) or not all(isinstance(v, _Tensor) for v in state.values()):
        raise UnreadableCheckpointError("not a state dict: it contains more than tensors")
    return {str(name): tensor.array() for name, tensor in state.items()}
