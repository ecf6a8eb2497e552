"""What a peer makes of the faces in folders: run in an environment of the peer's own.

    .venv-faces/bin/python benchmarks/peers/face_embeddings.py OUT.npz FOLDER …

`face_recognition` as its examples use it: the HOG detector, the largest face, five landmarks, one
128-d embedding. A picture without a face is a row of NaN. Imports nothing of Opsin.
"""

import sys
from pathlib import Path

import face_recognition
import numpy as np

PICTURES = (".jpg", ".jpeg", ".png")


def embedded(file: Path) -> np.ndarray:
    """float64 (128,), NaN where no face was found."""
    picture = face_recognition.load_image_file(file)
    places = face_recognition.face_locations(picture)
    if not places:
        return np.full(128, np.nan)
    largest = max(places, key=lambda box: (box[2] - box[0]) * (box[1] - box[3]))
    return face_recognition.face_encodings(picture, [largest])[0]


def main(out: Path, folders: list[Path]) -> None:
    """Embed all pictures of all folders, one folder a person in each."""
    found: dict[str, np.ndarray] = {}
    for folder in folders:
        files = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in PICTURES)
        found[folder.name] = np.stack([embedded(file) for file in files])
        found[f"{folder.name}/names"] = np.array([f"{one.parent.name}/{one.name}" for one in files])
        print(f"{folder.name}: {len(files)} pictures")
    np.savez(out, **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
