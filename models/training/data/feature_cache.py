"""What a frozen network answered about a picture, remembered on disk and shared by trainings.

Content-addressed: a *space* stands for one computation (weights, preprocessing, cut), a key for
one picture (or one view of it), so a hit is right whoever wrote it. Features are kept in shards,
each a file that appears by one rename: readers never meet half a shard, writers need no lock, and
a killed writer leaves at most a temporary file, which is swept. Two trainings that compute the
same at the same time both write it; that costs space until one copy is evicted, and nothing else.
"""

import contextlib
import logging
import os
import time
import uuid
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.float32]

_LOG = logging.getLogger(__name__)
_STALE_SECONDS = 3600.0  # no shard takes so long to write: its writer is dead
_KEY_BYTES = 32


class FeatureCache:
    """A folder of features, the least recently used of which make room.

    Args:
        root: The folder; made on first use. Many processes may share it.
        limit_bytes: Most bytes all shards may take together.
    """

    def __init__(self, root: Path, limit_bytes: int = 4 * 1024**3) -> None:
        self._root = root
        self.limit_bytes = limit_bytes

    def read(
        self, space: str, keys: Sequence[bytes], into: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.bool_]:
        """Fill in what is known.

        Args:
            space: The computation, as a hex digest.
            keys: 32 bytes each; the same may stand at several places.
            into: (n, …): row i is for key i.

        Returns:
            bool (n,): which rows were filled in.
        """
        places: dict[bytes, list[int]] = {}
        for place, key in enumerate(keys):
            places.setdefault(key, []).append(place)
        found = np.zeros(len(keys), bool)
        for shard in sorted((self._root / space).glob("*.npz")):
            self._read_shard(shard, places, into, found)
        return found

    def write(self, space: str, keys: Sequence[bytes], features: Features) -> None:
        """Remember features; (n, …), row i for key i. A disk that takes none costs time alone."""
        name = uuid.uuid4().hex
        temporary = self._root / space / f".{name}.tmp"
        raw = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), _KEY_BYTES)
        try:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                np.savez(file, keys=raw, features=features)
            # Not forced to the disk: after a power cut a torn shard fails its checksum and goes.
            temporary.rename(temporary.with_name(f"{name}.npz"))
        except OSError as error:
            _LOG.warning("features are not remembered: %s", error.strerror)
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        self.evict()

    def evict(self) -> None:
        """Remove the least recently used shards above the limit, and what dead writers left."""
        shards = []
        for path in self._root.glob("*/*"):
            with contextlib.suppress(FileNotFoundError):  # another process evicts too
                state = path.stat()
                if path.suffix == ".npz":
                    shards.append((state.st_mtime_ns, state.st_size, path))
                elif path.suffix == ".tmp" and time.time() - state.st_mtime > _STALE_SECONDS:
                    path.unlink()
        total = sum(size for _, size, _ in shards)
        for _, size, path in sorted(shards):
            if total <= self.limit_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size

    def _read_shard(
        self,
        shard: Path,
        places: dict[bytes, list[int]],
        into: npt.NDArray[np.float32],
        found: npt.NDArray[np.bool_],
    ) -> None:
        try:
            with shard.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                wanted = [
                    (row, place)
                    for row, key in enumerate(file["keys"])
                    for place in places.get(key.tobytes(), ())
                    if not found[place]
                ]
                if not wanted:
                    return
                features = file["features"]
                os.utime(shard)
        except FileNotFoundError:
            return  # evicted meanwhile
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            shard.unlink(missing_ok=True)
            return
        if features.shape[1:] != into.shape[1:]:
            return
        for row, place in wanted:
            into[place] = features[row]
            found[place] = True
