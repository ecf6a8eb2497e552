"""What a quantization may be asked for, and what it answers."""

from pydantic import BaseModel, ConfigDict, Field


class QuantizeBody(BaseModel):
    """The body of `POST /v1/models/{name}/versions/{version}/quantize`."""

    model_config = ConfigDict(extra="forbid")

    dataset_id: str = Field(
        description="Its training pictures calibrate; its test pictures, or else those for "
        "validation, measure. Classes are matched with the model's labels by name or id.",
        max_length=64,
        examples=["ds_7f3a9c"],
    )
    max_accuracy_loss: float = Field(
        0.01,
        ge=0,
        le=1,
        description="How much less of the measured pictures it may get right, as a share.",
        examples=[0.01],
    )
    promote: bool = Field(
        True,
        description="Make it champion if it lost no more than that. In a published network, "
        "the key needs the scope `models` for it.",
    )
