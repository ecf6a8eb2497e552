"""Schemas of training requests (`POST /v1/trainings`) and of presets (`GET /v1/presets`).

Whatever can be validated without the images is validated here, before the training is queued, with
messages that say what to send instead.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from contracts.bodies import at_most
from contracts.inference.inference import Resize
from contracts.inference.manifest import ModelName
from contracts.pages import Page
from contracts.training.training_options import (
    Augmentation,
    Epochs,
    Head,
    LearningRate,
    Part,
    Rate,
    StepSchedule,
    VersionChoice,
    VersionRef,
)

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
Schedule = Literal["plateau", "cosine", "constant", "step"]
ColorMode = Literal["rgb", "grayscale"]
Centering = Literal["none", "mean", "standard"]
LayerName = Annotated[str, Field(max_length=64)]
Side = Annotated[int, Field(ge=16, le=1024)]
ClassWeight = Annotated[float, Field(ge=0, le=1e6)]
ClassName = Annotated[str, Field(min_length=1, max_length=255)]
SubjectId = Annotated[str, Field(pattern=r"^sub_[A-Za-z0-9_-]{1,60}$")]

FACE_CNN = "face_cnn"
"""The API's name of the preset `faces_tuned` of the network `cnn_face`."""
FACE_NETWORK: TrainableNetwork = "cnn_face"
MAX_CLASSES = 1000
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


def last_phase(training: Mapping[str, Any]) -> Phase | None:
    """The last phase of a training, which needs the most memory; None without a strategy.

    Args:
        training: A `TrainingRequest` as JSON.
    """
    strategy = training.get("strategy")
    return PHASES[strategy][-1] if strategy in PHASES else None


_ADDED_FIELDS = (
    *("classes", "resize", "color_mode", "centering", "pool_dropout", "log_every"),
    *("momentum", "decay", "l2", "from_version", "initial_weights"),
)
_ADDED_AUGMENTATION = ("shear_degrees", "channel_shift", "cval")


