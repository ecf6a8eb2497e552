"""The quantization job: makes an int8 version of a version and measures the accuracy of both.

Weights and activations become 8-bit integers whose ranges are determined from calibration images
(Nagel et al., 2021, arXiv:2106.08295, section 3). The accuracy of both versions is measured on
labeled images that the calibration has not seen. If the loss exceeds the limit, layers that harm
the answers stay in float32 (`models.export.accuracy_control`), and the better version is kept. It
becomes champion only if the loss is within the limit. Its SavedModel is unchanged: it is used for
explanations, and for serving where int8 is not supported.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from contracts.errors import NotTrainable
from contracts.files import require_room
from contracts.inference.manifest import (
    CHAMPION,
    Draft,
    Endpoint,
    Manifest,
    ModelName,
    Served,
)
from contracts.inference.registry import QuantizeBody
from contracts.jobs import Progress
from contracts.queue.messages import Pixels
from contracts.settings import Settings
from contracts.work import Work
from models.datasets.dataset import Dataset, Example, Split
from models.datasets.store import DatasetStore
from models.export.accuracy_control import ControlImages, quantize_controlled, whole_ranges
from models.faces.portraits import PortraitReader
from models.images.decode import decode
from models.serving.batching import Outputs
from models.serving.openvino.frontend import converting_core, import_nncf, import_openvino
from models.serving.openvino.ranges import quantize as quantize_by_ranges
from models.serving.openvino.runtime import INT8_FOLDER, SERVED, OpenVinoRuntime
from models.serving.reference import REFERENCE, reference_of
from models.serving.runtime import Precision, Runtime, RuntimeOptions
from models.serving.selection import choose_runtime, rejected_precisions
from models.serving.signature_view import signature_view
from models.store.labels import ClassIndices, Label, read_labels
from models.store.manifest import DERIVED, MANIFEST
from models.store.store import AliasMovedError, Store, unmoved

_CALIBRATION_IMAGES = 300  # NNCF's default; more images do not change the ranges
_TEST_IMAGES = 1000
_BATCH = 8
_CONTROL_IMAGES = 200
_FEWEST_CONTROL_IMAGES = 20  # with fewer, one image would be more than any loss to look for
_CONTROL_SECONDS = 900.0


class QuantizationRequest(QuantizeBody):
    """The request of the job: the body of the API request, and the version."""

    model: ModelName
    version: int = Field(ge=1)


@dataclass(frozen=True, slots=True)
class _TestSet:
    """Images with the indices of their classes."""

    split: Split
    examples: Sequence[Example]
    indices: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Answers:
    """The probabilities of the float32 version and of a runtime of the new one: (n, classes)."""

    expected: Outputs
    actual: Outputs


def run(work: Work, settings: Settings) -> dict[str, Any]:
    """Quantize a version.

    Args:
        work: Its request is a `QuantizationRequest`.

    Returns:
        The new version's number, both accuracies and whether it was promoted.

    Raises:
        NotTrainable: The version has no classifier, or the dataset has none of its classes.
        ModelNotFound: There is no such model.
        VersionNotFound: It has no such version.
        DatasetNotFound: There is no such dataset.
        WorkStoppedError: The job was cancelled.
        OSError: The disk has no room for the new version.
    """
    request = QuantizationRequest.model_validate(work.request)
    store = Store(settings.store_home)
    version = store.resolve(request.model, request.version)
    manifest = store.manifest(request.model, version)
    folder = store.path(request.model, version)
    if "serve" not in manifest.endpoints or manifest.precision == "int8":
        raise NotTrainable(
            f"Version {version} of '{request.model}' has no classifier in float32 to quantize."
        )
    dataset = DatasetStore.of(settings).load(request.dataset_id)
    images = _ImageSource(work, settings, manifest)
    test = images.readable_test(_test_set(dataset, read_labels(folder)))
    quantized = _find_published(store, request.model, work.job_id)
    if quantized is None:
        size = sum(file.size for file in manifest.files.values())
        require_room(settings.store_home, 2 * size, settings.free_disk_bytes_of_work)
        limit = request.max_accuracy_loss
        quantized = _publish(
            store, folder, manifest, dataset, test=test, images=images, limit=limit
        )
    metrics = store.manifest(request.model, quantized).metrics
    # Rounded, so that a loss of exactly the limit does not exceed it by a rounding error.
    loss = round(metrics["accuracy_before"] - metrics["accuracy"], 9)
    # If another version has become champion in the meantime, it remains so.
    champion = store.aliases(request.model).get(CHAMPION)
    is_champion = champion in (version, quantized)
    # An earlier attempt may have promoted it, and somebody rolled it back since.
    promoted_before = work.folder / f"promoted-{quantized}"
    promoted = promoted_before.exists()
    if not promoted and request.promote and is_champion and loss <= request.max_accuracy_loss:
        with suppress(AliasMovedError):
            store.promote(request.model, quantized, check=unmoved(champion))
            promoted_before.touch()
            promoted = True
    return {
        "model": request.model,
        "version": quantized,
        "quantized_from": version,
        "precision": "int8",
        "accuracy": {"before": metrics["accuracy_before"], "after": metrics["accuracy"]},
        "accuracy_loss": loss,
        "max_accuracy_loss": request.max_accuracy_loss,
        "promoted": promoted,
        "pictures": {
            "calibration": len(images.readable(_calibration(dataset, test))),
            "measured": len(test.examples),
        },
    }


class _ImageSource:
    """Decodes images for the network one by one, and checks each time for cancellation."""

    def __init__(self, work: Work, settings: Settings, manifest: Manifest) -> None:
        self.work = work
        self.manifest = manifest
        self.options = RuntimeOptions("openvino", "float32", settings.worker_threads, settings.home)
        self.serving = RuntimeOptions.of(settings)
        self._max_pixels = settings.max_image_pixels
        self._reader = PortraitReader(settings)

    def readable(self, examples: Sequence[Example]) -> list[Example]:
        """The examples as the version takes them, without those that it refuses."""
        readable = []
        for example in examples:
            self.work.check()
            readable += self._reader.read([example], self.manifest)
        return [example for example in readable if isinstance(example, Example)]

    def readable_test(self, test: _TestSet) -> _TestSet:
        """The test set as the version takes it.

        Raises:
            NotTrainable: The version was trained on faces, and no image shows one.
        """
        pairs = [
            (example, index)
            for original, index in zip(test.examples, test.indices, strict=True)
            for example in self.readable([original])
        ]
        if not pairs:
            raise NotTrainable(
                "The version was trained on faces, and none of the dataset's test or validation "
                "images shows one face, so the accuracy cannot be measured."
            )
        examples, indices = zip(*pairs, strict=True)
        return _TestSet(test.split, examples, np.array(indices))

    def load(self, example: Example) -> Pixels:
        """One image, shape (1, height, width, 3), uint8."""
        self.work.check()
        data = example.read()
        image = decode(data, network=self.manifest, max_pixels=self._max_pixels)
        return image.pixels[np.newaxis]

    def report(self, phase: str, fraction: float) -> None:
        self.work.progress(Progress(fraction=fraction, phase=phase))


def _publish(
    store: Store,
    folder: Path,
    manifest: Manifest,
    dataset: Dataset,
    *,
    test: _TestSet,
    images: _ImageSource,
    limit: float,
) -> int:
    """Publish the new version with both accuracies."""
    with store.staging() as staged:
        ignored = shutil.ignore_patterns(DERIVED, MANIFEST)
        shutil.copytree(folder, staged, dirs_exist_ok=True, ignore=ignored)
        reference = reference_of(folder, images.options.home and images.options.home / "samples")
        if reference is not None:
            reference.write(staged / REFERENCE)
        images.report("measure", 0.05)
        expected = _answers(_runtime(folder, "float32", images), test, images)
        before = _accuracy(expected, test)
        calibration = images.readable(_calibration(dataset, test)) or list(test.examples)
        endpoints = [name for name in SERVED if name in manifest.endpoints]
        making = _Making(folder, staged, endpoints, calibration, test, images)
        actual = _make_int8(making, dataset, before=before, limit=limit)
        after = _accuracy(actual, test)
        unchanged = manifest.model_dump(include=set(Draft.model_fields))
        provenance = manifest.provenance.model_copy(
            update={"job_id": images.work.job_id, "quantized_from": manifest.version}
        )
        metrics = _unmeasured(manifest) | {"accuracy_before": before, "accuracy": after}
        # What was measured for the float32 version is not true of this one.
        changed = {
            "precision": "int8",
            "provenance": provenance,
            "metrics": metrics,
            "served": _compared(manifest, "openvino-int8", test, _Answers(expected, actual)),
        }
        draft = _as_served(staged, Draft(**(unchanged | changed)), test, images, expected)
        images.work.check()
        return store.publish(manifest.model, staged, draft)


@dataclass(frozen=True, slots=True)
class _Making:
    """What an int8 version is made of.

    Attributes:
        source: The folder of the float32 version.
        staged: That of the new one.
        endpoints: Those that int8 serves.
        calibration: The images that ranges are measured on.
        test: The images that accuracy is measured on.
        images: Decodes them.
    """

    source: Path
    staged: Path
    endpoints: Sequence[Endpoint]
    calibration: Sequence[Example]
    test: _TestSet
    images: _ImageSource

    def answers(self) -> Outputs:
        """The answers of the int8 graphs for the test images."""
        return _answers(_runtime(self.staged, "int8", self.images), self.test, self.images)


def _make_int8(making: _Making, dataset: Dataset, *, before: float, limit: float) -> Outputs:
    """Write the int8 graphs, more exact ones if the accuracy of the plain ones is too low.

    Returns:
        Their answers for the test images.
    """
    images, endpoints = making.images, making.endpoints
    for number, endpoint in enumerate(endpoints):
        images.report("calibrate", 0.2 + 0.4 * number / len(endpoints))
        _quantize(making.staged, endpoint, making.calibration, images)
    images.report("measure", 0.6)
    plain = making.answers()
    if round(before - _accuracy(plain, making.test), 9) <= limit:
        return plain
    images.report("control", 0.65)
    return _improved(making, _control_images(making, dataset), plain, limit)


def _as_served(
    staged: Path, draft: Draft, test: _TestSet, images: _ImageSource, expected: Outputs
) -> Draft:
    """The draft with the figures of the runtime that a worker with these settings would choose."""
    runtime = choose_runtime(staged, draft, images.serving).runtime
    if draft.served is None or runtime.name == draft.served.runtime:
        return draft
    answers = _Answers(expected, _answers(runtime, test, images))
    return draft.model_copy(update={"served": _compared(draft, runtime.name, test, answers)})


def _compared(version: Draft, runtime: str, test: _TestSet, answers: _Answers) -> Served:
    """The answers of a runtime beside those of the float32 version.

    int8 is not rejected by the bounds of the parity gate here, as the request has its own: the
    accuracy that may be lost. What was rejected for the float32 version stays so, for the workers
    that cannot serve int8.
    """
    expected, actual = answers.expected, answers.actual
    return Served(
        runtime=runtime,
        split=test.split,
        pictures=len(expected),
        accuracy=float((actual.argmax(axis=1) == test.indices).mean()),
        float32_accuracy=float((expected.argmax(axis=1) == test.indices).mean()),
        largest_difference=float(np.abs(actual - expected).max()),
        changed=int((actual.argmax(axis=1) != expected.argmax(axis=1)).sum()),
        rejected=rejected_precisions(version),
    )


def _unmeasured(manifest: Manifest) -> dict[str, float]:
    """The metrics that remain true in int8, without those that the float32 version measured."""
    measured = ("accuracy", "loss", "macro_f1")
    return {name: v for name, v in manifest.metrics.items() if not name.endswith(measured)}


def _quantize(
    staged: Path, endpoint: Endpoint, calibration: Sequence[Example], images: _ImageSource
) -> None:
    openvino, nncf = import_openvino(), import_nncf()
    with signature_view(staged / "saved_model", endpoint) as view:
        graph = converting_core(openvino).read_model(view)
        quantized = nncf.quantize(
            graph,
            nncf.Dataset(calibration, images.load),
            # Symmetric ranges for weights, asymmetric ones for activations: after a ReLU half of a
            # symmetric range would never be used.
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(calibration),
            # Weights of seven bits: with eight, sums overflow on processors without VNNI or AMX.
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=nncf.OverflowFix.ENABLE,
                activations_range_estimator_params=whole_ranges(nncf),
            ),
        )
        _save(quantized, staged, endpoint)


def _control_images(making: _Making, dataset: Dataset) -> ControlImages:
    """Images that neither calibrate nor measure; if they are too few, those that calibrate."""
    images = making.images
    used = {example.sha256 for example in (*making.calibration, *making.test.examples)}
    unused = [example for example in dataset.examples if example.sha256 not in used]
    others = images.readable(_spread(unused, _CONTROL_IMAGES))
    calibration = [images.load(example) for example in making.calibration]
    control = [images.load(example) for example in others]
    control = control if len(control) >= _FEWEST_CONTROL_IMAGES else calibration
    exact = _runtime(making.source, "float32", images)
    expected = np.concatenate([exact.run("serve", image) for image in control])
    return ControlImages(calibration, control, expected, images.work.check)


def _improved(making: _Making, control: ControlImages, plain: Outputs, limit: float) -> Outputs:
    """Replace the int8 graphs with more exact ones, unless they are not.

    Returns:
        The answers of those that remain.
    """
    staged, test = making.staged, making.test
    openvino = import_openvino()

    def read(endpoint: Endpoint = "serve") -> Any:
        with signature_view(staged / "saved_model", endpoint) as view:
            return converting_core(openvino).read_model(view)

    found = quantize_controlled(read, control, max_differing=limit, seconds=_CONTROL_SECONDS)
    kept = staged / f"{INT8_FOLDER}_plain"
    (staged / INT8_FOLDER).rename(kept)
    for endpoint in making.endpoints:
        graph = found.graph if endpoint == "serve" else read(endpoint)
        if endpoint != "serve":
            quantize_by_ranges(openvino, graph, found.ranges)
        _save(graph, staged, endpoint)
    making.images.report("measure", 0.9)
    exact = making.answers()
    better = _accuracy(exact, test) > _accuracy(plain, test)
    if not better:
        shutil.rmtree(staged / INT8_FOLDER)
        shutil.copytree(kept, staged / INT8_FOLDER)
    shutil.rmtree(kept)
    return exact if better else plain


def _save(graph: Any, staged: Path, endpoint: Endpoint) -> None:
    target = staged / INT8_FOLDER / f"{endpoint}.xml"
    target.parent.mkdir(exist_ok=True)
    _store_weights_in_int8(graph)
    import_openvino().save_model(graph, target, compress_to_fp16=False)


def _store_weights_in_int8(graph: Any) -> None:
    # NNCF does the same to its own results unless it is told to keep the ranges readable.
    from openvino._offline_transformations import compress_quantize_weights_transformation

    compress_quantize_weights_transformation(graph)


def _runtime(folder: Path, precision: Precision, images: _ImageSource) -> Runtime:
    return OpenVinoRuntime(folder, images.manifest, precision, images.options)


def _answers(runtime: Runtime, test: _TestSet, images: _ImageSource) -> Outputs:
    """The runtime's probabilities for all images of the test set, in order: (n, classes)."""
    return np.concatenate([runtime.run("serve", batch) for batch in _batches(test, images)])


