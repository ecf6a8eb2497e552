"""`manifest.json` of a model version.

A publisher provides a `Draft`. The store completes it to a `Manifest` with the version number, the
time and the hash of every file.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from contracts.inference.explanation import Sanity

MODEL_NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"
ALIAS_NAME = r"^[a-z][a-z0-9_-]{0,63}$"
"""Starts with a letter, so that an alias cannot be a version number."""

ModelName = Annotated[str, StringConstraints(pattern=MODEL_NAME)]
Endpoint = Literal["serve", "features", "explain", "explain_hires"]

Geometry = Literal["short_side", "cover", "squash"]
"""How an image becomes the input of a network: `short_side` resizes the short side and crops the
center, `cover` crops only what the other proportions force, `squash` keeps the whole image."""

CHAMPION = "champion"
"""The alias that requests without a version use."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class FileRecord(_Record):
    """One file of a version when it was published."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0, description="Bytes.")


class WeightsRecord(_Record):
    """The weights that a version started from."""

    name: str
    sha256: str | None = Field(None, description="Of the file they were read from.")
    licence: str = Field(description="SPDX identifier.")


class ParentRecord(_Record):
    """What a training took its initial weights from, besides published weights of the base."""

    use: Literal["from_version", "initial_weights"]
    model: str | None = Field(None, description="The model of the version.")
    version: int | None = None
    weights: WeightsRecord | None = Field(None, description="The published file.")
    layers: int = Field(description="Number of layers whose weights were taken over.")
    skipped: tuple[str, ...] = Field((), description="Layers of the same name but another shape.")
    new_classes: tuple[str, ...] = Field((), description="Classes that it did not have.")


class Provenance(_Record):
    """The origin of a version."""

    weights: WeightsRecord | None = None
    dataset_digest: str | None = Field(None, description="Of the dataset it was trained on.")
    job_id: str | None = Field(None, description="The training or quantization job that made it.")
    quantized_from: int | None = Field(None, description="The version that it is an int8 copy of.")
    parent: ParentRecord | None = Field(None, description="The version or file it goes on from.")
    seed: int | None = Field(None, description="The seed of its random numbers.")
    spec: dict[str, Any] | None = Field(
        None, description="The training request, defaults included."
    )
    libraries: dict[str, str] = Field({}, description="The version of each library that made it.")

    @property
    def subjects(self) -> list[str]:
        """The ids of the enrolled subjects that it was trained on; usually none."""
        return (self.spec or {}).get("subjects") or []


class Parity(_Record):
    """How far the exported graph deviates from the Keras model, on real images."""

    pictures: int = Field(ge=1)
    largest_difference: dict[Endpoint, float] = Field(
        description="Largest absolute difference of any output, by endpoint; "
        "for heatmaps that of the median image."
    )
    compared: str = Field(
        "the exported SavedModel with the Keras model, both computed by TensorFlow in float32",
        description="What was compared with what. `served` has the runtime that answers requests.",
    )


class Served(_Record):
    """What the runtime that serves a version answered for all its held-out images."""

    runtime: str = Field(description="Engine and precision, e.g. openvino-bfloat16.")
    split: Literal["train", "validation", "test"] = Field(description="The images' split.")
    pictures: int = Field(
        ge=1, description="Number of images: all of the split; for int8, at most 1,000."
    )
    accuracy: float = Field(ge=0, le=1, description="Of this runtime; the one that is reported.")
    float32_accuracy: float = Field(ge=0, le=1, description="Of the trained network in float32.")
    largest_difference: float = Field(
        ge=0, description="Largest difference of any probability from the trained network's."
    )
    changed: int = Field(
        ge=0, description="Number of images whose most probable class is another one in float32."
    )
    rejected: dict[str, str] = Field(
        {}, description="Precisions in which it is not served, and why: they differ too much."
    )


class Draft(_Record):
    """What the publisher of a version provides."""

    network: str = Field(description="The architecture's name in the catalog.")
    classes: int | None = Field(description="Size of the output; null for a base alone.")
    input_size: tuple[int, int] = Field(description="(height, width) in pixels.")
    short_side: int = Field(description="Pixels of the short side before the center is cropped.")
    geometry: Geometry = Field(
        "short_side",
        description="How an image becomes the input: `cover` and `squash` since trained versions "
        "keep it; `short_side` for published networks and older versions.",
    )
    preprocessing: str = Field(description="The preprocessing of uint8 RGB inside the graph.")
    endpoints: tuple[Endpoint, ...] = Field(description="Signatures of the SavedModel.")
    features: int = Field(description="Length of an embedding.")
    explain_layer: str = Field(description="The layer whose maps `explain` weighs.")
    parity: Parity
    served: Served | None = Field(
        None, description="Null for what was not trained here, or before this was measured."
    )
    provenance: Provenance
    metrics: dict[str, float] = {}
    sanity: Sanity | None = Field(
        None, description="Whether its heatmaps depend on its weights; null without a classifier."
    )
    precision: Literal["float32", "int8"] = Field(
        "float32", description="Of its fastest graph; the SavedModel is always float32."
    )


class Manifest(Draft):
    """A published version."""

    model: ModelName
    version: int = Field(ge=1)
    created_at: datetime
    files: dict[str, FileRecord] = Field(description="By path inside the version, with slashes.")
