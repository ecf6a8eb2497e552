"""Checks that an enrollment adds only the face of its subject.

Someone who could add a template of another face to a subject could log in as that subject. So a
subject with templates accepts only similar faces, and no subject accepts the face of another one.
Templates of an earlier embedder cannot be compared, and are ignored.
"""

from collections import Counter
from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from contracts.errors import Conflict
from contracts.faces.subjects import TemplateSource
from contracts.queue.messages import Vector
from database.faces.repositories import FaceRepositories
from database.faces.search.gallery import Gallery
from database.faces.template_rows import Damaged
from models.faces.embedding import mean_embedding

Mask = npt.NDArray[np.bool_]

# Share of a clip's embeddings that must resemble the subject; also the share that must resemble
# another subject for the clip to be considered that subject's.
_MIN_CLIP_SHARE = 0.5
_MAX_CANDIDATES = 8


class IdentityCheck:
    """Checks the embeddings of one enrollment.

    Args:
        replaced: Ids of templates from an earlier attempt of the job; they are ignored.
    """

    def __init__(
        self, faces: FaceRepositories, subject_id: str, embedder: str, replaced: Collection[str]
    ) -> None:
        self._faces = faces
        self._subject_id = subject_id
        self._embedder = embedder
        self._replaced = frozenset(replaced)
        self._gallery = Gallery(faces.gallery_source)

    def accepted(self, vectors: Vector, source: TemplateSource) -> Mask:
        """Which embeddings may become templates: (n,), at least one is True.

        Args:
            vectors: (n, 128) float32, each of unit length.
            source: Images are judged one by one, because each was chosen deliberately. A clip must
                also resemble the subject as a whole, because a frame is easily inserted.

        Raises:
            SubjectNotFound: The subject no longer exists.
            Conflict: The face differs from the subject's, or belongs to another subject.
            Unavailable: The database does not answer, or all of its templates are damaged.
        """
        threshold = self._faces.threshold.get().effective_for(self._embedder).similarity
        accepted = self._like_subject(vectors, source, threshold)
        self._require_no_other_subject(vectors, source, threshold)
        return accepted

    def recheck(self, vectors: Vector, source: TemplateSource) -> None:
        """Repeat the check while no other enrollment can write.

        Raises:
            Conflict: Another enrollment has written first, and an embedding is no longer accepted.
        """
        if not self.accepted(vectors, source).all():
            raise _different_person()

    def _like_subject(self, vectors: Vector, source: TemplateSource, threshold: float) -> Mask:
        templates, damaged = self._faces.templates.readable(
            self._subject_id, embedder=self._embedder
        )
        existing = [one.vector for one in templates if one.id not in self._replaced]
        if not existing and not self._replaced.issuperset(damaged):
            raise Damaged(
                "The subject's embeddings are damaged, so that no face can be compared with them. "
                "Delete the subject and enroll it again, or restore a backup.",
                retry_after=60,
            )
        if not existing:
            return np.ones(len(vectors), np.bool_)
        known = np.stack(existing)
        similar: Mask = (vectors @ known.T).max(1) >= threshold
        is_whole_similar = source == "image" or (
            similar.mean() >= _MIN_CLIP_SHARE
            and float((known @ mean_embedding(vectors)).max()) >= threshold
        )
        if not is_whole_similar or not similar.any():
            raise _different_person()
        return similar

    def _require_no_other_subject(
        self, vectors: Vector, source: TemplateSource, threshold: float
    ) -> None:
        """For a clip, half of the embeddings must agree: one of many may resemble someone."""
        needed = 1 if source == "image" else max(1, round(_MIN_CLIP_SHARE * len(vectors)))
        nearest = self._gallery.nearest(
            vectors, embedder=self._embedder, min_similarity=threshold, limit=_MAX_CANDIDATES
        )
        matches = Counter(
            candidate.subject_id for candidates in nearest for candidate in candidates
        )
        del matches[self._subject_id]
        if matches and matches.most_common(1)[0][1] >= needed:
            raise Conflict(
                "The face is already enrolled as another subject. Delete that subject first, or "
                "send images of the right person."
            )


def _different_person() -> Conflict:
    return Conflict(
        "The face differs from the one that the subject is enrolled with. Send images of the right "
        "person, or delete the subject and enroll it again."
    )
