"""How a service proves that it knows a key, before anybody sends that key to it.

The command line takes its key from a file and sends it to a port of this machine. While the
service is down, any program here can open that port. So a request for `/healthz` comes first, with
the key's public id and a random number; the answer is keyed by the digest of the key, which the
service stores. The port is part of it, so that a service at another port proves nothing.
"""

import hmac
import re
import secrets
from dataclasses import dataclass

from contracts.keys import KEY_PATTERN

CHALLENGE_HEADER = "Opsin-Challenge"
PROOF_HEADER = "Opsin-Proof"
_CHALLENGE = re.compile(r"([0-9a-f]{12})\.([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class KeyChallenge:
    """What a service is asked to prove.

    Attributes:
        public: The public id in the key's text.
        number: 32 random bytes, hex.
    """

    public: str
    number: str

    @classmethod
    def new(cls, key: str) -> "KeyChallenge | None":
        """A challenge that only a holder of the key can answer; None if the key is not Opsin's."""
        match = KEY_PATTERN.fullmatch(key)
        return cls(match[1], secrets.token_hex(32)) if match else None

    @classmethod
    def parse(cls, text: str) -> "KeyChallenge | None":
        """The challenge in a header; None if it is malformed."""
        match = _CHALLENGE.fullmatch(text)
        return cls(match[1], match[2]) if match else None

    def __str__(self) -> str:
        return f"{self.public}.{self.number}"

    def proof(self, digest: bytes, port: int) -> str:
        """The answer of a service that listens on `port`; `digest` is the key's."""
        return hmac.digest(digest, f"opsin key proof {port} {self}".encode(), "sha256").hex()
