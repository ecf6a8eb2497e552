"""Writes state dicts as torch does, in both of its layouts, without torch."""

import io
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

_STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage"}


class _Storage:
    def __init__(self, array: npt.NDArray[Any], key: str) -> None:
        self.array, self.key = array, key


class _Tensor:
    """A whole array as torch would lay it out: its own storage, row-major."""

    def __init__(self, array: npt.NDArray[Any], key: str) -> None:
        self.array, self.key = array, key


def save(tensors: dict[str, npt.NDArray[Any]], path: Path, layout: str) -> None:
    """Write `tensors` to `path`; `layout` is ``legacy`` or ``zip``."""
    wrapped = OrderedDict((name, _Tensor(a, str(i))) for i, (name, a) in enumerate(tensors.items()))
    with patch.dict(sys.modules, _fake_torch()):
        state = _pickled(wrapped)
    arrays = [np.ascontiguousarray(array) for array in tensors.values()]
    if layout == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", state)
            archive.writestr("archive/byteorder", "little")
            for i, array in enumerate(arrays):
                archive.writestr(f"archive/data/{i}", array.tobytes())
        return
    head = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})
    with path.open("wb") as file:
        for value in head:
            pickle.dump(value, file, protocol=2)
        file.write(state)
        pickle.dump([str(i) for i in range(len(arrays))], file, protocol=2)
        for array in arrays:
            file.write(struct.pack("<q", array.size) + array.tobytes())


def _fake_torch() -> dict[str, ModuleType]:
    """Modules that pickle will find torch's names in; never called."""
    torch, tools = ModuleType("torch"), ModuleType("torch._utils")
    for name in _STORAGES.values():
        kind = type(name, (), {"__module__": "torch"})
        setattr(torch, name, kind)

    def _rebuild_tensor_v2(*_arguments: object) -> None:
        raise AssertionError

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    tools._rebuild_tensor_v2 = _rebuild_tensor_v2  # type: ignore[attr-defined]
    torch._utils = tools  # type: ignore[attr-defined]
    return {"torch": torch, "torch._utils": tools}


def _pickled(state: object) -> bytes:
    torch = sys.modules["torch"]

    class Pickler(pickle.Pickler):
        def reducer_override(self, obj: Any) -> Any:
            if not isinstance(obj, _Tensor):
                return NotImplemented
            array = obj.array
            strides = tuple(s // array.itemsize for s in np.ascontiguousarray(array).strides)
            shape = array.shape
            strides = strides if shape else ()
            storage = _Storage(array, obj.key)
            arguments = (storage, 0, shape, strides, False, OrderedDict())
            return torch._utils._rebuild_tensor_v2, arguments

        def persistent_id(self, obj: Any) -> Any:
            if not isinstance(obj, _Storage):
                return None
            kind = getattr(torch, _STORAGES[obj.array.dtype.name])
            return "storage", kind, obj.key, "cpu", obj.array.size

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump(state)
    return buffer.getvalue()
