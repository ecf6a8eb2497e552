"""The child process that brings a published network into the store.

    python -m models.export.import_child NETWORK STORE SAMPLES WEIGHTS_HOME [WEIGHTS_DIR]

Building, exporting and comparing takes Keras and several times the network's size in memory. A
process of its own gives all of it back, and its failure is not the worker's.
"""

import sys
from pathlib import Path

from models.catalog import network_of
from models.export.check_images import check_pictures
from models.processes import end_when_orphaned
from models.store.store import Store
from models.weights.catalog import Weights


def main(name: str, store: Path, samples: Path, home: Path, directory: Path | None) -> None:
    """Import one catalog row."""
    from models.export.catalog_import import import_zoo  # Keras

    network = network_of(name)
    weights = Weights(home, directory, offline=True)
    import_zoo(network, weights, Store(store), check_pictures(samples, network))


if __name__ == "__main__":
    end_when_orphaned()
    folders = [Path(folder) for folder in sys.argv[2:]]
    main(sys.argv[1], folders[0], folders[1], folders[2], folders[3] if folders[3:] else None)