def _accuracy(probabilities: Outputs, test: _TestSet) -> float:
    """Fraction of the images whose most probable class is correct."""
    return float((probabilities.argmax(axis=1) == test.indices).mean())


def _batches(test: _TestSet, images: _ImageSource) -> Iterator[Pixels]:
    for start in range(0, len(test.examples), _BATCH):
        examples = test.examples[start : start + _BATCH]
        yield np.concatenate([images.load(example) for example in examples])


def _calibration(dataset: Dataset, test: _TestSet) -> list[Example]:
    """Training images, evenly spread over the dataset and so over its classes.

    If there are none: images that are not in the test set, or otherwise all.
    """
    tested = {example.sha256 for example in test.examples}
    untested = [example for example in dataset.examples if example.sha256 not in tested]
    examples = dataset.of("train") or untested or dataset.examples
    return _spread(examples, _CALIBRATION_IMAGES)


def _test_set(dataset: Dataset, labels: Sequence[Label]) -> _TestSet:
    """Images of the version's classes that are not used for calibration."""
    indices = ClassIndices(labels)
    split: Split = "test" if dataset.of("test") else "validation"
    held_out = dataset.of(split)
    known = [example for example in held_out if indices.find(example.label) is not None]
    if not known:
        raise NotTrainable(
            "The dataset has no test or validation images of this model's classes, so the "
            "accuracy cannot be measured. Give its classes the names of the model's labels."
        )
    known = _spread(known, _TEST_IMAGES)
    classes = np.array([indices.find(example.label) for example in known], np.int64)
    return _TestSet(split, known, classes)


def _spread(examples: Sequence[Example], maximum: int) -> list[Example]:
    by_label = sorted(examples, key=lambda example: (example.label, example.sha256))
    step = max(1, -(-len(by_label) // maximum))
    return by_label[::step]


def _find_published(store: Store, model: str, job_id: str) -> int | None:
    """The version that an earlier attempt at this job has published."""
    for manifest in reversed(store.manifests(model)):
        if manifest.precision == "int8" and manifest.provenance.job_id == job_id:
            return manifest.version
    return None
