"""Features of frozen networks, cached on disk and shared by trainings.

The cache is content-addressed: a *namespace* identifies the computation (weights, preprocessing,
cut), a key one image (or one augmented view of it), so a hit is correct no matter which training
wrote it. Features are stored in shards, and each shard appears by one rename: readers never see a
partial shard, writers need no lock, and a killed writer leaves at most a temporary file, which is
removed later. Two trainings that compute the same features at the same time both write them, which
only costs disk space until one copy is evicted.
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

from contracts.files import require_room

Features = npt.NDArray[np.float32]

_LOG = logging.getLogger(__name__)
_STALE_SECONDS = 3600.0  # writing a shard never takes this long: its writer is dead
_KEY_BYTES = 32


class FeatureCache:
    """A folder of features with least-recently-used eviction.

    Args:
        root: Created on first use. Several processes may share it.
        limit_bytes: Maximum size of all shards together.
        kept_bytes: Of the disk, which are left free for other work.
    """

    def __init__(self, root: Path, limit_bytes: int = 4 * 1024**3, *, kept_bytes: int = 0) -> None:
        self._root = root
        self.limit_bytes = limit_bytes
        self.kept_bytes = kept_bytes

    def read(
        self, namespace: str, keys: Sequence[bytes], into: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.bool_]:
        """Fill in the cached rows.

        Args:
            namespace: The computation, as a hex digest.
            keys: 32 bytes each; may contain duplicates.
            into: (n, …): row i belongs to key i.

        Returns:
            bool (n,): the rows that were filled in.
        """
        rows: dict[bytes, list[int]] = {}
        for row, key in enumerate(keys):
            rows.setdefault(key, []).append(row)
        hits = np.zeros(len(keys), bool)
        for shard in sorted((self._root / namespace).glob("*.npz")):
            self._read_shard(shard, rows, into, hits)
        return hits

    def write(self, namespace: str, keys: Sequence[bytes], features: Features) -> None:
        """Store features (n, …), row i for key i, unless the disk has no room for them."""
        name = uuid.uuid4().hex
        temporary = self._root / namespace / f".{name}.tmp"
        raw = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), _KEY_BYTES)
        try:
            require_room(self._root, features.nbytes, self.kept_bytes)
            temporary.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                np.savez(file, keys=raw, features=features)
            # No fsync: after a power cut a partial shard fails its checksum and is deleted.
            temporary.rename(temporary.with_name(f"{name}.npz"))
        except OSError as error:
            _LOG.warning("features are not cached: %s", error.strerror)
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        self.evict()

    def evict(self) -> None:
        """Remove the least recently used shards above the limit, and files of dead writers."""
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
        rows: dict[bytes, list[int]],
        into: npt.NDArray[np.float32],
        hits: npt.NDArray[np.bool_],
    ) -> None:
        try:
            with shard.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                matches = [
                    (source, row)
                    for source, key in enumerate(file["keys"])
                    for row in rows.get(key.tobytes(), ())
                    if not hits[row]
                ]
                if not matches:
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
        for source, row in matches:
            into[row] = features[source]
            hits[row] = True
