"""Checks that an enrollment adds only the face of its subject.

Someone who could add a template of another face to a subject could log in as that subject. So a
subject with templates accepts only similar faces, and no subject accepts the face of another one.
Templates of an earlier embedder are compared with embeddings by that one, and ignored if it was
deleted. Where the subject has none by the current one, the faces of an enrollment must also be
alike (`similarity_within`).
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping

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
        embedder: The current one.
        replaced: Ids of templates from an earlier attempt of the job; they are ignored.
    """

    def __init__(
        self, faces: FaceRepositories, subject_id: str, embedder: str, replaced: Collection[str]
    ) -> None:
        self._faces = faces
        self._subject_id = subject_id
        self._embedder = embedder
        self._replaced = frozenset(replaced)
        self._galleries = defaultdict[str, Gallery](lambda: Gallery(faces.gallery_source))

    def similarity_within(self) -> float | None:
        """The cosine similarity that must link the faces of the enrollment to each other.

        Returns:
            None if the subject has templates by the current embedder to compare with instead.

        Raises:
            SubjectNotFound: The subject no longer exists.
            Unavailable: The database does not answer, or all of its templates are damaged.
        """
        return None if self._existing(self._embedder) else self._threshold(self._embedder)

    def accepted(self, embeddings: Mapping[str, Vector], source: TemplateSource) -> Mask:
        """Which embeddings may become templates: (n,), at least one is True.

        Args:
            embeddings: Of the same n faces by embedder, the current one first; each (n, 128)
                float32, of unit length.
            source: Images are judged one by one, because each was chosen deliberately. A clip must
                also resemble the subject as a whole, because a frame is easily inserted.

        Raises:
            SubjectNotFound: The subject no longer exists.
            Conflict: The face differs from the subject's, or belongs to another subject.
            Unavailable: The database does not answer, or all of its templates are damaged.
        """
        accepted = self._like_subject(embeddings, source)
        for embedder, vectors in embeddings.items():
            accepted &= ~self._like_others(embedder, vectors, source)
        if not accepted.any():
            raise _different_person()
        return accepted

    def recheck(self, embeddings: Mapping[str, Vector], source: TemplateSource) -> None:
        """Repeat the check while no other enrollment can write.

        Raises:
            Conflict: Another enrollment has written first, and an embedding is no longer accepted.
        """
        if not self.accepted(embeddings, source).all():
            raise _different_person()

    def _threshold(self, embedder: str) -> float:
        return self._faces.threshold.get().effective_for(embedder).similarity

    def _existing(self, embedder: str) -> list[Vector]:
        """The subject's templates, without those of an earlier attempt."""
        templates, damaged = self._faces.templates.readable(self._subject_id, embedder=embedder)
        existing = [one.vector for one in templates if one.id not in self._replaced]
        if not existing and not self._replaced.issuperset(damaged):
            raise Damaged(
                "The subject's embeddings are damaged, so that no face can be compared with them. "
                "Delete the subject and enroll it again, or restore a backup.",
                retry_after=60,
            )
        return existing

    def _like_subject(self, embeddings: Mapping[str, Vector], source: TemplateSource) -> Mask:
        """By the first embedder that the subject has templates of; all if there is none."""
        for embedder, vectors in embeddings.items():
            existing = self._existing(embedder)
            if not existing:
                continue
            known, threshold = np.stack(existing), self._threshold(embedder)
            similar: Mask = (vectors @ known.T).max(1) >= threshold
            is_whole_similar = source == "image" or (
                similar.mean() >= _MIN_CLIP_SHARE
                and float((known @ mean_embedding(vectors)).max()) >= threshold
            )
            if not is_whole_similar or not similar.any():
                raise _different_person()
            return similar
        return np.ones(len(embeddings[self._embedder]), np.bool_)

    def _like_others(self, embedder: str, vectors: Vector, source: TemplateSource) -> Mask:
        """Which embeddings resemble another subject: of images none, of a clip fewer than half.

        Those of a clip are left out, because they would make the other's logins uncertain.
        """
        needed = 1 if source == "image" else max(1, round(_MIN_CLIP_SHARE * len(vectors)))
        nearest = self._galleries[embedder].nearest(
            vectors,
            embedder=embedder,
            min_similarity=self._threshold(embedder),
            limit=_MAX_CANDIDATES,
        )
        others = [
            {candidate.subject_id for candidate in candidates} - {self._subject_id}
            for candidates in nearest
        ]
        matches = Counter(subject_id for found in others for subject_id in found)
        if all(others) or max(matches.values(), default=0) >= needed:
            raise Conflict(
                "The face is already enrolled as another subject. Delete that subject first, or "
                "send images of the right person."
            )
        return np.array([bool(found) for found in others])


def _different_person() -> Conflict:
    return Conflict(
        "The face differs from the one that the subject is enrolled with. Send images of the right "
        "person, or delete the subject and enroll it again."
    )
