"""The token of a successful face login: a JWT signed with Ed25519 that anyone can verify.

The public keys are at `/.well-known/jwks.json`. The claim `liveness` is present, and true, only if
a challenge was answered in front of the camera: an image alone may be a photo of someone else.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import jwt
from jwt.algorithms import OKPAlgorithm

from contracts.faces.recognition import JsonWebKeys
from contracts.settings import Settings
from database.faces.token_keys import TokenKeys

ALGORITHM = "EdDSA"


@dataclass(frozen=True, slots=True)
class Token:
    """A signed token."""

    text: str
    expires_at: datetime


class Tokens:
    """Signs tokens. Its methods block; call them from a thread.

    Args:
        settings: Issuer, audience and lifetime of a token.
    """

    def __init__(self, keys: TokenKeys, settings: Settings, clock: Callable[[], datetime]) -> None:
        self._keys = keys
        self._settings = settings
        self._clock = clock

    def sign(self, subject_id: str, *, live: bool, signed: bool = False) -> Token:
        """Sign a token for a subject who was recognized.

        Args:
            subject_id: Becomes the claim `sub`.
            live: Whether a challenge was answered.
            signed: Whether a registered device has signed the challenge; `amr` says so.

        Raises:
            Unavailable: The signing key cannot be loaded.
        """
        key = self._keys.signing()
        now = self._clock()
        expires = now.replace(microsecond=0) + timedelta(seconds=self._settings.token_seconds)
        claims: dict[str, Any] = {
            "iss": self._settings.token_issuer,
            "aud": self._settings.token_audience,
            "sub": subject_id,
            "iat": now,
            "nbf": now,
            "exp": expires,
            "jti": secrets.token_urlsafe(16),
            "amr": ["face", "pop"] if signed else ["face"],  # RFC 8176
        }
        if live:
            claims["liveness"] = True
        text = jwt.encode(claims, key.key, algorithm=ALGORITHM, headers={"kid": key.id})
        return Token(text, expires)

    def public_keys(self) -> JsonWebKeys:
        """The public keys, as a JWK set."""
        return JsonWebKeys(
            keys=[
                OKPAlgorithm.to_jwk(key.key, as_dict=True)
                | {"kid": key.id, "use": "sig", "alg": ALGORITHM}
                for key in self._keys.public()
            ]
        )
