"""Assembles the repositories of everything stored about faces."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from sqlalchemy import Engine

from contracts.settings import Settings
from database.crypto.cipher import open_cipher
from database.crypto.envelope import EnvelopeCipher
from database.crypto.keyed_hash import KeyedHash
from database.deletion_clock import DeletionClock
from database.faces.devices import FaceDevices
from database.faces.face_events import FaceEvents
from database.faces.face_files import FaceFiles
from database.faces.face_policy import FacePolicy
from database.faces.face_threshold import FaceThreshold
from database.faces.frames import Frames
from database.faces.privacy.erasures import Erasures
from database.faces.search.gallery_source import GallerySource
from database.faces.standings import Standings
from database.faces.subjects import Subjects
from database.faces.templates import Templates
from database.faces.token_keys import TokenKeys


@dataclass(frozen=True, slots=True)
class FaceRepositories:
    """The repositories, each of a few tables; each method of theirs is one transaction.

    Attributes:
        standings: Consent, failures and last use of subjects.
        devices: Public keys of the devices that subjects log in with.
        erasures: Which subjects were erased, and which erasures are unfinished.
        templates: Encrypted embeddings of the subjects.
        frames: Encrypted images behind the templates.
        gallery_source: All embeddings, as a search needs them.
        events: The audit log.
        keyed_hash: Hashes that stay the same when the master key changes.
        cipher: Encryption with the master keys.
        files: Files of the stored frames.
        deletion_clock: By which people are erased and entries deleted for their age.
    """

    subjects: Subjects
    standings: Standings
    devices: FaceDevices
    erasures: Erasures
    templates: Templates
    frames: Frames
    gallery_source: GallerySource
    events: FaceEvents
    threshold: FaceThreshold
    policy: FacePolicy
    token_keys: TokenKeys
    keyed_hash: KeyedHash
    cipher: EnvelopeCipher
    files: FaceFiles
    deletion_clock: DeletionClock

    @classmethod
    def of(cls, settings: Settings, engine: Engine, clock: Callable[[], datetime]) -> Self:
        """Open those of this installation.

        Raises:
            ValueError, OSError, Unavailable: As `database.crypto.cipher.open_cipher`.
        """
        cipher, files = open_cipher(settings, engine), FaceFiles(settings.faces_home)
        keyed_hash = KeyedHash(engine, clock, cipher)
        return cls(
            subjects=Subjects(engine, clock, cipher, files),
            standings=Standings(engine, clock),
            devices=FaceDevices(engine, clock),
            erasures=Erasures(engine, clock),
            templates=Templates(engine, clock, cipher, files),
            frames=Frames(engine, cipher, files),
            gallery_source=GallerySource(engine, cipher),
            events=FaceEvents(engine, clock, keyed_hash),
            threshold=FaceThreshold(engine, clock),
            policy=FacePolicy(engine, clock, settings),
            token_keys=TokenKeys(
                engine,
                clock,
                cipher,
                max_age=timedelta(days=settings.token_key_days),
                token_life=timedelta(seconds=settings.token_seconds),
            ),
            keyed_hash=keyed_hash,
            cipher=cipher,
            files=files,
            deletion_clock=DeletionClock(engine, clock),
        )
