"""Reads weights in the format of TensorFlow.js: a manifest, and a file of concatenated tensors.

Each tensor is stored as float32, or in 8 bits with a scale and a minimum (tensorflow/tfjs,
`io_utils.ts`). The file contains only numbers; nothing in it is run.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, TypeAdapter

Tensors = dict[str, npt.NDArray[Any]]


class _Quantization(BaseModel):
    dtype: Literal["uint8"]
    scale: float
    min: float


class _Tensor(BaseModel):
    name: str
    shape: list[int] = Field(max_length=4)
    dtype: Literal["float32"]
    quantization: _Quantization | None = None


class _Group(BaseModel):
    weights: list[_Tensor]
    paths: list[str] = Field(min_length=1, max_length=1)


def manifest_of(weights: Path) -> Path:
    """The manifest next to a file of weights, named as by the converter."""
    return weights.with_name(f"{weights.stem}-weights_manifest.json")


def read_tfjs(weights: Path) -> Tensors:
    """The tensors of a file by name, as float32.

    Args:
        weights: The verified file of numbers, next to its manifest.

    Raises:
        ValueError: The manifest is damaged, or the file is longer or shorter than it says.
    """
    groups = TypeAdapter(list[_Group]).validate_json(manifest_of(weights).read_bytes())
    if [group.paths for group in groups] != [[weights.name]]:
        raise ValueError(f"the manifest is not that of {weights.name} alone")
    raw, offset, tensors = weights.read_bytes(), 0, {}
    for tensor in groups[0].weights:
        stored = np.dtype(np.uint8 if tensor.quantization else "<f4")
        count = int(np.prod(tensor.shape))
        if offset + count * stored.itemsize > len(raw):
            raise ValueError(f"{weights.name} ends before {tensor.name}")
        values = np.frombuffer(raw, stored, count, offset).astype(np.float32)
        offset += count * stored.itemsize
        if (rule := tensor.quantization) is not None:
            values = values * np.float32(rule.scale) + np.float32(rule.min)
        tensors[tensor.name] = values.reshape(tensor.shape)
    if offset != len(raw):
        raise ValueError(f"{weights.name} is longer than its manifest says")
    return tensors
