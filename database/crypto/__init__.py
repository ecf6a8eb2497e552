"""Encryption at rest: master keys, envelope encryption, keyed hashes."""
