"""Whose face an enrollment may bring: nobody else's, and no other than the subject's own.

Whoever could add a template of another face to a subject could log in as that subject from then on.
So a subject that has templates takes only what is like them; those of an earlier embedder cannot
be compared, and count for nothing.
"""

from collections import Counter
from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from contracts.errors import Conflict
from contracts.faces.subjects import TemplateSource
from contracts.queue.messages import Vector
from database.faces.faces import Faces
from database.faces.gallery import Gallery
from models.faces.liveness.verdict import mean_of

Mask = npt.NDArray[np.bool_]

# Of a clip's templates: that many must be like the subject's, and that many like somebody else's
# for it to be taken for theirs.
_CLIP_PART = 0.5
_NEAREST = 8


class Identity:
    """The subject of one enrollment.

    Args:
        faces: Where templates are kept.
        subject_id: Who is enrolled.
        embedder: What made the embeddings.
        replaced: Ids of templates that an earlier attempt of this job wrote; they vouch for nobody.
    """

    def __init__(
        self, faces: Faces, subject_id: str, embedder: str, replaced: Collection[str]
    ) -> None:
        self._faces = faces
        self._subject_id = subject_id
        self._embedder = embedder
        self._replaced = frozenset(replaced)
        self._gallery = Gallery(faces.vectors)

    def of(self, vectors: Vector, source: TemplateSource) -> Mask:
        """Which embeddings may become templates: (n,), at least one.

        Args:
            vectors: (n, 128) float32, each of length 1.
            source: Of images each one counts: somebody chose it. Of a clip the whole must be like
                the subject as well, for one frame is easily put in.

        Raises:
            SubjectNotFound: There is no such subject any more.
            Conflict: It is another person's face, or another subject's.
            Unavailable: The database does not answer.
        """
        threshold = self._faces.threshold.get().held_for(self._embedder).similarity
        mine = self._mine(vectors, source, threshold)
        self._require_nobody_else(vectors, source, threshold)
        return mine

    def require_still(self, vectors: Vector, source: TemplateSource) -> None:
        """The same once more, when nobody else can write.

        Raises:
            Conflict: Another enrollment has come first, and one of these is no longer welcome.
        """
        if not self.of(vectors, source).all():
            raise _another_person()

    def _mine(self, vectors: Vector, source: TemplateSource, threshold: float) -> Mask:
        known = [
            one.vector
            for one in self._faces.templates.of(self._subject_id, embedder=self._embedder)
            if one.id not in self._replaced
        ]
        if not known:
            return np.ones(len(vectors), np.bool_)
        templates = np.stack(known)
        mine: Mask = (vectors @ templates.T).max(1) >= threshold
        whole = source == "image" or (
            mine.mean() >= _CLIP_PART and float((templates @ mean_of(vectors)).max()) >= threshold
        )
        if not whole or not mine.any():
            raise _another_person()
        return mine

    def _require_nobody_else(
        self, vectors: Vector, source: TemplateSource, threshold: float
    ) -> None:
        """Of a clip half of the templates must agree: one of many is soon like somebody."""
        needed = 1 if source == "image" else max(1, round(_CLIP_PART * len(vectors)))
        found = self._gallery.nearest(
            vectors, embedder=self._embedder, above=threshold, most=_NEAREST
        )
        alike = Counter(one.subject_id for near in found for one in near)
        del alike[self._subject_id]
        if alike and alike.most_common(1)[0][1] >= needed:
            raise Conflict(
                "The face is enrolled as another subject already. Delete that one first, or "
                "send pictures of the right person."
            )


def _another_person() -> Conflict:
    return Conflict(
        "The face is not the one that the subject is enrolled with. Send pictures of the right "
        "person, or delete the subject and enroll it anew."
    )
