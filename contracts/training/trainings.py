"""Schemas of training requests (`POST /v1/trainings`) and of presets (`GET /v1/presets`).

Whatever can be validated without the images is validated here, before the training is queued, with
messages that say what to send instead.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from contracts.inference.manifest import ModelName

Strategy = Literal["feature_extraction", "fine_tuning", "from_scratch"]
Phase = Literal["head", "finetune", "scratch"]
TrainableNetwork = Literal[
    "efficientnet_lite0",
    "squeezenet",
    "vgg16",
    "vgg19",
    "vgg19_bn",
    "cnn_mnist",
    "cnn_small",
    "cnn_pets",
    "cnn_face",
]
Optimizer = Literal["adam", "adamw", "sgd", "rmsprop"]
Schedule = Literal["plateau", "cosine", "constant"]
FillMode = Literal["nearest", "reflect", "wrap", "constant"]
Side = Annotated[int, Field(ge=16, le=1024)]
ClassWeight = Annotated[float, Field(ge=0, le=1e6)]
SubjectId = Annotated[str, Field(pattern=r"^sub_[A-Za-z0-9_-]{1,60}$")]

FACE_CNN = "face_cnn"
"""The API's name of the preset `faces` of the network `cnn_face`."""
FACE_NETWORK: TrainableNetwork = "cnn_face"
MAX_SUBJECTS = 500
MIN_FRAMES = 5
"""Minimum number of frames of each subject, as of images of each class of a dataset."""

PRETRAINED: frozenset[TrainableNetwork] = frozenset({"efficientnet_lite0", "squeezenet", "vgg16"})
"""Networks with published weights; the others can only be trained from scratch."""

PHASES: dict[Strategy, tuple[Phase, ...]] = {
    "feature_extraction": ("head",),
    "fine_tuning": ("head", "finetune"),
    "from_scratch": ("scratch",),
}
"""The phases of each strategy, in order."""


class _Part(BaseModel):
    # Otherwise a misspelled field would be ignored and its default used.
    model_config = ConfigDict(frozen=True, extra="forbid")


class Head(_Part):
    """The classifier on top: pooling, dense layers, dropout and the output layer."""

    pooling: Literal["average", "flatten"] = Field(
        "average",
        description="How the last feature maps become a vector; flatten preserves positions.",
    )
    units: tuple[Annotated[int, Field(ge=1, le=8192)], ...] = Field(
        (256,),
        max_length=4,
        description="Units of the dense layers before the output layer; may be [].",
    )
    dropout: float = Field(0.3, ge=0, lt=1, description="Dropout rate.")
    output: Literal["softmax", "sigmoid"] = Field(
        "softmax",
        description="sigmoid: one unit for two classes, the probability of the second one.",
    )


class Epochs(_Part):
    """Maximum number of epochs of each phase; early stopping may end it sooner."""

    head: int = Field(10, ge=1, le=1000, description="Training the new head on the frozen base.")
    finetune: int = Field(10, ge=1, le=1000, description="Training with the upper layers unfrozen.")
    scratch: int = Field(30, ge=1, le=1000, description="Training from scratch.")


class LearningRate(_Part):
    """Initial learning rate of each phase."""

    head: float = Field(1e-3, gt=0, le=10)
    finetune: float = Field(1e-5, gt=0, le=10)
    scratch: float = Field(1e-3, gt=0, le=10)


class Augmentation(_Part):
    """Random changes of training images; validation and test images are not changed."""

    rotation: float = Field(
        0, ge=0, le=180, description="Maximum angle in degrees, in either direction."
    )
    width_shift: float = Field(
        0, ge=0, lt=1, description="Maximum horizontal shift, as a share of the width."
    )
    height_shift: float = Field(
        0, ge=0, lt=1, description="Maximum vertical shift, as a share of the height."
    )
    shear: float = Field(
        0, ge=0, le=1, description="Maximum shear, as the tangent of its angle: 0.2 is 11°."
    )
    zoom: float = Field(0, ge=0, lt=1, description="0.2 scales to between 0.8 and 1.2.")
    horizontal_flip: bool = Field(False, description="Mirror half of the images.")
    vertical_flip: bool = Field(False, description="Turn half of the images upside down.")
    brightness: float = Field(0, ge=0, lt=1, description="0.2 multiplies by 0.8 to 1.2.")
    fill_mode: FillMode = Field(
        "nearest", description="How pixels outside the original image are filled."
    )

    @property
    def active(self) -> bool:
        """Whether it changes any image."""
        return any(value for name, value in self if name != "fill_mode")


