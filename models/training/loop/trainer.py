"""A training from the first image to the finished network: its phases, and what each one needs.

    trained = train(request, dataset, work, environment)

A pure library that knows neither jobs nor HTTP. If it is killed at any time and called again with
the same `work.folder`, it resumes from its last checkpoint and ends with the same figures.
"""

import contextlib
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import keras
import numpy as np
import tensorflow as tf

from contracts.files import has_room
from contracts.inference.manifest import Provenance
from contracts.settings import MAX_IMAGE_PIXELS, MIB
from contracts.training.trainings import Phase, TrainingRequest
from contracts.work import Work
from models.datasets.dataset import SPLITS, Dataset, Split
from models.images.decode import InputSpec
from models.store.labels import Label
from models.store.store import Store
from models.training.data.feature_cache import FeatureCache
from models.training.data.features import MEMORY_BYTES, FeatureExtractor, compile_trunk
from models.training.data.image_loader import ImageLoader
from models.training.data.sources import (
    FeatureSource,
    ImageSource,
    Preprocess,
    Source,
    augment_and_preprocess,
    identity,
)
from models.training.loop.assembly import (
    Assembly,
    ChannelStatistics,
    assemble,
    build_network,
)
from models.training.loop.centering import channel_statistics
from models.training.loop.checkpoint import Checkpoint, CheckpointFile
from models.training.loop.costs import learning_stages
from models.training.loop.freezing import cut_below, freeze
from models.training.loop.hardware import Hardware
from models.training.loop.initial import go_on_from, read_initial_weights, start_from
from models.training.loop.learner import Learner, Objective
from models.training.loop.network_defaults import (
    NETWORK_DEFAULTS,
    blueprint_of,
    channels_of,
    input_size_of,
)
from models.training.loop.phase import (
    LabeledSource,
    PhaseData,
    PhaseRun,
    TrainingHooks,
    class_weights,
    loss_and_correct,
    predict_batches,
)
from models.training.loop.progress import ProgressReporter
from models.training.loop.state import TrainingState
from models.training.report.event_log import EventLog
from models.training.report.filter_recorder import FilterRecorder, response_of
from models.training.trained import Evaluation, TrainedModel
from models.training.validation import check_dataset, check_network
from models.weights.catalog import Weights

_LOG = logging.getLogger(__name__)

_FEATURES = "features"  # of frozen bases, if they do not fit into memory


@dataclass(frozen=True, slots=True)
class TrainingEnvironment:
    """The resources of the machine that a training may use.

    Attributes:
        weights: Where base weights are looked for. Nothing is downloaded.
        cache: Stores features of frozen bases.
        max_pixels: Largest image that is decoded.
        memory_bytes: Memory for decoded images; if they need more, every epoch decodes them again.
        threads: Number of decoding threads.
        checkpoint_seconds: Time between two checkpoints, about.
        store: Where the versions are that a training may go on from.
    """

    weights: Weights
    cache: FeatureCache
    max_pixels: int = MAX_IMAGE_PIXELS
    memory_bytes: int = 1024**3
    threads: int = os.cpu_count() or 1
    checkpoint_seconds: float = 30.0
    store: Store | None = None


def train(
    request: TrainingRequest,
    dataset: Dataset,
    work: Work,
    environment: TrainingEnvironment,
    progress: ProgressReporter | None = None,
    *,
    log: EventLog | None = None,
) -> TrainedModel:
    """Train a network.

    Args:
        request: The training.
        dataset: The images to train, validate and test on.
        work: Checked for cancellation at every step; receives progress and metrics.
        environment: What it may use.
        progress: Knows the stages in `models.training.loop.costs.learning_stages`; made by default.
        log: Receives the graph, histograms of the weights and points within epochs.

    Raises:
        ValidationFailed: Request and dataset do not fit together; says what to change.
        WeightsMissing: The base's weights are not on this machine; says how to get them.
        WorkStoppedError: The job was cancelled or lost.
    """
    if progress is None:
        stages = learning_stages(request, dataset)
        costs = {name: stage.units * stage.default for name, stage in stages.items()}
        progress = ProgressReporter(work, costs)
    with contextlib.ExitStack() as stack:
        shutil.rmtree(work.folder / _FEATURES, ignore_errors=True)  # of an attempt that was killed
        stack.callback(shutil.rmtree, work.folder / _FEATURES, ignore_errors=True)
        with progress.during("build"):
            training = _Training(
                request, dataset, work, environment, stack, progress=progress, log=log
            )
        return training.run()


