"""What a training may be asked for: the body of `POST /v1/trainings`, checked before it queues.

Everything that can be known to be wrong without the pictures is refused here, in words that say
what to send instead, so that nobody waits in a queue for an error.

What `GET /v1/presets` tells: the trainings of the classic tutorials, by name.
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
"""What the API calls the classic frame classifier: the preset `faces` of the network `cnn_face`."""
FACE_NETWORK: TrainableNetwork = "cnn_face"
MOST_SUBJECTS = 500
LEAST_FRAMES = 5
"""Of each subject, as of each class of a dataset."""

PRETRAINED: frozenset[TrainableNetwork] = frozenset({"efficientnet_lite0", "squeezenet", "vgg16"})
"""The networks whose weights are published; the others can only start from nothing."""

PHASES: dict[Strategy, tuple[Phase, ...]] = {
    "feature_extraction": ("head",),
    "fine_tuning": ("head", "finetune"),
    "from_scratch": ("scratch",),
}
"""What a strategy does, in order."""


class _Part(BaseModel):
    # A misspelt field would silently be another training than the one asked for.
    model_config = ConfigDict(frozen=True, extra="forbid")


class Head(_Part):
    """The classifier on top: pooling, dense layers, dropout, and what makes probabilities."""

    pooling: Literal["average", "flatten"] = Field(
        "average", description="How the last maps become a vector; flatten keeps where things are."
    )
    units: tuple[Annotated[int, Field(ge=1, le=8192)], ...] = Field(
        (256,), max_length=4, description="Units of the dense layers before the last; may be []."
    )
    dropout: float = Field(
        0.3, ge=0, lt=1, description="Rate at which units before it are dropped."
    )
    output: Literal["softmax", "sigmoid"] = Field(
        "softmax",
        description="sigmoid: one unit that tells the second of two classes from the first.",
    )


class Epochs(_Part):
    """How often the pictures are gone through, at most; early stopping may end a phase before."""

    head: int = Field(10, ge=1, le=1000, description="Of the new head on the frozen base.")
    finetune: int = Field(10, ge=1, le=1000, description="With the upper layers unfrozen.")
    scratch: int = Field(30, ge=1, le=1000, description="Of a network that starts from nothing.")


class LearningRate(_Part):
    """What each phase begins with."""

    head: float = Field(1e-3, gt=0, le=10)
    finetune: float = Field(1e-5, gt=0, le=10)
    scratch: float = Field(1e-3, gt=0, le=10)


class Augmentation(_Part):
    """How training pictures are varied. Nothing of it touches validation or test pictures."""

    rotation: float = Field(0, ge=0, le=180, description="Up to so many degrees either way.")
    width_shift: float = Field(0, ge=0, lt=1, description="Sideways, as a share of the width.")
    height_shift: float = Field(0, ge=0, lt=1, description="Up or down, as a share of the height.")
    shear: float = Field(
        0, ge=0, le=1, description="Slant either way, as the tangent of its angle: 0.2 is 11°."
    )
    zoom: float = Field(0, ge=0, lt=1, description="0.2 scales to between 0.8 and 1.2.")
    horizontal_flip: bool = Field(False, description="Mirror every other picture.")
    vertical_flip: bool = Field(False, description="Turn every other picture upside down.")
    brightness: float = Field(0, ge=0, lt=1, description="0.2 multiplies by 0.8 to 1.2.")
    fill_mode: FillMode = Field("nearest", description="What shows where the picture moved away.")

    @property
    def active(self) -> bool:
        """Whether it changes any picture."""
        return any(value for name, value in self if name != "fill_mode")


class TrainingRequest(_Part):
    """One training. Everything but dataset, model and network has a default that works."""

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
        max_length=MOST_SUBJECTS,
        description="In place of a dataset, with `face_cnn`: the enrolled people whose kept "
        "frames are learned from, one class each.",
    )
    model: ModelName = Field(description="The model that gets a new version.")
    network: TrainableNetwork
    preset: str | None = Field(
        None, max_length=64, description="Fills in what is not sent; see GET /v1/presets."
    )
    strategy: Strategy = Field(
        "feature_extraction",
        description="Left out: feature_extraction where there are published weights, "
        "else from_scratch.",
    )
    unfreeze_from: str | None = Field(
        None,
        max_length=64,
        description="fine_tuning: the lowest layer (block5_conv1) or block (block5) that learns. "
        "Left out: the network's last block.",
    )
    image_size: Side | tuple[Side, Side] | None = Field(
        None, description="Side in pixels, or [height, width]. Left out: the network's own."
    )
    head: Head | None = Field(
        None,
        description="What comes on top. Left out: the network's own, as its authors drew it, if "
        "it starts from nothing; else one of 256 units.",
    )
    epochs: Epochs = Epochs()
    batch_size: int = Field(32, ge=1, le=1024)
    optimizer: Optimizer = "adam"
    learning_rate: LearningRate = LearningRate()
    schedule: Schedule = Field(
        "plateau",
        description="plateau: to a third when the validation loss has not fallen for two epochs; "
        "cosine: down to nothing over the phase.",
    )
    augmentation: Augmentation = Augmentation()
    augmented_views: int = Field(
        4,
        ge=0,
        le=32,
        description="With augmentation, how many variations of each picture a frozen base is run "
        "on and remembered; 0: none, the head learns from the pictures as they are.",
    )
    early_stopping_patience: int | None = Field(
        3,
        ge=1,
        le=1000,
        description="Epochs without a lower validation loss after which a phase ends; null: never. "
        "Either way the best epoch's weights are kept.",
    )
    class_weights: Literal["auto", "none"] | dict[str, ClassWeight] = Field(
        "auto", description="auto: rare classes count for more; or a weight for each class."
    )
    l2: float = Field(0, ge=0, le=1, description="Factor of the L2 penalty on kernels that learn.")
    mixed_precision: Literal["auto", "on", "off"] = Field(
        "auto",
        description="auto: where the machine gains by it, which is on a GPU of 2017 or later, and "
        "for a frozen base on a processor with units for bfloat16; on: always; off: all in "
        "float32. What a report says is measured in float32.",
    )
    seed: int = Field(
        8, ge=0, le=2**31 - 1, description="Same seed, same data, same machine: same result."
    )
    promote: Literal["if_better", "always", "never"] = Field(
        "if_better", description="Whether the new version becomes the champion."
    )
    filters_every: int = Field(
        0, ge=0, le=100_000, description="from_scratch: a frame of filters.gif every so many steps."
    )
    filters_layer: str | None = Field(
        None, max_length=64, description="Whose filters those are. Left out: the first convolution."
    )

    @model_validator(mode="after")
    def _learns_from_one_thing(self) -> Self:
        if (self.dataset_id is None) == (self.subjects is None):
            raise ValueError("send either dataset_id or subjects")
        if self.subjects is None:
            return self
        if self.network != FACE_NETWORK:
            raise ValueError(f'subjects need "network": "{FACE_CNN}"; leave the other one out')
        if len(set(self.subjects)) < len(self.subjects):
            raise ValueError("name each of the subjects once")
        return self

    @model_validator(mode="before")
    @classmethod
    def _strategy_of_the_network(cls, data: Any) -> Any:
        # Before validation, so that the record says which strategy it was.
        if isinstance(data, dict) and data.get("strategy") is None:
            network = data.get("network")  # anything that JSON can say
            pretrained = isinstance(network, str) and network in PRETRAINED
            return data | {"strategy": "feature_extraction" if pretrained else "from_scratch"}
        return data

    @field_validator("class_weights")
    @classmethod
    def _some_class_counts(cls, value: str | dict[str, float]) -> str | dict[str, float]:
        if isinstance(value, dict) and not any(value.values()):
            raise ValueError('give at least one class a weight above 0, or send "auto"')
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.strategy != "from_scratch" and self.network not in PRETRAINED:
            raise ValueError(
                f"there are no published weights for {self.network}, so it can only be trained "
                f'with "strategy": "from_scratch"; {", ".join(sorted(PRETRAINED))} can be tuned'
            )
        if self.unfreeze_from is not None and self.strategy != "fine_tuning":
            raise ValueError('unfreeze_from needs "strategy": "fine_tuning"; leave it out')
        if self.filters_every and self.strategy != "from_scratch":
            raise ValueError('filters_every needs "strategy": "from_scratch"; leave it out')
        if self.filters_layer is not None and not self.filters_every:
            raise ValueError("filters_layer needs filters_every: a frame every so many steps")
        return self

    @property
    def phases(self) -> tuple[Phase, ...]:
        """What will be done, in order."""
        return PHASES[self.strategy]


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
