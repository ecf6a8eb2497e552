"""int8 on request: post-training quantization of a version into a new one, both measured.

Weights and activations become 8-bit integers whose ranges are read off calibration pictures
(Nagel et al., 2021, arXiv:2106.08295, section 3). What that costs in accuracy only real labelled
pictures can tell, so it is measured on those the calibration has not seen, and the new version
becomes champion only if it lost no more than was allowed. Its SavedModel stays as it was: it
explains, and serves wherever int8 cannot.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from contracts.errors import NotTrainable
from contracts.inference.manifest import CHAMPION, Draft, Endpoint, Manifest, ModelName
from contracts.inference.registry import QuantizeBody
from contracts.jobs import Progress
from contracts.queue.messages import Pixels
from contracts.settings import Settings
from contracts.work import Work
from models.datasets.dataset import Dataset, Example
from models.datasets.store import DatasetStore
from models.images.decode import decode
from models.serving.openvino.frontend import converting_core, import_nncf, import_openvino
from models.serving.openvino.runtime import INT8_FOLDER, SERVED, OpenVinoRuntime
from models.serving.reference import REFERENCE, reference_of
from models.serving.runtime import Precision, RuntimeOptions
from models.serving.signature_view import signature_view
from models.store.labels import Label, read_labels
from models.store.manifest import DERIVED, MANIFEST
from models.store.store import Store

_CALIBRATION_PICTURES = 300  # NNCF's own default; more move the ranges no further
_MEASURED_PICTURES = 1000
_BATCH = 8


class QuantizationRequest(QuantizeBody):
    """What the job is told: the body, and of which version."""

    model: ModelName
    version: int = Field(ge=1)


@dataclass(frozen=True, slots=True)
class _Labelled:
    """Pictures with the index of their class."""

    examples: Sequence[Example]
    indices: npt.NDArray[np.int64]


def run(work: Work, settings: Settings) -> dict[str, Any]:
    """Quantize a version.

    Args:
        work: Its request is a `QuantizationRequest`.
        settings: Where store and datasets are, threads, and the limit of a picture.

    Returns:
        The new version's number, the accuracies and whether it is champion now.

    Raises:
        NotTrainable: The version has no classifier, or the dataset none of its classes.
        ModelNotFound: There is no such model.
        VersionNotFound: It has no such version.
        DatasetNotFound: There is no such dataset.
        WorkStoppedError: The job was cancelled.
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
    dataset = _dataset(settings, request.dataset_id)
    measured = _measured(dataset, read_labels(folder))
    source = _Source(work, settings, manifest)
    made = _made_before(store, request.model, work.job_id)
    if made is None:
        made = _publish(store, folder, manifest, dataset, measured=measured, source=source)
    metrics = store.manifest(request.model, made).metrics
    # To a billionth, so that a loss of exactly the bound is not over it by rounding.
    loss = round(metrics["accuracy_before"] - metrics["accuracy"], 9)
    # Another champion was chosen for a reason that a copy of an older one does not undo.
    stands = store.aliases(request.model).get(CHAMPION) in (version, made)
    promoted = request.promote and stands and loss <= request.max_accuracy_loss
    if promoted:
        store.promote(request.model, made)
    return {
        "model": request.model,
        "version": made,
        "quantized_from": version,
        "precision": "int8",
        "accuracy": {"before": metrics["accuracy_before"], "after": metrics["accuracy"]},
        "accuracy_loss": loss,
        "max_accuracy_loss": request.max_accuracy_loss,
        "promoted": promoted,
        "pictures": {
            "calibration": len(_calibration(dataset, measured)),
            "measured": len(measured.examples),
        },
    }


class _Source:
    """Pictures for the network, decoded one by one; every one is a chance to be cancelled."""

    def __init__(self, work: Work, settings: Settings, manifest: Manifest) -> None:
        self.work = work
        self.manifest = manifest
        self.options = RuntimeOptions("openvino", "float32", settings.worker_threads, settings.home)
        self._max_pixels = settings.max_image_pixels

    def picture(self, example: Example) -> Pixels:
        """Shape (1, height, width, 3), uint8."""
        self.work.check()
        data = example.path.read_bytes()
        picture = decode(data, network=self.manifest, max_pixels=self._max_pixels)
        return picture.pixels[np.newaxis]

    def tell(self, phase: str, fraction: float) -> None:
        self.work.progress(Progress(fraction=fraction, phase=phase))


