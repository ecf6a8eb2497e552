"""What a backup holds and how its members are named, for packing and unpacking.

backup.json      first: what this is, so that a wrong file is refused at once, and its size
database/…       the database, as `cli.backup.databases` wrote it
store/… etc.     the areas of the home
digests.txt      last: the sha256 of every member before it, as `sha256sum -c` reads it
"""

import re
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cli.output import CommandError

HEADER = "backup.json"
DIGESTS = "digests.txt"
DATABASE = "database"
SECRETS = "secrets"

AREAS = ("store", "datasets", "jobs", "tensorboard", "trainings", "faces")
"""The folders of the home that a backup holds; secrets are added on request."""

LEFT_OUT = ("weights", "samples", "cache", "logs", "memory", "run", "valkey")
"""What can be fetched or made again, or means nothing elsewhere."""

DatabaseKind = Literal["sqlite", "postgresql"]

DATABASES: dict[DatabaseKind, str] = {"sqlite": "opsin.db", "postgresql": "opsin.pgdump"}
"""The name of the one file below `database`."""

_MAX_NAME_CHARACTERS = 1024
_PART = re.compile(r"[^\x00-\x1f\x7f/\\]{1,255}")


class Header(BaseModel):
    """`backup.json`."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    release: str = Field(description="The Opsin that wrote it.")
    created_at: datetime
    database: DatabaseKind | None = Field(description="Null if the home had none yet.")
    revision: str | None = Field(description="Of the database's tables.")
    secrets: bool = Field(description="Whether the folder of the keys of faces is in it.")
    lost_datasets: list[str] | None = Field(
        None,
        description="Datasets in the database whose folders were missing. Any other without a "
        "folder was deleted while the backup was taken. Null: unknown, of an earlier release.",
    )
    erased: list[str] = Field([], description="Subjects erased while the backup was taken.")
    files: int = Field(ge=0, description="Members between this one and the digests.")
    size: int = Field(ge=0, description="Bytes of all of them.")


def checked(name: str, header: Header) -> str:
    """A member's name, after checking that a backup may have such a member.

    Raises:
        CommandError: It leads outside the areas of a backup.
    """
    parts = name.split("/")
    known = {*AREAS, *((SECRETS,) if header.secrets else ())}
    if header.database is not None and name == f"{DATABASE}/{DATABASES[header.database]}":
        return name
    fits = all(_PART.fullmatch(part) and part not in {".", ".."} for part in parts)
    if len(parts) > 1 and fits and len(name) <= _MAX_NAME_CHARACTERS and parts[0] in known:
        return name
    raise foreign(name)


def foreign(name: str) -> CommandError:
    """The error for a member that a backup cannot have."""
    plain = "".join(c if c.isprintable() else "?" for c in name)[:100]
    return CommandError(f"'{plain}' does not belong in a backup. Nothing was restored.")
