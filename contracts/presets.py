"""What `GET /v1/presets` tells: the trainings of the classic tutorials, by name."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Preset(BaseModel):
    """A training by name. What is sent beside it in a request wins."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(examples=["cats_dogs_frozen"])
    title: str = Field(description="What it does, in a few words.")
    description: str = Field(description="What it is for, and whose set-up it follows.")
    accuracy: str | None = Field(None, description="What people reach with it on the full data.")
    request: dict[str, Any] = Field(description="The fields of `POST /v1/trainings` it fills in.")


class PresetList(BaseModel):
    """All presets."""

    items: list[Preset]
