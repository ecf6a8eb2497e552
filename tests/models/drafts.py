"""A manifest draft and the files of a tiny version, for tests that need no network."""

from pathlib import Path

from contracts.inference.manifest import Draft, Parity, Provenance

DRAFT = Draft(
    network="vgg16",
    classes=2,
    input_size=(8, 8),
    short_side=8,
    preprocessing="caffe",
    endpoints=("serve",),
    features=4,
    explain_layer="block5_conv3",
    parity=Parity(pictures=1, largest_difference={"serve": 0.0}),
    provenance=Provenance(),
)

FILES = {
    "saved_model/saved_model.pb": b"graph" * 1000,
    "saved_model/variables/variables.index": b"index",
    "model.keras": b"keras" * 2000,
    "labels.json": b'["cat", "dog"]',
}


def write_files(folder: Path) -> None:
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
