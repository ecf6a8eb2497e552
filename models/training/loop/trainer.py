"""A training from the first picture to the finished network: phases, and what each one needs.

    trained = train(request, dataset, work, workshop)

A pure library: it knows neither jobs nor requests over HTTP. Killed at any moment and called again
with the same `work.folder`, it goes on from its last checkpoint and ends with the same figures.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import keras
import numpy as np
import tensorflow as tf

from contracts.inference.manifest import Provenance
from contracts.training.trainings import Phase, TrainingRequest
from contracts.work import Work
from models.datasets.dataset import SPLITS, Dataset, Split
from models.store.labels import Label
from models.training.data.feature_cache import FeatureCache
from models.training.data.features import Extractor, compiled
from models.training.data.image_loader import Pictures
from models.training.data.sources import FeatureSource, PictureSource, Source, as_they_are, in_graph
from models.training.loop.assembly import assemble, build_network
from models.training.loop.checkpoint import Checkpoint, CheckpointFile
from models.training.loop.freezing import cut_below, freeze
from models.training.loop.hardware import Hardware
from models.training.loop.learner import Learner
from models.training.loop.phase import Lesson, PhaseRun, Supervision, judged, look
from models.training.loop.progress import Pace
from models.training.loop.recipe import RECIPES, blueprint_of, input_size_of
from models.training.loop.state import State
from models.training.report.filters import FilterFrames
from models.training.trained import Evaluation, Trained
from models.training.validation import check_classes, check_network, class_weights
from models.weights.catalog import Weights


@dataclass(frozen=True, slots=True)
class Workshop:
    """What a training finds where it runs.

    Attributes:
        weights: Where base weights are looked for. Nothing is downloaded.
        cache: Where features are remembered.
        max_pixels: Largest picture that is decoded.
        memory_bytes: What decoded pictures may take; more are decoded again in every epoch.
        threads: How many threads decode.
        checkpoint_seconds: The most that a kill may cost, about.
    """

    weights: Weights
    cache: FeatureCache
    max_pixels: int = 50_000_000
    memory_bytes: int = 1024**3
    threads: int = os.cpu_count() or 1
    checkpoint_seconds: float = 30.0


def train(request: TrainingRequest, dataset: Dataset, work: Work, workshop: Workshop) -> Trained:
    """Train a network.

    Args:
        request: What is asked for.
        dataset: To learn from.
        work: Is asked at every step whether to go on, and is told how far it is.
        workshop: What there is to work with.

    Raises:
        ValidationFailed: Request and dataset do not fit together; says what to change.
        WeightsMissing: The base's weights are not on this machine; says how to get them.
        WorkStoppedError: It was told to end.
    """
    with contextlib.ExitStack() as stack:
        return _Training(request, dataset, work, workshop, stack).run()


class _Training:
    """One call of `train`."""

    def __init__(
        self,
        request: TrainingRequest,
        dataset: Dataset,
        work: Work,
        workshop: Workshop,
        stack: contextlib.ExitStack,
    ) -> None:
        check_classes(request, dataset)
        check_network(request)
        self.request, self.dataset, self.work, self.workshop = request, dataset, work, workshop
        self.blueprint = blueprint_of(request)
        self.hardware = Hardware.of(request)
        # All that Keras draws from now on follows the seed: first weights, and dropout.
        keras.utils.set_random_seed(request.seed)
        with self.hardware.building():
            self.assembly = assemble(request, len(dataset.classes), workshop.weights)
        self.truth = {
            split: np.array(
                [dataset.classes.index(one.label) for one in dataset.of(split)], np.int32
            )
            for split in SPLITS
        }
        self.pictures = {split: stack.enter_context(self._pictures(split)) for split in SPLITS}
        self.pace = Pace(work, self._stages())
        self.frames = FilterFrames.of(request, self.assembly.model, work.folder)
        self.supervision = Supervision(
            work=work,
            pace=self.pace,
            file=CheckpointFile(work.folder / "checkpoint.npz", self._fingerprint()),
            checkpoint_seconds=workshop.checkpoint_seconds,
            stepped=self.frames.stepped if self.frames else lambda _steps: None,
        )

    def run(self) -> Trained:
        request, resumed = self.request, self.supervision.file.read()
        phases = request.phases
        if resumed:
            state, begin = resumed.state, phases.index(resumed.state.phase)
            for row in state.history:
                self.work.metrics(row)
        else:
            state, begin = State(phase=phases[0], learning_rate=self._rate(phases[0])), 0
        for phase in phases[begin:]:
            if phase != state.phase:
                state = state.begin(phase, self._rate(phase))
            learner, lessons = self._phase(phase, state, resumed)
            resumed = None
        return self._finish(state, learner, lessons)

    def _phase(
        self, phase: Phase, state: State, resumed: Checkpoint | None
    ) -> tuple[Learner, dict[Split, Lesson]]:
        """Do a phase, or what is left of it."""
        freeze(self.assembly, phase, self.request.unfreeze_from or self._last_block())
        began = time.monotonic()
        sources, model, prepare, look_at = self._material(phase)
        if not isinstance(sources["train"], PictureSource):
            state.seconds["features"] = (
                state.seconds.get("features", 0.0) + time.monotonic() - began
            )
        learner = Learner(
            model,
            optimizer=self.request.optimizer,
            learning_rate=self._rate(phase),
            l2=self.request.l2,
            prepare=prepare,
            look=look_at,
            hardware=self.hardware,
        )
        if resumed:
            learner.restore(resumed.learned)
            learner.restore_optimizer(resumed.optimizer)
        lessons = {split: Lesson(sources[split], self.truth[split]) for split in SPLITS}
        PhaseRun(
            self.request,
            state,
            learner,
            train=lessons["train"],
            validation=lessons["validation"] if len(self.truth["validation"]) else None,
            class_weights=class_weights(self.request, self.dataset),
            supervision=self.supervision,
            best=resumed.best if resumed else {},
        ).run()
        return learner, lessons

    def _material(
        self, phase: Phase
    ) -> tuple[dict[Split, Source], keras.Model, Callable[..., object], Callable[..., object]]:
        """What a phase learns from and what of the network learns: all, or what is above a cut."""
        request = self.request
        augmentation = request.augmentation
        extractor = self._extractor(phase)
        if extractor is None:
            pictures: dict[Split, Source] = {
                split: PictureSource(self.pictures[split], augmentation, request.seed, phase)
                for split in SPLITS
            }
            prepare = in_graph(self.blueprint.preprocessing, augmentation.fill_mode)
            return pictures, self.assembly.model, prepare, prepare
        stage, done = f"features of {phase}", 0
        total = sum(len(self.pictures[split]) for split in SPLITS)
        total += extractor.views * len(self.pictures["train"])

        def told(count: int) -> None:
            nonlocal done
            done += count
            self.work.check()
            self.pace.at(stage, done / total)

        measuring = self._measuring(extractor)
        features: dict[Split, Source] = {}
        for split in SPLITS:
            run = (extractor if split == "train" else measuring).run
            folder = self.work.folder / "features" / split
            features[split] = FeatureSource(
                run(self.pictures[split], folder, told), request.seed, phase
            )
        return features, extractor.cut.tail, as_they_are, as_they_are

    def _extractor(self, phase: Phase) -> Extractor | None:
        """For the part of the network that stays as it is, if it pays to remember its answers."""
        request = self.request
        varied = request.augmentation.active
        if phase == "scratch" or (phase == "finetune" and varied):
            return None
        cut = cut_below(self.assembly.model)
        if cut is None:
            return None
        views = request.augmented_views if varied else 0
        cache, precision = self.workshop.cache, self.hardware.learning_features(request)
        mode = request.augmentation.fill_mode
        forward = compiled(cut.trunk, self.blueprint, mode, precision)
        extractor = Extractor(
            cut, self.blueprint, cache, request.augmentation, forward, views, precision
        )
        # What would not fit into the cache would be computed, written and thrown away.
        return (
            extractor if extractor.size(len(self.dataset.examples)) <= cache.limit_bytes else None
        )

    def _measuring(self, extractor: Extractor) -> Extractor:
        """For pictures that are only judged by: as they are, and in float32."""
        if extractor.precision == "float32":
            return replace(extractor, views=0)
        forward = compiled(extractor.cut.trunk, self.blueprint, "nearest")
        return replace(extractor, views=0, forward=forward, precision="float32")

    def _finish(self, state: State, learner: Learner, lessons: dict[Split, Lesson]) -> Trained:
        began = time.monotonic()
        model = self._finished_model()
        if self.hardware.policy != "float32":
            learner, lessons = self._in_full_precision(model)
        evaluations: dict[Split, Evaluation] = {}
        for number, split in enumerate(SPLITS):
            self.pace.at("evaluate", number / len(SPLITS))
            if len(self.truth[split]):
                evaluations[split] = self._evaluation(split, learner, lessons[split])
        self.pace.at("evaluate", 1.0)
        request = self.request
        return Trained(
            request=request,
            model=model,
            blueprint=self.blueprint,
            labels=tuple(Label(name, name) for name in self.dataset.classes),
            history=tuple(state.history),
            evaluations=evaluations,
            phase_seconds=state.seconds | {"evaluate": time.monotonic() - began},
            best_epochs=state.best_epochs,
            provenance=Provenance(
                weights=self.assembly.weights,
                dataset_digest=self.dataset.digest,
                job_id=self.work.job_id,
            ),
            devices=self.hardware.names,
            filters=self.frames.all() if self.frames else (),
        )

    def _in_full_precision(self, model: keras.Model) -> tuple[Learner, dict[Split, Lesson]]:
        """The finished network on the pictures: what was learned in halves answers otherwise."""
        request = self.request
        look_at = in_graph(self.blueprint.preprocessing, request.augmentation.fill_mode)
        learner = Learner(
            model,
            optimizer="sgd",  # never used: it only looks
            learning_rate=1.0,
            l2=0.0,
            prepare=look_at,
            look=look_at,
            hardware=Hardware("float32", tf.distribute.get_strategy(), self.hardware.names),
        )
        phase = request.phases[-1]
        sources = {
            split: PictureSource(self.pictures[split], request.augmentation, request.seed, phase)
            for split in SPLITS
        }
        return learner, {split: Lesson(sources[split], self.truth[split]) for split in SPLITS}

    def _evaluation(self, split: Split, learner: Learner, lesson: Lesson) -> Evaluation:
        size = min(self.request.batch_size, len(lesson.truth))
        answers = [given for _, given in look(learner, lesson, size, self.supervision)]
        probabilities = np.concatenate(answers)
        loss, correct = judged(probabilities, lesson.truth)
        count = len(lesson.truth)
        return Evaluation(
            self.dataset.of(split), lesson.truth, probabilities, loss / count, correct / count
        )

    def _finished_model(self) -> keras.Model:
        """A network of its own with the learned weights: float32, on one device, never cut."""
        finished = build_network(self.request, len(self.dataset.classes))
        for layer in finished.layers:
            if layer.weights:
                layer.set_weights(self.assembly.model.get_layer(layer.name).get_weights())
        return finished

    def _pictures(self, split: Split) -> Pictures:
        examples, everything = self.dataset.of(split), len(self.dataset.examples)
        workshop = self.workshop
        return Pictures(
            examples,
            self.blueprint,
            input_size_of(self.request),
            max_pixels=workshop.max_pixels,
            memory_bytes=workshop.memory_bytes * len(examples) // everything,
            threads=workshop.threads,
        )

    def _stages(self) -> dict[str, float]:
        """Guesses at what the stages cost, in forward passes of the whole network."""
        count, learning = len(self.dataset.examples), len(self.truth["train"])
        views = self.request.augmented_views if self.request.augmentation.active else 0
        costs: dict[str, float] = {}
        for phase in self.request.phases:
            epochs = getattr(self.request.epochs, phase)
            if phase != "scratch":
                costs[f"features of {phase}"] = float(count + views * learning * (phase == "head"))
            costs[phase] = (
                epochs * learning * {"head": 0.01, "finetune": 1.0, "scratch": 3.0}[phase]
            )
        return costs | {"evaluate": 0.1 * count}

    def _fingerprint(self) -> str:
        """What a checkpoint must have been written for."""
        weights = self.assembly.weights
        said = [
            self.request.model_dump_json(),
            self.dataset.digest,
            weights.model_dump_json() if weights else "",
            self.hardware.policy,
            self.hardware.learning_features(self.request),
            keras.__version__,
        ]
        return hashlib.sha256("\n".join(said).encode()).hexdigest()

    def _rate(self, phase: Phase) -> float:
        rate: float = getattr(self.request.learning_rate, phase)
        return rate

    def _last_block(self) -> str | None:
        return RECIPES[self.request.network].last_block
