"""Backups of a home: one tar that holds all that cannot be fetched or made again.

`snapshot` holds a running home fast, `packing` writes the tar, `unpacking` checks one, `placing`
lays it into a home. `databases` knows SQLite and PostgreSQL.
"""
