"""Reduces the images of a dataset to portraits, as a served request does for the same version.

A version that was trained on subjects has seen nothing but portraits, so it is measured on them.
"""

from collections.abc import Sequence
from dataclasses import replace

from contracts.errors import ManyFaces, NoFace
from contracts.faces.faces import LONGEST_SIDE
from contracts.inference.manifest import Manifest
from contracts.settings import Settings
from models.datasets.dataset import Example
from models.faces.detection.finder import FaceFinder, open_finder
from models.faces.one_face import check_one_face
from models.faces.portrait import crop_portrait
from models.faces.provenance import takes_portraits
from models.images.decode import decode_reduced
from models.weights.catalog import Weights

_MAX_FACES = 2  # as many as it takes to know that there are several


class PortraitReader:
    """Reads images as a version takes them. Loads the face finder only if one needs it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._finder: FaceFinder | None = None

    def read(
        self, examples: Sequence[Example], version: Manifest
    ) -> list[Example | NoFace | ManyFaces]:
        """The examples in order: unchanged, or each with the portrait of its one face.

        An image for which a request would be refused is the error of that request.

        Raises:
            WeightsMissing: The weights of the face finder are missing; says what to do.
            InvalidImage: A file cannot be decoded, perhaps because the dataset was changed.
        """
        if not takes_portraits(version):
            return list(examples)
        return [self._portrait(example) for example in examples]

    def _portrait(self, example: Example) -> Example | NoFace | ManyFaces:
        if self._finder is None:
            weights = Weights.of(self._settings)
            self._finder = open_finder(weights, threads=self._settings.job_threads)
        image = decode_reduced(
            example.read(),
            longest_side=LONGEST_SIDE,
            max_pixels=self._settings.max_image_pixels,
        )
        found = self._finder.find(image.pixels, _MAX_FACES)
        faces = [detected.face for detected in found.faces]
        try:
            check_one_face(faces, found.total)
        except (NoFace, ManyFaces) as error:
            return error
        return replace(example, content=crop_portrait(image.pixels, faces[0].box))
