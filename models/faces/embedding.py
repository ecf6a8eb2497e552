"""Arithmetic on face embeddings that needs neither OpenCV nor a network, for the API too."""

import numpy as np

from contracts.queue.messages import Vector


def mean_embedding(embeddings: Vector) -> Vector:
    """The mean direction of embeddings (n, 128), as float32 (128,) of unit length."""
    mean = embeddings.mean(axis=0, dtype=np.float64)
    unit: Vector = (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)
    return unit
