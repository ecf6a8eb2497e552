"""The token that a login by face ends in: a JWT, signed with Ed25519, that anybody can check.

Its keys are public at `/.well-known/jwks.json`. `liveness` is there, and true, only where a
challenge was answered before the camera: a picture alone can be anybody's photograph.
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
    """Signs, and shows what to check by. Its methods block; call them from a thread.

    Args:
        keys: What signs.
        settings: Issuer, audience and life of a token.
        clock: What time it is.
    """

    def __init__(self, keys: TokenKeys, settings: Settings, clock: Callable[[], datetime]) -> None:
        self._keys = keys
        self._settings = settings
        self._clock = clock

    def sign(self, subject_id: str, *, live: bool) -> Token:
        """A token for a subject who was recognised.

        Args:
            subject_id: Becomes `sub`.
            live: Whether a challenge was answered.

        Raises:
            Unavailable: The keys cannot be had.
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
            "amr": ["face"],
        }
        if live:
            claims["liveness"] = True
        text = jwt.encode(claims, key.key, algorithm=ALGORITHM, headers={"kid": key.id})
        return Token(text, expires)

    def public(self) -> JsonWebKeys:
        """The public keys, as a JWK set."""
        return JsonWebKeys(
            keys=[
                OKPAlgorithm.to_jwk(one.key, as_dict=True)
                | {"kid": one.id, "use": "sig", "alg": ALGORITHM}
                for one in self._keys.public()
            ]
        )
