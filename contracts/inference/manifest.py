"""What a model version says of itself: the content of its `manifest.json`.

A publisher hands in a `Draft`; the store makes a `Manifest` of it by adding what only the store
knows: the number, the time and the hash of every file.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from contracts.inference.explanation import Sanity

MODEL_NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"
ALIAS_NAME = r"^[a-z][a-z0-9_-]{0,63}$"
"""A letter first, so that an alias is never taken for a version's number."""

ModelName = Annotated[str, StringConstraints(pattern=MODEL_NAME)]
Endpoint = Literal["serve", "features", "explain", "explain_hires"]

CHAMPION = "champion"
"""The alias a request means when it names no version."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class FileRecord(_Record):
    """One file of a version, as it was when the version was published."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0, description="Bytes.")


class WeightsRecord(_Record):
    """The weights a version began with."""

    name: str
    sha256: str | None = Field(None, description="Of the file they were read from.")
    licence: str = Field(description="SPDX name.")


class Provenance(_Record):
    """Where a version comes from."""

    weights: WeightsRecord | None = None
    dataset_digest: str | None = Field(None, description="Of the dataset it was trained on.")
    job_id: str | None = Field(None, description="The training or quantization that made it.")
    quantized_from: int | None = Field(None, description="The version it is the int8 copy of.")
    seed: int | None = Field(None, description="What its randomness came from.")
    spec: dict[str, Any] | None = Field(
        None, description="The training as it was asked for, defaults included."
    )
    libraries: dict[str, str] = Field({}, description="Version of each library that made it.")


class Parity(_Record):
    """How far the exported graph strays from the Keras model, on real pictures."""

    pictures: int = Field(ge=1)
    largest_difference: dict[Endpoint, float] = Field(
        description="Largest absolute difference of any output, by endpoint; "
        "of maps that of the median picture."
    )


class Draft(_Record):
    """What the maker of a version knows of it."""

    network: str = Field(description="The architecture's row in the catalog.")
    classes: int | None = Field(description="Size of the output; null for a base alone.")
    input_size: tuple[int, int] = Field(description="(height, width) in pixels.")
    short_side: int = Field(description="Pixels of the short side before the centre is cropped.")
    preprocessing: str = Field(description="What the graph does to uint8 RGB first.")
    endpoints: tuple[Endpoint, ...] = Field(description="Signatures of the SavedModel.")
    features: int = Field(description="Length of an embedding.")
    explain_layer: str = Field(description="The layer whose maps `explain` weighs.")
    parity: Parity
    provenance: Provenance
    metrics: dict[str, float] = {}
    sanity: Sanity | None = Field(
        None, description="Whether its heatmaps follow its weights; null without a classifier."
    )
    precision: Literal["float32", "int8"] = Field(
        "float32", description="Of the quickest graph in it; the SavedModel is float32 always."
    )


class Manifest(Draft):
    """A published version."""

    model: ModelName
    version: int = Field(ge=1)
    created_at: datetime
    files: dict[str, FileRecord] = Field(description="By path inside the version, with slashes.")
