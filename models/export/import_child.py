"""The child process that imports a published network into the store.

    python -m models.export.import_child NETWORK STORE SAMPLES WEIGHTS_HOME [WEIGHTS_DIR]

Building, exporting and comparing needs Keras and several times the network's size in memory. A
child process frees all of it, and its failure does not affect the worker.
"""

import sys
from pathlib import Path

from models.catalog import network_of
from models.export.check_images import check_images
from models.processes import end_with_parent
from models.store.store import Store
from models.weights.catalog import Weights


def main(name: str, store: Path, samples: Path, home: Path, directory: Path | None) -> None:
    """Import one catalog row."""
    from models.export.catalog_import import import_network  # Keras

    network = network_of(name)
    weights = Weights(home, directory, offline=True)
    import_network(network, weights, Store(store), check_images(samples, network))


if __name__ == "__main__":
    end_with_parent()
    folders = [Path(folder) for folder in sys.argv[2:]]
    main(sys.argv[1], folders[0], folders[1], folders[2], folders[3] if folders[3:] else None)
