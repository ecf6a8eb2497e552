"""Embeddings of people who do not exist: a direction each, and faces strewn around it."""

import numpy as np

from contracts.queue.messages import Vector


def strewn(
    people: int, faces: int, *, noise: float = 0.6, seed: int = 8
) -> tuple[Vector, list[str]]:
    """float32 (people * faces, 128) of length 1, and the names; more noise, more errors."""
    chance = np.random.default_rng(seed)
    centres = chance.normal(size=(people, 1, 128))
    vectors = centres + noise * np.sqrt(1.5) * chance.normal(size=(people, faces, 128))
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    names = [f"person {number:03}" for number in range(people) for _ in range(faces)]
    return vectors.reshape(-1, 128).astype(np.float32), names
