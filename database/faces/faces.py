"""All that is kept of faces, behind one door: whoever works with faces opens this."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from sqlalchemy import Engine

from contracts.settings import Settings
from database.crypto.envelope import Sealer
from database.crypto.keyed_hash import Digests
from database.faces.erasures import Erasures
from database.faces.face_events import FaceEvents
from database.faces.face_files import FaceFiles
from database.faces.face_threshold import FaceThreshold
from database.faces.frames import Frames
from database.faces.gallery_source import GallerySource
from database.faces.subjects import Subjects
from database.faces.templates import Templates
from database.faces.token_keys import TokenKeys

Clock = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Faces:
    """The parts; each is a few tables, and each method one transaction.

    Attributes:
        subjects: Who there is.
        erasures: Who was erased, and of whom something may be left.
        templates: Their embeddings, sealed.
        frames: The pictures that were kept, sealed.
        vectors: All embeddings, as a search is fed with them.
        events: The audit.
        threshold: From which similarity on two faces are one person's.
        token_keys: What signs the tokens of a login.
        digests: Keyed digests, the same under every master key.
        sealer: The master keys.
        files: The sealed frames on the disk.
    """

    subjects: Subjects
    erasures: Erasures
    templates: Templates
    frames: Frames
    vectors: GallerySource
    events: FaceEvents
    threshold: FaceThreshold
    token_keys: TokenKeys
    digests: Digests
    sealer: Sealer
    files: FaceFiles

    @classmethod
    def of(cls, settings: Settings, engine: Engine, clock: Clock) -> Self:
        """Those of this installation. The keys' file is made where it is not there.

        Raises:
            ValueError: The keys are malformed, or their file is open to others.
            OSError: Their file cannot be read or made.
        """
        sealer, files = Sealer.of(settings), FaceFiles(settings.faces_home)
        digests = Digests(engine, clock, sealer)
        return cls(
            subjects=Subjects(engine, clock, sealer, files),
            erasures=Erasures(engine, clock),
            templates=Templates(engine, clock, sealer, files),
            frames=Frames(engine, sealer, files),
            vectors=GallerySource(engine, sealer),
            events=FaceEvents(engine, clock, digests),
            threshold=FaceThreshold(engine, clock),
            token_keys=TokenKeys(
                engine,
                clock,
                sealer,
                max_age=timedelta(days=settings.token_key_days),
                token_life=timedelta(seconds=settings.token_seconds),
            ),
            digests=digests,
            sealer=sealer,
            files=files,
        )
