"""The face embedder written a second time, in NumPy and from its publisher's description alone.

vladmandic/face-api 1.7.15, src/faceRecognitionNet: each convolution with its bias, then a scale
and an offset a channel, then ReLU; blocks that shrink the maps pad what lacks *after* the second
scale, below and to the right. Reads the manifest's own numbers: uint8 * scale + min.
"""

import json
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

BLOCKS = [
    *(f"conv32_{n}" for n in (1, 2, 3)),
    "conv64_down",
    *(f"conv64_{n}" for n in (1, 2, 3)),
    "conv128_down",
    *(f"conv128_{n}" for n in (1, 2)),
    "conv256_down",
    *(f"conv256_{n}" for n in (1, 2)),
    "conv256_down_out",
]


def tensors_of(binary: Path, manifest: Path) -> dict[str, np.ndarray]:
    raw, at, tensors = binary.read_bytes(), 0, {}
    (group,) = json.loads(manifest.read_text())
    for one in group["weights"]:
        count, rule = int(np.prod(one["shape"])), one.get("quantization")
        dtype = np.uint8 if rule else np.float32
        values = np.frombuffer(raw, dtype, count, at).astype(np.float64)
        at += count * np.dtype(dtype).itemsize
        if rule:
            values = values * rule["scale"] + rule["min"]
        tensors[one["name"]] = values.reshape(one["shape"])
    assert at == len(raw)
    return tensors


def embed(tensors: dict[str, np.ndarray], chip: np.ndarray) -> np.ndarray:
    """One chip, uint8 (150, 150, 3), to its 128 numbers, not brought to length 1."""
    x = (chip.astype(np.float64) - (122.782, 117.001, 104.298)) / 255
    x = np.maximum(_convolved(tensors, x, "conv32_down", stride=2, pad=0), 0)
    windows = sliding_window_view(x, (3, 3), axis=(0, 1))[::2, ::2]
    x = windows.max(axis=(-2, -1))
    for name in BLOCKS:
        x = _block(tensors, x, name, shrinks="down" in name)
    return x.mean(axis=(0, 1)) @ tensors["fc"]


def _block(t: dict[str, np.ndarray], x: np.ndarray, name: str, *, shrinks: bool) -> np.ndarray:
    stride, pad = (2, 0) if shrinks else (1, 1)
    out = np.maximum(_convolved(t, x, f"{name}/conv1", stride=stride, pad=pad), 0)
    out = _convolved(t, out, f"{name}/conv2", stride=1, pad=1)
    if shrinks:
        rows, columns = x.shape[0] // 2, x.shape[1] // 2
        x = x[: 2 * rows, : 2 * columns]
        x = x.reshape(rows, 2, columns, 2, -1).mean(axis=(1, 3))
        whole = np.zeros((rows, columns, out.shape[2]))
        whole[: out.shape[0], : out.shape[1]] = out
        out = whole
        x = np.concatenate([x, np.zeros((rows, columns, out.shape[2] - x.shape[2]))], axis=2)
    return np.maximum(x + out, 0)


def _convolved(
    t: dict[str, np.ndarray], x: np.ndarray, name: str, *, stride: int, pad: int
) -> np.ndarray:
    kernel = t[f"{name}/conv/filters"]
    x = np.pad(x, ((pad, pad), (pad, pad), (0, 0)))
    windows = sliding_window_view(x, kernel.shape[:2], axis=(0, 1))[::stride, ::stride]
    out = np.einsum("hwcij,ijco->hwo", windows, kernel, optimize=True) + t[f"{name}/conv/bias"]
    return out * t[f"{name}/scale/weights"] + t[f"{name}/scale/biases"]