class TrainingRequest(Part):
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
    subjects: Annotated[tuple[SubjectId, ...] | None, at_most(MAX_SUBJECTS)] = Field(
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
    from_version: VersionChoice | None = Field(
        None,
        description="Go on from this version of the model, or of another one: its weights are the "
        "initial ones, and its network, image size and head are the defaults. The dataset has all "
        "of its classes, and may have more, which get new outputs; to leave some out, name the "
        "others in `classes`.",
    )
    initial_weights: VersionRef | Annotated[str, Field(max_length=64)] | None = Field(
        None,
        description="from_scratch: the initial weights of all layers that have the same name and "
        "shape in a version, or in a published file, e.g. vgg19_notop; the others are random.",
    )
    classes: Annotated[tuple[ClassName, ...] | None, at_most(MAX_CLASSES)] = Field(
        None,
        min_length=2,
        max_length=MAX_CLASSES,
        description="Only these classes of the dataset. Default: all.",
    )
    unfreeze_from: LayerName | Annotated[int, Field(ge=0, le=1000)] | None = Field(
        None,
        description="fine_tuning: the lowest layer (block5_conv1) or block (block5) that is "
        "trained, or how many layers of the base stay frozen, the input counted as in Keras. "
        "Default: the network's last block.",
    )
    image_size: Side | tuple[Side, Side] | None = Field(
        None, description="Side in pixels, or [height, width]. Default: the network's own."
    )
    color_mode: ColorMode = Field(
        "rgb", description="grayscale: the network gets one channel; needs from_scratch."
    )
    centering: Centering = Field(
        "none",
        description="Subtract the mean of each channel of the training images (mean), or also "
        "divide by its standard deviation (standard). Kept in the version; needs from_scratch.",
    )
    resize: Resize = Field(
        "crop",
        description="How an image becomes the input, in training and when the version is served: "
        "`crop` keeps the proportions and cuts off what is outside, `squash` keeps everything.",
    )
    head: Head | None = Field(
        None,
        description="The classifier on top. Default: the network's own classifier if it is trained "
        "from scratch, otherwise one dense layer of 256 units.",
    )
    pool_dropout: Rate | None = Field(
        None,
        description="The tutorials' small networks (cnn_…): dropout rate after each pooling. "
        "Default: the network's own, which is 0.8 for cnn_pets and otherwise 0.",
    )
    epochs: Epochs = Epochs()
    batch_size: int = Field(32, ge=1, le=1024)
    optimizer: Optimizer = "adam"
    learning_rate: LearningRate = LearningRate()
    schedule: Schedule | StepSchedule = Field(
        "plateau",
        description="plateau: divide the rate by three when the validation loss has not improved "
        "for two epochs; cosine: decay to zero over the phase; step: a tenth after half and after "
        "three quarters of the epochs, or as in an object with `at` and `factor`.",
    )
    momentum: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="sgd (Nesterov's) and rmsprop only. Default: 0.9 with sgd, 0 with rmsprop.",
    )
    decay: float = Field(
        0, ge=0, le=1, description="The rate is divided by 1 + decay * steps, as in Keras 1 and 2."
    )
    augmentation: Augmentation = Augmentation()
    augmented_views: Annotated[int, Field(ge=0, le=32)] | Literal["fresh"] = Field(
        4,
        description="With augmentation on a frozen base: number of augmented views of each image "
        "whose features are cached. 0: the head is trained on the original images only. fresh: a "
        "new view in every epoch, which runs the base each time.",
    )
    early_stopping_patience: int | None = Field(
        3,
        ge=1,
        le=1000,
        description="Number of epochs without a lower validation loss after which a phase ends; "
        "null: never. The best epoch's weights are kept in either case.",
    )
    class_weights: Annotated[
        Literal["auto", "none"] | dict[str, ClassWeight], at_most(MAX_CLASSES)
    ] = Field(
        "auto", description="auto: rare classes get a higher weight; or a weight for each class."
    )
    l2: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Factor of the L2 penalty on the trained kernels. Default: the network's own, "
        "which is 5e-4 for vgg19_bn and otherwise 0.",
    )
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
    log_every: int = Field(
        0,
        ge=0,
        le=100_000,
        description="Steps between two points of the TensorBoard log within an epoch; the test "
        "images are then measured after each epoch too, for the log alone. 0: a point an epoch.",
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
    def _suits_its_strategy(self) -> Self:
        scratch = self.strategy == "from_scratch"
        if not scratch and self.initial_weights is not None:
            raise ValueError(
                'initial_weights needs "strategy": "from_scratch"; the other strategies start from '
                "the network's published weights"
            )
        if not scratch and self.network not in PRETRAINED:
            raise ValueError(
                f"there are no published weights for {self.network}, so it needs "
                f'"strategy": "from_scratch"; {", ".join(sorted(PRETRAINED))} can be fine-tuned'
            )
        if not scratch and self.color_mode == "grayscale":
            raise ValueError(
                'the published weights need three channels; send "color_mode": "rgb" (gray images '
                'are fine) or "strategy": "from_scratch"'
            )
        if not scratch and self.centering != "none":
            raise ValueError(
                "published weights have their own centering; leave out centering, or send "
                '"strategy": "from_scratch"'
            )
        if self.unfreeze_from is not None and self.strategy != "fine_tuning":
            raise ValueError('unfreeze_from needs "strategy": "fine_tuning"; leave it out')
        if self.epochs.head == 0 and self.strategy == "feature_extraction":
            raise ValueError('epochs.head: 0 needs "strategy": "fine_tuning"')
        return self

    @model_validator(mode="after")
    def _suits_its_network(self) -> Self:
        if self.pool_dropout is not None and not self.network.startswith("cnn_"):
            raise ValueError(f"pool_dropout: {self.network} has none; leave it out")
        if self.momentum is not None and self.optimizer not in {"sgd", "rmsprop"}:
            raise ValueError('momentum needs "optimizer": "sgd" or "rmsprop"; leave it out')
        return self

    @model_validator(mode="after")
    def _has_valid_filters(self) -> Self:
        if self.filters_every and self.strategy != "from_scratch":
            raise ValueError('filters_every needs "strategy": "from_scratch"; leave it out')
        if self.filters_layer is not None and not self.filters_every:
            raise ValueError("filters_layer needs filters_every, the steps between two frames")
        return self

    @model_validator(mode="after")
    def _has_one_beginning(self) -> Self:
        if self.from_version is None:
            return self
        if self.initial_weights is not None:
            raise ValueError("send either from_version or initial_weights")
        if self.subjects is not None:
            raise ValueError(
                "from_version: leave it out; a training on subjects starts from new weights"
            )
        return self

    @model_validator(mode="after")
    def _has_valid_classes(self) -> Self:
        if self.classes is None:
            return self
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("classes: name each class only once")
        if self.subjects is not None:
            raise ValueError("classes: name only the subjects instead")
        return self

    def as_job(self) -> dict[str, Any]:
        """The request of a job: what a job worker of the release before can read, if it could run.

        It refuses fields that it does not know, so those are left out where they change nothing.
        """
        job = self.model_dump(mode="json")
        added: tuple[tuple[dict[str, Any], BaseModel, tuple[str, ...]], ...] = (
            (job, self, _ADDED_FIELDS),
            (job["augmentation"], self.augmentation, _ADDED_AUGMENTATION),
        )
        for fields, model, names in added:
            for name in names:
                if getattr(model, name) == type(model).model_fields[name].default:
                    del fields[name]
        return job

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases of the training, in order."""
        if self.strategy == "fine_tuning" and self.epochs.head == 0:
            return ("finetune",)
        return PHASES[self.strategy]

    @property
    def parent(self) -> VersionRef | None:
        """The version that it goes on from."""
        if self.from_version is None or isinstance(self.from_version, VersionRef):
            return self.from_version
        return VersionRef(model=self.model, version=self.from_version)

    @property
    def has_independent_outputs(self) -> bool:
        """Whether each class has a sigmoid of its own."""
        if self.head is not None:
            return self.head.output == "independent"
        return self.network == FACE_NETWORK

    @property
    def cached_views(self) -> int:
        """Number of augmented views whose features are cached."""
        if not self.augmentation.active or self.augmented_views == "fresh":
            return 0
        return self.augmented_views


class Preset(BaseModel):
    """A named training. Fields that are sent in a request take precedence over it."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(examples=["cats_dogs_frozen"])
    title: str = Field(description="What it does, in a few words.")
    description: str = Field(description="What it is for, and which tutorial it follows.")
    accuracy: str | None = Field(
        None,
        description="Accuracy that was published for it, and on how many images if not on the full "
        "dataset. What other images reach is another figure.",
        examples=["93% with 2,000 images"],
    )
    request: dict[str, Any] = Field(
        description="The fields of `POST /v1/trainings` that it provides."
    )


class PresetList(Page[Preset]):
    """A page of presets."""
