"""Random embeddings: a direction for each person, and faces scattered around it."""

import numpy as np

from contracts.queue.messages import Vector


def random_embeddings(
    people: int, faces: int, *, noise: float = 0.6, seed: int = 8
) -> tuple[Vector, list[str]]:
    """float32 (people * faces, 128) of unit length, and the names; more noise gives more errors."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(people, 1, 128))
    vectors = centers + noise * np.sqrt(1.5) * rng.normal(size=(people, faces, 128))
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    names = [f"person {number:03}" for number in range(people) for _ in range(faces)]
    return vectors.reshape(-1, 128).astype(np.float32), names
