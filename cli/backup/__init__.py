"""Backups of a home: one tar with everything that cannot be fetched or made again.

`snapshot` takes a consistent copy of a running home, `packing` writes the tar, `unpacking` checks
one, `placing` moves its content into a home. `databases` handles SQLite and PostgreSQL.
"""
