"""ES256 keys of devices and their signatures."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from jwt.algorithms import ECAlgorithm

from contracts.errors import ValidationFailed
from service.faces.device_keys import is_signed, read_public_key, read_signature

PRIVATE = generate_private_key(SECP256R1())
JWK = ECAlgorithm.to_jwk(PRIVATE.public_key(), as_dict=True)


def both_forms(nonce: str) -> tuple[bytes, bytes]:
    """The signature as DER, and as WebCrypto makes it."""
    der = PRIVATE.sign(nonce.encode(), ECDSA(SHA256()))
    r, s = decode_dss_signature(der)
    return der, r.to_bytes(32) + s.to_bytes(32)


def test_both_forms_of_a_signature_are_accepted() -> None:
    key = read_public_key(JWK | {"alg": "ES256", "ext": True, "key_ops": ["verify"]})
    assert key == {name: JWK[name] for name in ("kty", "crv", "x", "y")}
    for signature in both_forms("nonce"):
        for text in (
            base64.b64encode(signature).decode(),
            base64.urlsafe_b64encode(signature).decode().rstrip("="),
        ):
            assert is_signed(key, read_signature(text), "nonce")
            assert not is_signed(key, read_signature(text), "another nonce")
    _, raw = both_forms("nonce")
    assert not is_signed(key, raw[:-1] + bytes([raw[-1] ^ 1]), "nonce")
    for junk in (bytes(64), b"\xff" * 64, b"0" * 70):
        assert not is_signed(key, junk, "nonce")
    other = ECAlgorithm.to_jwk(generate_private_key(SECP256R1()).public_key(), as_dict=True)
    assert not is_signed(read_public_key(other), raw, "nonce")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kty": "RSA"}, "P-256"),
        ({"crv": "P-384"}, "P-256"),
        ({"x": JWK["y"]}, "point of P-256"),
        ({"x": "AA"}, "32 bytes"),
        ({"x": "?"}, "32 bytes"),
        ({"y": None}, "32 bytes"),
        ({"d": "secret"}, "private key"),
    ],
)
def test_other_keys_are_refused_with_advice(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationFailed, match=message):
        read_public_key({**JWK, **change})


@pytest.mark.parametrize("text", ["", "!", "QUJD", "A" * 200])
def test_what_is_no_signature_is_refused(text: str) -> None:
    with pytest.raises(ValidationFailed, match="base64url"):
        read_signature(text)
