"""What a training will cost: the expected seconds of each of its stages.

Each stage has a cost per unit: per image, per image and epoch, or once. The costs of earlier
trainings on this machine are kept in a small file; without them, those of a machine with two cores
are assumed and corrected by the pace of the running training. A wrong cost only makes the bar
uneven and the first estimate rough.
"""

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from contracts.settings import Settings
from contracts.training.trainings import Phase, TrainableNetwork, TrainingRequest
from models.datasets.dataset import Dataset
from models.store.manifest import write_atomically
from models.training.loop.network_defaults import NETWORK_DEFAULTS, input_size_of

_LOG = logging.getLogger(__name__)

# Seconds that a forward pass of one image takes at the network's default size.
_FORWARD: dict[TrainableNetwork, float] = {
    "efficientnet_lite0": 0.03,
    "squeezenet": 0.015,
    "vgg16": 0.25,
    "vgg19": 0.3,
    "vgg19_bn": 0.012,
    "cnn_mnist": 0.0006,
    "cnn_small": 0.0004,
    "cnn_pets": 0.001,
    "cnn_face": 0.001,
}
# Seconds of the stages that happen once: more layers are more to trace, more weights more to write.
_ONCE: dict[str, dict[str, float]] = {
    "small": {"build": 0.1, "export": 1.5, "load": 1.2},
    "squeezenet": {"build": 0.4, "export": 7, "load": 2.7},
    "vgg16": {"build": 2, "export": 9, "load": 6},
    "vgg19": {"build": 2, "export": 10, "load": 7},
    "efficientnet_lite0": {"build": 1.2, "export": 18, "load": 3.5},
}
# Of each class, and of four more for what every report has.
_REPORT = {"small": 0.1, "squeezenet": 0.2, "vgg16": 0.3, "vgg19": 0.3, "efficientnet_lite0": 0.15}
# The start of a process is not that of its libraries: the first shows how fast the machine is.
_FIXED = {"start": 1.2, "loading": 4.0, "data": 0.1, "publish": 0.2, "promote": 0.1}
_MAX_RATIO = 50.0
PLAN = "expected-seconds.json"
"""In a job's folder: what is expected of its stages, the same in every attempt."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage.

    Attributes:
        key: Under which its cost per unit is kept.
        units: How many units it has.
        default: Seconds per unit, if none are kept.
    """

    key: str
    units: float
    default: float


