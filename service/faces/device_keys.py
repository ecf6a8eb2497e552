"""Keys of devices: ES256 public keys as JWK, and the signatures of challenges.

WebCrypto signs as two numbers of 32 bytes (IEEE P1363), the key stores of Android and iOS as DER.
Both are accepted. What is signed is the challenge's nonce, as the ASCII text that the API sent.
"""

import json
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePublicKey,
    EllipticCurvePublicNumbers,
)
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from contracts.errors import ValidationFailed
from contracts.faces.devices import Device, NewDevice, canonical_key, decode_base64
from service.faces.context import FaceServices

_NUMBER_BYTES = 32
_MAX_SIGNATURE_BYTES = 80  # in DER


def register(faces: FaceServices, subject_id: str, new: NewDevice, key: str | None) -> Device:
    """Register a device; with an idempotency key that was used before, return the first response.

    Raises:
        ValidationFailed: Its key is not a public one for ES256.
        SubjectNotFound: There is no such subject.
        Conflict: It is registered with another key, or there are too many.
        IdempotencyConflict: The key was used for a different request.
    """
    public_key = read_public_key(new.public_key)
    digest = ""
    if key is not None:
        sent = json.dumps([subject_id, new.device_id, public_key], sort_keys=True)
        digest = faces.keyed_hash.hexdigest(sent.encode())
    return faces.repositories.devices.add(
        subject_id, new.device_id, public_key, key=key, digest=digest
    )


def read_public_key(jwk: dict[str, Any]) -> dict[str, str]:
    """Check a JWK and keep what describes the key, in its canonical spelling.

    Raises:
        ValidationFailed: It is not a public key for ES256, or contains a private one.
    """
    if "d" in jwk:
        raise ValidationFailed(
            "public_key contains the private key ('d'). That must not leave the device: make a "
            "new key, and export its public half."
        )
    if jwk.get("kty") != "EC" or jwk.get("crv") != "P-256":
        raise ValidationFailed("public_key: send a JWK with kty 'EC' and crv 'P-256' (ES256).")
    key = {"kty": "EC", "crv": "P-256", "x": str(jwk.get("x", "")), "y": str(jwk.get("y", ""))}
    _public_key(key)
    return canonical_key(key)


def read_signature(text: str) -> bytes:
    """Decode a signature, base64url or base64.

    Raises:
        ValidationFailed: It is not a signature of ES256.
    """
    try:
        signature = decode_base64(text)
    except ValueError:
        signature = b""
    if not 8 <= len(signature) <= _MAX_SIGNATURE_BYTES:
        raise ValidationFailed(
            "signature: send the ES256 signature of the nonce, in base64url: 64 bytes, or DER."
        )
    return signature


def is_signed(key: dict[str, str], signature: bytes, nonce: str) -> bool:
    """Whether the device has signed the nonce."""
    if len(signature) == 2 * _NUMBER_BYTES:
        r, s = signature[:_NUMBER_BYTES], signature[_NUMBER_BYTES:]
        signature = encode_dss_signature(int.from_bytes(r), int.from_bytes(s))
    try:
        _public_key(key).verify(signature, nonce.encode(), ECDSA(SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True


def _public_key(jwk: dict[str, str]) -> EllipticCurvePublicKey:
    try:
        x, y = (_number(jwk[name]) for name in ("x", "y"))
        return EllipticCurvePublicNumbers(x, y, SECP256R1()).public_key()
    except ValueError:
        raise ValidationFailed(
            "public_key: x and y must be 32 bytes each in base64url, a point of P-256."
        ) from None


def _number(text: str) -> int:
    """Decode 32 bytes.

    Raises:
        ValueError: It is not base64, or has another size.
    """
    decoded = decode_base64(text)
    if len(decoded) != _NUMBER_BYTES:
        raise ValueError("wrong size")
    return int.from_bytes(decoded)
