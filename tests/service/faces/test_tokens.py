"""Tokens that any JWT library can verify with the published keys."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest

from contracts.settings import Settings
from database.engine import open_engine
from database.faces.repositories import FaceRepositories
from service.faces.tokens import Tokens
from tests.tables import make_tables

NOW = datetime.now(UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        _env_file=None, home=tmp_path, token_issuer="iss", token_audience="app", token_seconds=7200
    )


@pytest.fixture
def faces(settings: Settings) -> FaceRepositories:
    make_tables(settings.database)
    return FaceRepositories.of(settings, open_engine(settings.database), lambda: NOW)


def test_a_token_can_be_verified_with_the_public_keys(
    faces: FaceRepositories, settings: Settings
) -> None:
    tokens = Tokens(faces.token_keys, settings, lambda: NOW)
    token = tokens.sign("sub_a", live=False)
    faces.token_keys.rotate()
    keys = jwt.PyJWKSet.from_dict(tokens.public_keys().model_dump())
    header = jwt.get_unverified_header(token.text)
    assert header["alg"] == "EdDSA"
    claims = jwt.decode(token.text, keys[header["kid"]], ["EdDSA"], audience="app", issuer="iss")
    assert (claims["sub"], claims["amr"]) == ("sub_a", ["face"])
    assert claims["exp"] == int(token.expires_at.timestamp())
    assert "liveness" not in claims
    other = tokens.sign("sub_a", live=True)
    second = jwt.decode(other.text, options={"verify_signature": False})
    assert second["liveness"] is True
    assert second["jti"] != claims["jti"]
    assert jwt.get_unverified_header(other.text)["kid"] != header["kid"]
    with pytest.raises(jwt.InvalidAudienceError):
        jwt.decode(token.text, keys[header["kid"]], ["EdDSA"], audience="bank")


def test_tokens_expire(faces: FaceRepositories, settings: Settings) -> None:
    early = Tokens(faces.token_keys, settings, lambda: NOW - timedelta(hours=3))
    token = early.sign("sub_a", live=False)
    keys = jwt.PyJWKSet.from_dict(early.public_keys().model_dump())
    with pytest.raises(jwt.ExpiredSignatureError):
        jwt.decode(token.text, keys.keys[0], ["EdDSA"], audience="app")


def test_no_private_key_is_published(faces: FaceRepositories, settings: Settings) -> None:
    tokens = Tokens(faces.token_keys, settings, lambda: NOW)
    tokens.sign("sub_a", live=False)
    (key,) = tokens.public_keys().keys
    assert set(key) <= {"kty", "crv", "x", "kid", "use", "alg", "key_ops"}
    assert (key["kty"], key["crv"]) == ("OKP", "Ed25519")