class CostFile:
    """The costs per unit that earlier trainings had, in one JSON file. Losing it loses little."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._costs = _read(path)

    def seconds(self, stages: Mapping[str, Stage]) -> dict[str, float]:
        """The expected seconds of each stage."""
        ratios = [
            self._costs[stage.key] / stage.default
            for stage in stages.values()
            if stage.key in self._costs and stage.default > 0
        ]
        # Of a machine that is twice as fast as assumed, all unknown stages are expected to be so.
        usual = median(ratios) if ratios else 1.0
        return {
            name: stage.units * self._costs.get(stage.key, stage.default * usual)
            for name, stage in stages.items()
        }

    def learn(
        self,
        stages: Mapping[str, Stage],
        expected: Mapping[str, float],
        ratios: Mapping[str, float],
    ) -> None:
        """Keep what a training has measured.

        Args:
            stages: Its stages.
            expected: The seconds that were expected of each.
            ratios: Those that it took in proportion to the expected ones, if that was measured.
        """
        for name, ratio in ratios.items():
            stage = stages[name]
            if ratio <= 1 / _MAX_RATIO:
                # Nothing runs that fast by chance: the cost was of another machine or disturbed.
                self._costs.pop(stage.key, None)
                continue
            if stage.units <= 0:
                continue
            # Limited: the machine may have been asleep. If it was not, the next one goes further.
            cost = expected[name] / stage.units * min(ratio, _MAX_RATIO)
            known = self._costs.get(stage.key)
            # The last ones count most, but one training beside much other work must not rule.
            self._costs[stage.key] = cost if known is None else (known * cost) ** 0.5
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, json.dumps(self._costs, indent=1, sort_keys=True))
        except OSError as error:
            _LOG.warning("the costs of the training are not kept: %s", error.strerror)


def costs_of(settings: Settings) -> CostFile:
    """The costs of the trainings on this machine."""
    return CostFile(settings.home / "cache" / "training-costs.json")


def stages_of(
    request: TrainingRequest, dataset: Dataset, *, starts: bool, loads: bool
) -> dict[str, Stage]:
    """The stages of a training, in order.

    Args:
        request: The training.
        dataset: Its images.
        starts: Whether the start of its process counts.
        loads: Whether it waits until workers have loaded the version.
    """
    first = ("start", "loading", "data") if starts else ("data",)
    stages = {name: _once(request, name) for name in first}
    stages |= learning_stages(request, dataset)
    held_out = dataset.of("test") or dataset.of("validation") or dataset.of("train")
    forward = _forward_seconds(request)
    stages["export"] = _once(request, "export")
    stages["check"] = Stage(_key(request, "check"), len(held_out), 0.6 * forward + 0.001)
    of_class = _REPORT.get(request.network, _REPORT["small"])
    key = _key(request, "report of a class")
    stages["report"] = Stage(key, 4 + len(dataset.classes), of_class)
    stages |= {name: _once(request, name) for name in ("publish", "promote")}
    if loads and request.promote != "never":
        stages["load"] = _once(request, "load")
    return stages


def learning_stages(request: TrainingRequest, dataset: Dataset) -> dict[str, Stage]:
    """The stages from building the network to its evaluation."""
    count, training = len(dataset.examples), len(dataset.of("train"))
    views = request.cached_views
    forward = _forward_seconds(request)
    # Of an image in an epoch: training and validation together.
    per_epoch = {
        "head": 0.0004 if _is_cached(request, "head") else forward,
        "finetune": 1.2 * forward,
        "scratch": 3.2 * forward,
    }
    stages = {"build": _once(request, "build")}
    for phase in request.phases:
        cached = _is_cached(request, phase)
        if cached:
            images = count + views * training * (phase == "head")
            stages[f"features of {phase}"] = Stage(
                _key(request, f"features of {phase}"), images, forward
            )
        epochs = getattr(request.epochs, phase)
        # Cached features cost a small part of what the images themselves do.
        key = phase if cached or phase == "scratch" else f"{phase} on images"
        stages[phase] = Stage(_key(request, key), epochs * training, per_epoch[phase])
    last = request.phases[-1]
    key, evaluated = (
        ("evaluate", 0.001)
        if _is_cached(request, last)
        else ("evaluate" if last == "scratch" else "evaluate on images", forward)
    )
    stages["evaluate"] = Stage(_key(request, key), count, evaluated)
    return stages


def _is_cached(request: TrainingRequest, phase: Phase) -> bool:
    """Whether a phase trains on the cached features of a frozen base, as in the trainer."""
    fresh = phase == "finetune" or request.augmented_views == "fresh"
    return phase != "scratch" and not (fresh and request.augmentation.active)


def _once(request: TrainingRequest, name: str) -> Stage:
    if name in _FIXED:
        key = {"start": "process", "loading": "libraries"}.get(name) or _key(request, name)
        return Stage(key, 1, _FIXED[name])
    return Stage(_key(request, name), 1, _ONCE.get(request.network, _ONCE["small"])[name])


def _forward_seconds(request: TrainingRequest) -> float:
    return _FORWARD[request.network] * _relative_area(request)


def _relative_area(request: TrainingRequest) -> float:
    """The input's area in proportion to the network's default."""
    default = NETWORK_DEFAULTS[request.network].input_size
    height, width = input_size_of(request)
    return height * width / (default[0] * default[1])


def _key(request: TrainingRequest, stage: str) -> str:
    size = request.image_size
    sides = "" if size is None else f"@{size}" if isinstance(size, int) else f"@{size[0]}x{size[1]}"
    return f"{request.network}{sides} {stage}"


def _read(path: Path) -> dict[str, float]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {
        str(key): float(value)
        for key, value in content.items()
        if isinstance(value, int | float) and 0 < value < 1e6
    }


def expected_seconds(path: Path, costs: CostFile, stages: Mapping[str, Stage]) -> dict[str, float]:
    """The expected seconds of a training's stages: the same in all its attempts.

    Args:
        path: Where they are kept for the next attempt.
        costs: Those of earlier trainings.
        stages: Its stages.
    """
    kept = _read(path)
    if kept.keys() == stages.keys():
        return {name: kept[name] for name in stages}
    expected = {name: max(value, 1e-3) for name, value in costs.seconds(stages).items()}
    with suppress(OSError):  # then the next attempt may expect something else
        write_atomically(path, json.dumps(expected))
    return expected