class TrainingRequest(_Part):
    """One training. All fields except the dataset, model and network have useful defaults."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "dataset_id": "ds_3fjt0wq8",
                    "model": "pets",
                    "network": "vgg16",
                    "strategy": "fine_tuning",
                    "unfreeze_from": "block5_conv1",
                    "augmentation": {"rotation": 20, "zoom": 0.2, "horizontal_flip": True},
                    "seed": 8,
                }
            ]
        }
    )

    dataset_id: str | None = Field(None, pattern=r"^ds_[A-Za-z0-9_-]{1,64}$")
    subjects: tuple[SubjectId, ...] | None = Field(
        None,
        min_length=2,
        max_length=MAX_SUBJECTS,
        description="Instead of a dataset, with `face_cnn`: enrolled subjects whose stored frames "
        "are the training images, one class each.",
    )
    model: ModelName = Field(description="Name of the model that gets a new version.")
    network: TrainableNetwork
    preset: str | None = Field(
        None,
        max_length=64,
        description="Provides defaults for fields that are not sent; see GET /v1/presets.",
    )
    strategy: Strategy = Field(
        "feature_extraction",
        description="Default: feature_extraction for networks with published weights, otherwise "
        "from_scratch.",
    )
    unfreeze_from: str | None = Field(
        None,
        max_length=64,
        description="fine_tuning: the lowest layer (block5_conv1) or block (block5) that is "
        "trained. Default: the network's last block.",
    )
    image_size: Side | tuple[Side, Side] | None = Field(
        None, description="Side in pixels, or [height, width]. Default: the network's own."
    )
    head: Head | None = Field(
        None,
        description="The classifier on top. Default: the network's own classifier if it is trained "
        "from scratch, otherwise one dense layer of 256 units.",
    )
    epochs: Epochs = Epochs()
    batch_size: int = Field(32, ge=1, le=1024)
    optimizer: Optimizer = "adam"
    learning_rate: LearningRate = LearningRate()
    schedule: Schedule = Field(
        "plateau",
        description="plateau: divide the rate by three when the validation loss has not improved "
        "for two epochs; cosine: decay to zero over the phase.",
    )
    augmentation: Augmentation = Augmentation()
    augmented_views: int = Field(
        4,
        ge=0,
        le=32,
        description="With augmentation on a frozen base: number of augmented views of each image "
        "whose features are cached. 0: the head is trained on the original images only.",
    )
    early_stopping_patience: int | None = Field(
        3,
        ge=1,
        le=1000,
        description="Number of epochs without a lower validation loss after which a phase ends; "
        "null: never. The best epoch's weights are kept in either case.",
    )
    class_weights: Literal["auto", "none"] | dict[str, ClassWeight] = Field(
        "auto", description="auto: rare classes get a higher weight; or a weight for each class."
    )
    l2: float = Field(0, ge=0, le=1, description="Factor of the L2 penalty on the trained kernels.")
    mixed_precision: Literal["auto", "on", "off"] = Field(
        "auto",
        description="auto: where it is faster, which is on a GPU of 2017 or later and, for a "
        "frozen base, on a processor with bfloat16 instructions; on: always; off: everything in "
        "float32. Reported metrics are never those of mixed precision: held-out images are "
        "evaluated by the runtime that serves, the others in float32.",
    )
    seed: int = Field(
        8, ge=0, le=2**31 - 1, description="The same seed, data and machine give the same result."
    )
    promote: Literal["if_better", "always", "never"] = Field(
        "if_better", description="Whether the new version becomes the champion."
    )
    filters_every: int = Field(
        0,
        ge=0,
        le=100_000,
        description="from_scratch: steps between two frames of filters.gif. 0: no frames.",
    )
    filters_layer: str | None = Field(
        None,
        max_length=64,
        description="The layer shown in filters.gif. Default: the first convolution.",
    )

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.dataset_id is None) == (self.subjects is None):
            raise ValueError("send either dataset_id or subjects")
        if self.subjects is None:
            return self
        if self.network != FACE_NETWORK:
            raise ValueError(f'subjects need "network": "{FACE_CNN}"; leave out the other network')
        if len(set(self.subjects)) < len(self.subjects):
            raise ValueError("name each subject only once")
        return self

    @model_validator(mode="before")
    @classmethod
    def _default_strategy(cls, data: Any) -> Any:
        # Before validation, so that the stored request contains the strategy.
        if isinstance(data, dict) and data.get("strategy") is None:
            network = data.get("network")  # may be any JSON value
            pretrained = isinstance(network, str) and network in PRETRAINED
            return data | {"strategy": "feature_extraction" if pretrained else "from_scratch"}
        return data

    @field_validator("class_weights")
    @classmethod
    def _has_positive_weight(cls, value: str | dict[str, float]) -> str | dict[str, float]:
        if isinstance(value, dict) and not any(value.values()):
            raise ValueError('give at least one class a weight above 0, or send "auto"')
        return value

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.strategy != "from_scratch" and self.network not in PRETRAINED:
            raise ValueError(
                f"there are no published weights for {self.network}, so it needs "
                f'"strategy": "from_scratch"; {", ".join(sorted(PRETRAINED))} can be fine-tuned'
            )
        if self.unfreeze_from is not None and self.strategy != "fine_tuning":
            raise ValueError('unfreeze_from needs "strategy": "fine_tuning"; leave it out')
        if self.filters_every and self.strategy != "from_scratch":
            raise ValueError('filters_every needs "strategy": "from_scratch"; leave it out')
        if self.filters_layer is not None and not self.filters_every:
            raise ValueError("filters_layer needs filters_every, the steps between two frames")
        return self

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases of the training, in order."""
        return PHASES[self.strategy]


class Preset(BaseModel):
    """A named training. Fields that are sent in a request take precedence over it."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(examples=["cats_dogs_frozen"])
    title: str = Field(description="What it does, in a few words.")
    description: str = Field(description="What it is for, and which tutorial it follows.")
    accuracy: str | None = Field(None, description="Accuracy usually reached on the full dataset.")
    request: dict[str, Any] = Field(
        description="The fields of `POST /v1/trainings` that it provides."
    )


class PresetList(BaseModel):
    """All presets."""

    items: list[Preset]