def _publish(
    store: Store,
    folder: Path,
    manifest: Manifest,
    dataset: Dataset,
    *,
    measured: _Labelled,
    source: _Source,
) -> int:
    """Write the new version with both its accuracies, once for this job."""
    with store.staging() as staged:
        ignored = shutil.ignore_patterns(DERIVED, MANIFEST)
        shutil.copytree(folder, staged, dirs_exist_ok=True, ignore=ignored)
        reference = reference_of(folder, source.options.home and source.options.home / "samples")
        if reference is not None:
            reference.write(staged / REFERENCE)
        source.tell("measure", 0.05)
        before = _accuracy(folder, "float32", measured, source)
        endpoints = [name for name in SERVED if name in manifest.endpoints]
        for number, endpoint in enumerate(endpoints):
            source.tell("calibrate", 0.3 + 0.4 * number / len(endpoints))
            _quantize(staged, endpoint, _calibration(dataset, measured), source)
        source.tell("measure", 0.75)
        after = _accuracy(staged, "int8", measured, source)
        known = manifest.model_dump(include=set(Draft.model_fields))
        provenance = manifest.provenance.model_copy(
            update={"job_id": source.work.job_id, "quantized_from": manifest.version}
        )
        metrics = manifest.metrics | {"accuracy_before": before, "accuracy": after}
        told = {"precision": "int8", "provenance": provenance, "metrics": metrics}
        source.work.check()
        return store.publish(manifest.model, staged, Draft(**(known | told)))


def _quantize(
    staged: Path, endpoint: Endpoint, calibration: Sequence[Example], source: _Source
) -> None:
    openvino, nncf = import_openvino(), import_nncf()
    with signature_view(staged / "saved_model", endpoint) as view:
        graph = converting_core(openvino).read_model(view)
        small = nncf.quantize(
            graph,
            nncf.Dataset(calibration, source.picture),
            # Weights around zero, activations as they come: after a ReLU half of a symmetric
            # range would never be used.
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(calibration),
        )
        target = staged / INT8_FOLDER / f"{endpoint}.xml"
        target.parent.mkdir(exist_ok=True)
        openvino.save_model(small, target, compress_to_fp16=False)


def _accuracy(folder: Path, precision: Precision, measured: _Labelled, source: _Source) -> float:
    """Share of the pictures whose best class is their own."""
    runtime = OpenVinoRuntime(folder, source.manifest, precision, source.options)
    best = [runtime.run("serve", batch).argmax(axis=1) for batch in _batches(measured, source)]
    return float((np.concatenate(best) == measured.indices).mean())


def _batches(measured: _Labelled, source: _Source) -> Iterator[Pixels]:
    for at in range(0, len(measured.examples), _BATCH):
        examples = measured.examples[at : at + _BATCH]
        yield np.concatenate([source.picture(example) for example in examples])


def _dataset(settings: Settings, dataset_id: str) -> Dataset:
    """The one place that knows where datasets are."""
    return DatasetStore.of(settings).load(dataset_id)


def _calibration(dataset: Dataset, measured: _Labelled) -> list[Example]:
    """Training pictures, evenly spread over the dataset and so over its classes.

    Without any, others that are not measured on; where all are, those.
    """
    seen = {example.sha256 for example in measured.examples}
    unseen = [example for example in dataset.examples if example.sha256 not in seen]
    pictures = dataset.of("train") or unseen or dataset.examples
    return _spread(pictures, _CALIBRATION_PICTURES)


def _measured(dataset: Dataset, labels: Sequence[Label]) -> _Labelled:
    """Pictures that the calibration does not see, of classes that the version knows."""
    places = {_plain(name): at for at, one in enumerate(labels) for name in (one.id, one.text)}
    held_out = dataset.of("test") or dataset.of("validation")
    known = [example for example in held_out if _plain(example.label) in places]
    if not known:
        raise NotTrainable(
            "The dataset has no test or validation pictures of this model's classes, so the "
            "accuracy cannot be measured. Name its classes as the model's labels are called."
        )
    known = _spread(known, _MEASURED_PICTURES)
    return _Labelled(known, np.array([places[_plain(example.label)] for example in known]))


def _plain(label: str) -> str:
    return label.strip().casefold().replace("_", " ")


def _spread(examples: Sequence[Example], most: int) -> list[Example]:
    by_label = sorted(examples, key=lambda example: (example.label, example.sha256))
    step = max(1, -(-len(by_label) // most))
    return by_label[::step]


def _made_before(store: Store, model: str, job_id: str) -> int | None:
    """What an earlier attempt at this job has published."""
    for version in reversed(store.versions(model)):
        made = store.manifest(model, version)
        if made.precision == "int8" and made.provenance.job_id == job_id:
            return version
    return None