@dataclass(frozen=True, slots=True)
class _PhaseModel:
    """What a phase trains and on what: the whole network, or only the part above the cut."""

    sources: Mapping[Split, Source]
    model: keras.Model
    preprocess: Preprocess


class _Training:
    """One call of `train`."""

    def __init__(
        self,
        request: TrainingRequest,
        dataset: Dataset,
        work: Work,
        environment: TrainingEnvironment,
        stack: contextlib.ExitStack,
        *,
        progress: ProgressReporter,
        log: EventLog | None,
    ) -> None:
        check_dataset(request, dataset)
        check_network(request)
        self.request, self.dataset, self.work = request, dataset, work
        self.environment = environment
        self.blueprint = blueprint_of(request)
        self.hardware = Hardware.of(request)
        self.images = {split: stack.enter_context(self._loader(split)) for split in SPLITS}
        self.initial = read_initial_weights(request, environment.store, environment.weights)
        self.statistics = self._channel_statistics()
        # Seeds everything that Keras draws from now on: initial weights and dropout.
        keras.utils.set_random_seed(request.seed)
        with self.hardware.building():
            self.assembly = self._assemble()
        self.truth = {
            split: np.array(
                [dataset.classes.index(example.label) for example in dataset.of(split)], np.int32
            )
            for split in SPLITS
        }
        self.progress = progress
        self.log = log
        if log is not None:
            log.graph(self.assembly.model)
        self.filters = self._filter_recorder()
        self.hooks = TrainingHooks(
            work=work,
            progress=self.progress,
            file=CheckpointFile(work.folder / "checkpoint.npz", self._fingerprint()),
            checkpoint_seconds=environment.checkpoint_seconds,
            filters=self.filters,
            log=log,
        )

    def _channel_statistics(self) -> ChannelStatistics | None:
        """Those of the images, or of the version that the training goes on from."""
        if self.request.parent is not None and self.initial is not None:
            return self.initial.statistics
        return channel_statistics(self.request, self.images["train"], self.work)

    def _assemble(self) -> Assembly:
        request, classes = self.request, self.dataset.classes
        if request.parent is not None and self.initial is not None:
            model = build_network(request, len(classes), self.statistics)
            return go_on_from(request, model, self.initial, classes)
        assembly = assemble(request, len(classes), self.environment.weights, self.statistics)
        if self.initial is None:
            return assembly
        return start_from(assembly, request.network, self.initial)

    def run(self) -> TrainedModel:
        phases, resumed = self.request.phases, self.hooks.file.read()
        if resumed:
            state, first = resumed.state, phases.index(resumed.state.phase)
            for row in state.history:
                self.work.metrics(row)
        else:
            state = TrainingState(phase=phases[0], learning_rate=self._learning_rate(phases[0]))
            first = 0
        for phase in phases[first:]:
            if phase != state.phase:
                state = state.begin(phase, self._learning_rate(phase))
            learner, sources = self._run_phase(phase, state, resumed)
            resumed = None
        return self._finish(state, learner, sources)

    def _run_phase(
        self, phase: Phase, state: TrainingState, resumed: Checkpoint | None
    ) -> tuple[Learner, Mapping[Split, Source]]:
        """Run a phase, or what a checkpoint has left of it."""
        freeze(self.assembly, phase, self._unfreeze_from())
        began = time.monotonic()
        parts = self._phase_model(phase)
        if not isinstance(parts.sources["train"], ImageSource):
            spent = time.monotonic() - began
            state.seconds["features"] = state.seconds.get("features", 0.0) + spent
        learner = Learner(
            parts.model,
            objective=Objective.of(self.request, phase),
            preprocess=parts.preprocess,
            hardware=self.hardware,
        )
        if resumed:
            learner.restore(resumed.learned)
            learner.restore_optimizer(resumed.optimizer)
        has_validation = len(self.truth["validation"]) > 0
        data = PhaseData(
            train=self._labeled("train", parts.sources),
            validation=self._labeled("validation", parts.sources) if has_validation else None,
            class_weights=class_weights(self.request, self.dataset),
            test=self._logged_test(parts.sources),
        )
        best = resumed.best if resumed else {}
        PhaseRun(self.request, state, learner, data, self.hooks, best=best).run()
        return learner, parts.sources

    def _phase_model(self, phase: Phase) -> _PhaseModel:
        extractor = self._extractor(phase)
        if extractor is None:
            return _PhaseModel(
                self._image_sources(phase), self.assembly.model, self._image_preprocess()
            )
        stage, done = f"features of {phase}", 0
        total = sum(len(images) for images in self.images.values())
        total += extractor.views * len(self.images["train"])

        def on_progress(count: int) -> None:
            nonlocal done
            done += count
            self.work.check()
            self.progress.report(stage, done / total)

        def on_cached(count: int) -> None:
            self.progress.skip(stage, count / total)

        exact = self._evaluation_extractor(extractor)
        features: dict[Split, Source] = {}
        for split in SPLITS:
            folder = self.work.folder / _FEATURES / split
            views = (extractor if split == "train" else exact).extract(
                self.images[split], folder, on_progress, on_cached
            )
            features[split] = FeatureSource(views, self.request.seed, phase)
        return _PhaseModel(features, extractor.cut.tail, identity)

    def _extractor(self, phase: Phase) -> FeatureExtractor | None:
        """An extractor of the frozen part's features; None if caching them is not worthwhile."""
        request = self.request
        fresh = phase == "finetune" or request.augmented_views == "fresh"
        if phase == "scratch" or (fresh and request.augmentation.active):
            return None
        cut = cut_below(self.assembly.model)
        if cut is None:
            return None
        precision = self.hardware.feature_precision(request)
        extractor = FeatureExtractor(
            cut,
            self.blueprint,
            self.environment.cache,
            request.augmentation,
            compile_trunk(cut.trunk, self.blueprint, request.augmentation, precision),
            request.cached_views,
            precision,
        )
        # Features larger than the cache would be computed, written and evicted again.
        size, cache = extractor.size(len(self.dataset.examples)), self.environment.cache
        if size > cache.limit_bytes:
            return None
        in_files = size > MEMORY_BYTES
        if in_files and not has_room(self.work.folder, size, cache.kept_bytes):
            _LOG.warning("no room on the disk for features of %d MB", size // MIB)
            return None
        return replace(extractor, in_files=in_files)

    def _evaluation_extractor(self, extractor: FeatureExtractor) -> FeatureExtractor:
        """The extractor for validation and test images: no views, and in float32."""
        if extractor.precision == "float32":
            return replace(extractor, views=0)
        forward = compile_trunk(extractor.cut.trunk, self.blueprint, extractor.augmentation)
        return replace(extractor, views=0, forward=forward, precision="float32")

    def _finish(
        self, state: TrainingState, learner: Learner, sources: Mapping[Split, Source]
    ) -> TrainedModel:
        began = time.monotonic()
        model = self._finished_model()
        if self.hardware.policy != "float32":
            learner, sources = self._in_full_precision(model)
        evaluations: dict[Split, Evaluation] = {}
        for number, split in enumerate(SPLITS):
            self.progress.report("evaluate", number / len(SPLITS))
            if len(self.truth[split]):
                evaluations[split] = self._evaluate(split, learner, sources)
        self.progress.report("evaluate", 1.0)
        return TrainedModel(
            request=self.request,
            model=model,
            blueprint=self.blueprint,
            labels=tuple(Label(name, name) for name in self.dataset.classes),
            history=tuple(state.history),
            evaluations=evaluations,
            phase_seconds=state.seconds | {"evaluate": time.monotonic() - began},
            best_epochs=state.best_epochs,
            provenance=Provenance(
                weights=self.assembly.weights,
                parent=self.assembly.parent,
                dataset_digest=self.dataset.digest,
                job_id=self.work.job_id,
            ),
            devices=self.hardware.names,
            filters=self.filters.frames() if self.filters else (),
            responses=self.filters.responses() if self.filters else (),
        )

    def _filter_recorder(self) -> FilterRecorder | None:
        """Records kernels, and the response to the first held-out image."""
        request, model = self.request, self.assembly.model
        if not request.filters_every or request.subjects is not None:  # no frame is ever shown
            return FilterRecorder.of(request, model, self.work.folder)
        split: Split = next(
            name for name in ("test", "validation", "train") if len(self.truth[name])
        )
        source = self._image_sources("scratch")[split]
        (arrays,) = source.batches([np.array([0])], None)
        image = np.asarray(self._image_preprocess()(*map(tf.constant, arrays)), np.float32)
        return FilterRecorder.of(request, model, self.work.folder, response_of(model, image))

    def _logged_test(self, sources: Mapping[Split, Source]) -> LabeledSource | None:
        """The test images, if they are measured after each epoch for the log."""
        wanted = self.log is not None and self.request.log_every and len(self.truth["test"])
        return self._labeled("test", sources) if wanted else None

    def _in_full_precision(self, model: keras.Model) -> tuple[Learner, Mapping[Split, Source]]:
        """A learner that evaluates the float32 network, which differs from the mixed one."""
        learner = Learner(
            model,
            objective=Objective("sgd", 1.0),  # unused: this learner only predicts
            preprocess=self._image_preprocess(),
            hardware=Hardware("float32", tf.distribute.get_strategy(), self.hardware.names),
        )
        return learner, self._image_sources(self.request.phases[-1])

    def _evaluate(
        self, split: Split, learner: Learner, sources: Mapping[Split, Source]
    ) -> Evaluation:
        labeled = self._labeled(split, sources)
        count = len(labeled.truth)
        # No larger than in the training, which has the memory for that.
        size = min(self.request.batch_size, count, len(self.truth["train"]))
        batches = predict_batches(learner, labeled, size, self.work)
        probabilities = np.concatenate([batch for _, batch in batches])
        loss, correct = loss_and_correct(
            probabilities, labeled.truth, independent=self.request.has_independent_outputs
        )
        return Evaluation(
            self.dataset.of(split), labeled.truth, probabilities, loss / count, correct / count
        )

    def _finished_model(self) -> keras.Model:
        """A new network with the trained weights: float32, on one device, not cut."""
        finished = build_network(self.request, len(self.dataset.classes), self.statistics)
        for layer in finished.layers:
            if layer.weights:
                trained = self.assembly.model.get_layer(layer.name)
                layer.set_weights(trained.get_weights())
                layer.trainable = trained.trainable
        return finished

    def _labeled(self, split: Split, sources: Mapping[Split, Source]) -> LabeledSource:
        return LabeledSource(sources[split], self.truth[split])

    def _image_sources(self, phase: Phase) -> dict[Split, Source]:
        augmentation, seed = self.request.augmentation, self.request.seed
        return {
            split: ImageSource(self.images[split], augmentation, seed, phase) for split in SPLITS
        }

    def _image_preprocess(self) -> Preprocess:
        return augment_and_preprocess(
            self.blueprint.preprocessing, self.request.augmentation, channels_of(self.request)
        )

    def _loader(self, split: Split) -> ImageLoader:
        examples, total = self.dataset.of(split), len(self.dataset.examples)
        environment = self.environment
        return ImageLoader(
            examples,
            InputSpec(
                input_size_of(self.request), self.blueprint.short_side, self.blueprint.geometry
            ),
            max_pixels=environment.max_pixels,
            memory_bytes=environment.memory_bytes * len(examples) // total,
            threads=environment.threads,
        )

    def _fingerprint(self) -> str:
        """The digest of everything that a checkpoint depends on."""
        weights = self.assembly.weights
        parts = [
            self.request.model_dump_json(),
            self.dataset.digest,
            weights.model_dump_json() if weights else "",
            self.hardware.policy,
            self.hardware.feature_precision(self.request),
            keras.__version__,
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _learning_rate(self, phase: Phase) -> float:
        rate: float = getattr(self.request.learning_rate, phase)
        return rate

    def _unfreeze_from(self) -> str | int | None:
        asked = self.request.unfreeze_from
        return NETWORK_DEFAULTS[self.request.network].last_block if asked is None else asked
