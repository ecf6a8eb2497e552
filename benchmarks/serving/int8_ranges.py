"""Measures the ranges with which a published network computes in int8, and what it then answers.

    python -m benchmarks.serving.int8_ranges make MODEL STORE PHOTOS
    python -m benchmarks.serving.int8_ranges accuracy MODEL STORE PHOTOS|DATASET
    python -m benchmarks.serving.int8_ranges head MODEL STORE DATASET
    python -m benchmarks.serving.int8_ranges speed MODEL STORE
    python -m benchmarks.serving.int8_ranges layers MODEL STORE

STORE holds the imported network. PHOTOS is a folder of JPEG files whose names begin with the synset
of their class, such as https://github.com/EliSchwartz/imagenet-sample-images (one for each class).
Of each ten photos two calibrate, four control the accuracy, and the other four, which neither has
seen, measure it. DATASET has `train` and `test` folders of classes: a linear classifier on float32
features of the former is tested on both precisions' features of the latter, as after a training on
a frozen base. With `accuracy`, a trained version is measured on the test split.

`make` writes `models/weights/ranges/MODEL.json`.
"""

import argparse
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.inference.manifest import Endpoint, Manifest
from models.evaluation.comparison import difference_interval, share_interval
from models.export.accuracy_control import MIXED, SYMMETRIC, quantization_parameters
from models.export.range_extraction import OriginalGraph
from models.images.decode import decode
from models.serving.openvino.frontend import converting_core, import_nncf, import_openvino
from models.serving.openvino.ranges import (
    EIGHT_BITS,
    RANGES,
    SEVEN_BITS,
    Ranges,
    has_wide_sums,
    quantize,
)
from models.serving.openvino.runtime import OpenVinoRuntime
from models.serving.runtime import Precision, RuntimeOptions
from models.serving.signature_view import signature_view
from models.store.labels import imagenet_labels, read_labels
from models.store.store import Store

Images = npt.NDArray[np.uint8]
Outputs = npt.NDArray[np.float32]

MAX_LOSS = 0.005
_BATCH = 8
_ROUNDS = 5
_PRECISIONS: tuple[Precision, ...] = ("float32", "int8")
_CALIBRATION, _CONTROL = (0, 5), (1, 2, 6, 7)  # last digits of a photo's number
_RIDGE, _RANKING = 1.0, 60


@dataclass(frozen=True, slots=True)
class Photos:
    """Decoded photos and the indices of their classes."""

    images: Images
    truth: npt.NDArray[np.int64]

    def __getitem__(self, chosen: Any) -> "Photos":
        return Photos(self.images[chosen], self.truth[chosen])


@dataclass(frozen=True, slots=True)
class Network:
    """A version in a store."""

    folder: Path
    manifest: Manifest

    @property
    def endpoint(self) -> Endpoint:
        return "serve" if "serve" in self.manifest.endpoints else "features"

    def read(self, openvino: Any) -> Any:
        """Its graph, as the service reads it."""
        with signature_view(self.folder / "saved_model", self.endpoint) as view:
            return converting_core(openvino).read_model(view)

    def runtime(self, precision: Precision, threads: int = 2) -> OpenVinoRuntime:
        options = RuntimeOptions("openvino", precision, threads)
        return OpenVinoRuntime(self.folder, self.manifest, precision, options)

    def answers(self, precision: Precision, images: Images) -> Outputs:
        """Its outputs for the images, as the service computes them."""
        runtime = self.runtime(precision)
        starts = range(0, len(images), _BATCH)
        return np.concatenate([runtime.run(self.endpoint, images[s : s + _BATCH]) for s in starts])


def photos(folder: Path, network: Network) -> Photos:
    """All photos of the folder, or of its test split, in the order of their names."""
    is_dataset = (folder / "test").is_dir()
    labels = read_labels(network.folder) if is_dataset else imagenet_labels()
    index = {label.id: number for number, label in enumerate(labels)}
    files = sorted(folder.glob("test/*/*") if is_dataset else folder.glob("*.JPEG"))
    names = [file.parent.name if is_dataset else file.name.split("_")[0] for file in files]
    known = [(file, index[name]) for file, name in zip(files, names, strict=True) if name in index]
    return Photos(
        np.stack([_decoded(file, network) for file, _ in known]),
        np.array([number for _, number in known]),
    )


def _decoded(file: Path, network: Network) -> Images:
    return decode(file.read_bytes(), network=network.manifest, max_pixels=10**8).pixels


def _split(everything: Photos) -> tuple[Photos, Photos, Photos]:
    """The photos that calibrate, that control the accuracy, and that measure it."""
    digits = np.arange(len(everything.truth)) % 10
    calibrates, controls = np.isin(digits, _CALIBRATION), np.isin(digits, _CONTROL)
    return everything[calibrates], everything[controls], everything[~calibrates & ~controls]


def make(network: Network, folder: Path, limit: int) -> None:
    """Quantize in each of the ways, keep the best on the photos that control, and measure it."""
    calibration, control, test = _split(photos(folder, network))
    calibration, control, test = calibration[:limit], control[:limit], test[:limit]
    openvino = import_openvino()
    expected = {id(part): network.answers("float32", part.images) for part in (control, test)}
    found: dict[str, tuple[float, Ranges]] = {}
    for preset in (MIXED, SYMMETRIC):
        quantized, ranges = _quantized(network, preset, calibration, None)
        print(preset, len(ranges.layers), "layers,", len(ranges.activations), "tensors", flush=True)
        for name, part in (("control", control), ("test", test)):
            answers = _run(openvino, quantized, part.images)
            _compare(f"  nncf {preset} {name}", expected[id(part)], answers, part.truth)
        for bits in (EIGHT_BITS, SEVEN_BITS):
            steps = {layer: min(bits, given) for layer, given in ranges.layers.items()}
            tried = Ranges(ranges.activations, steps)
            answers = _answers_with(network, openvino, tried, control.images)
            name = f"{preset}, {bits} steps"
            _compare(f"  ours {name}", expected[id(control)], answers, control.truth)
            found[name] = (_likeness(expected[id(control)], answers), tried)
    best = max(found, key=lambda name: found[name][0])
    ranges = found[best][1]
    answers = _answers_with(network, openvino, ranges, control.images)
    if network.endpoint == "serve" and _loss(expected[id(control)], answers, control) > MAX_LOSS:
        best, ranges = _controlled(network, best, calibration, control)
    answers = _answers_with(network, openvino, ranges, test.images)
    _compare(f"{best}, test", expected[id(test)], answers, test.truth)
    measured = _difference(expected[id(test)], answers, test.truth)
    _write(network, ranges, measured, {"way": best, "photos": len(calibration.truth)})


def _controlled(
    network: Network, way: str, calibration: Photos, control: Photos
) -> tuple[str, Ranges]:
    """What NNCF's accuracy control leaves in int8, with the bits of this way."""
    preset, bits = way.split(", ", maxsplit=1)[0], int(way.split(", ")[1].split(maxsplit=1)[0])
    _, ranges = _quantized(network, preset, calibration, control)
    steps = {layer: min(bits, given) for layer, given in ranges.layers.items()}
    return f"{way}, accuracy control", Ranges(ranges.activations, steps)


def _likeness(expected: Outputs, actual: Outputs) -> float:
    """How much of the probabilities is the same, or the cosine of features; a mean."""
    if not _are_probabilities(expected):
        return float(_cosines(expected, actual).mean())
    return 1 - float(np.abs(expected - actual).sum(axis=1).mean()) / 2


def _loss(expected: Outputs, actual: Outputs, photos: Photos) -> float:
    right = [_right(output, photos.truth, 1).mean() for output in (expected, actual)]
    return float(right[0] - right[1])


def _quantized(
    network: Network, preset: str, calibration: Photos, control: Photos | None
) -> tuple[Any, Ranges]:
    """NNCF's graph and the ranges in it; with photos that control, by NNCF's accuracy control."""
    openvino, nncf = import_openvino(), import_nncf()
    graph = network.read(openvino)
    original = OriginalGraph(graph)
    options: dict[str, Any] = {
        "preset": nncf.QuantizationPreset(preset),
        "subset_size": len(calibration.truth),
        "ignored_scope": nncf.IgnoredScope(names=_last_products(graph)),
    }
    parameters = quantization_parameters(nncf)
    batches = [image[np.newaxis] for image in calibration.images]
    if control is None:
        options["advanced_parameters"] = parameters
        quantized = nncf.quantize(graph, nncf.Dataset(batches), **options)
    else:
        pairs = list(zip(control.images, control.truth, strict=True))
        quantized = nncf.quantize_with_accuracy_control(
            graph,
            nncf.Dataset(batches),
            nncf.Dataset(pairs, lambda pair: pair[0][np.newaxis]),
            _validate,
            max_drop=MAX_LOSS,
            advanced_quantization_parameters=parameters,
            advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(
                ranking_subset_size=_RANKING
            ),
            **options,
        )
    return quantized, original.ranges(quantized, bits=EIGHT_BITS)


def _validate(compiled: Any, pairs: Iterable[Any]) -> tuple[float, list[float]]:
    """The share of photos whose best class is right, and the probability of each one's class."""
    right, probabilities = [], []
    for image, truth in pairs:
        output = compiled(image[np.newaxis])[0][0]
        right.append(int(output.argmax()) == truth)
        probabilities.append(float(output[truth]))
    return float(np.mean(right)), probabilities


def _last_products(graph: Any) -> list[str]:
    """A matrix product whose result is the output, by way of a bias and a softmax only."""
    node = graph.get_results()[0].input_value(0).get_node()
    while node.get_type_name() in {"Softmax", "Sigmoid", "Add"}:
        node = node.input_value(0).get_node()
    return [node.get_friendly_name()] if node.get_type_name() == "MatMul" else []


def _answers_with(network: Network, openvino: Any, ranges: Ranges, images: Images) -> Outputs:
    graph = network.read(openvino)
    quantize(openvino, graph, ranges)
    return _run(openvino, graph, images)


def _run(openvino: Any, graph: Any, images: Images) -> Outputs:
    compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    starts = range(0, len(images), _BATCH)
    return np.concatenate([compiled(images[start : start + _BATCH])[0] for start in starts])


def _compare(name: str, expected: Outputs, actual: Outputs, truth: npt.NDArray[np.int64]) -> None:
    """Print how the answers of int8 differ."""
    print(name, json.dumps(_difference(expected, actual, truth)), flush=True)


def _difference(expected: Outputs, actual: Outputs, truth: npt.NDArray[np.int64]) -> dict[str, Any]:
    if not _are_probabilities(expected):
        cosines = _cosines(expected, actual)
        return {
            "photos": len(truth),
            "mean_cosine": float(cosines.mean()),
            "least_cosine": float(cosines.min()),
        }
    figures: dict[str, Any] = {"photos": len(truth)}
    for count in (1, 5):
        before, after = (_right(output, truth, count) for output in (expected, actual))
        lost, won = int((before & ~after).sum()), int((after & ~before).sum())
        interval = difference_interval(won, lost, len(truth))
        figures[f"top{count}"] = {
            "float32": float(before.mean()),
            "int8": float(after.mean()),
            "lost": lost,
            "won": won,
            "difference_interval": [round(interval.low, 4), round(interval.high, 4)],
        }
    best = expected.argmax(axis=1) == actual.argmax(axis=1)
    figures["likeness"] = _likeness(expected, actual)
    figures["same_best_class"] = float(best.mean())
    figures["largest_difference"] = float(np.abs(expected - actual).max())
    return figures


def _are_probabilities(output: Outputs) -> bool:
    return bool(np.allclose(output.sum(axis=1), 1, atol=1e-3))


def _right(output: Outputs, truth: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.bool_]:
    ranking = np.argsort(-output, axis=1, kind="stable")[:, :count]
    return np.asarray((ranking == truth[:, np.newaxis]).any(axis=1))


def _cosines(expected: Outputs, actual: Outputs) -> Outputs:
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(actual, axis=1)
    return np.asarray((expected * actual).sum(axis=1) / lengths)


def _write(
    network: Network, ranges: Ranges, measured: dict[str, Any], made: dict[str, Any]
) -> None:
    nncf, openvino = import_nncf(), import_openvino()
    weights = network.manifest.provenance.weights
    content = {
        "network": network.manifest.network,
        "weights": weights.model_dump(mode="json") if weights else None,
        "made": {
            "by": "python -m benchmarks.serving.int8_ranges make",
            **made,
            "nncf": nncf.__version__,
            "openvino": openvino.__version__,
        },
        "measured": measured | {"wide_sums": has_wide_sums()},
        **ranges.content(),
    }
    RANGES.joinpath(f"{network.manifest.network}.json").write_text(json.dumps(content, indent=1))


def accuracy(network: Network, folder: Path) -> None:
    """Compare both precisions, as served, on the photos that measure, or on a test split."""
    everything = photos(folder, network)
    test = everything if (folder / "test").is_dir() else _split(everything)[2]
    answers = [network.answers(precision, test.images) for precision in _PRECISIONS]
    _compare("served", answers[0], answers[1], test.truth)


def head(network: Network, dataset: Path) -> None:
    """Compare both precisions' features by a linear classifier."""
    parts = {}
    for split in ("train", "test"):
        files = sorted(dataset.glob(f"{split}/*/*.*"))
        classes = sorted({file.parent.name for file in files})
        images = np.stack([_decoded(file, network) for file in files])
        parts[split] = Photos(images, np.array([classes.index(f.parent.name) for f in files]))
    train, test = parts["train"], parts["test"]
    learned = _features(network, "float32", train.images)
    mean, scale = learned.mean(axis=0), learned.std() + 1e-6
    inputs = np.c_[(learned - mean) / scale, np.ones(len(learned))]
    targets = np.eye(train.truth.max() + 1)[train.truth]
    ridge = _RIDGE * np.eye(inputs.shape[1])
    solved = np.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ targets)
    right, features = {}, {}
    for precision in _PRECISIONS:
        features[precision] = _features(network, precision, test.images)
        scores = np.c_[(features[precision] - mean) / scale, np.ones(len(test.truth))] @ solved
        right[precision] = scores.argmax(axis=1) == test.truth
        interval = share_interval(int(right[precision].sum()), len(test.truth))
        print(precision, right[precision].mean(), interval)
    lost = int((right["float32"] & ~right["int8"]).sum())
    won = int((right["int8"] & ~right["float32"]).sum())
    print("lost", lost, "won", won, difference_interval(won, lost, len(test.truth)))
    cosines = _cosines(features["float32"], features["int8"])
    print("cosine", cosines.mean(), cosines.min())


def _features(network: Network, precision: Precision, images: Images) -> Outputs:
    runtime = network.runtime(precision)
    starts = range(0, len(images), _BATCH)
    return np.concatenate([runtime.run("features", images[s : s + _BATCH]) for s in starts])


def speed(network: Network) -> None:
    """Milliseconds of processor time for an image in each precision, in turns."""
    size = network.manifest.input_size
    images = np.random.default_rng(8).integers(0, 256, (_BATCH, *size, 3), np.uint8)
    runtimes = {precision: network.runtime(precision, threads=1) for precision in _PRECISIONS}
    for count in (1, _BATCH):
        used: dict[str, list[float]] = {precision: [] for precision in _PRECISIONS}
        for _ in range(_ROUNDS + 1):
            for precision, runtime in runtimes.items():
                began = time.process_time()
                for _ in range(_BATCH // count):
                    runtime.run(network.endpoint, images[:count])
                used[precision].append(1000 * (time.process_time() - began) / _BATCH)
        medians = {precision: float(np.median(row[1:])) for precision, row in used.items()}
        print(f"batches of {count}:", {name: round(ms, 2) for name, ms in medians.items()})


def layers(network: Network) -> None:
    """What OpenVINO executes for a batch, with the time and the precision of each operation."""
    openvino = import_openvino()
    size = network.manifest.input_size
    images = np.random.default_rng(8).integers(0, 256, (_BATCH, *size, 3), np.uint8)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERF_COUNT": True, "INFERENCE_NUM_THREADS": 1}
    for precision in _PRECISIONS:
        graph = network.runtime(precision, threads=1)._read(network.endpoint)
        request = openvino.Core().compile_model(graph, "CPU", settings).create_infer_request()
        for _ in range(_ROUNDS):
            request.infer([images])
        rows = [row for row in request.get_profiling_info() if row.real_time.microseconds]
        total = sum(row.real_time.microseconds for row in rows)
        print(f"{precision}: {total / 1000 / _BATCH:.2f} ms for an image")
        for row in rows:
            spent = row.real_time.microseconds / 1000 / _BATCH
            print(f"  {spent:7.3f}  {row.node_type:16}{row.exec_type:32}{row.node_name[-60:]}")


def main() -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=["make", "accuracy", "head", "speed", "layers"])
    parser.add_argument("model")
    parser.add_argument("store", type=Path)
    parser.add_argument("images", type=Path, nargs="?")
    parser.add_argument("--limit", type=int, default=400, help="photos of each kind, for make")
    given = parser.parse_args()
    store = Store(given.store)
    version = store.resolve(given.model)
    network = Network(store.path(given.model, version), store.manifest(given.model, version))
    if given.command == "make":
        make(network, given.images, given.limit)
    elif given.command in {"accuracy", "head"}:
        {"accuracy": accuracy, "head": head}[given.command](network, given.images)
    else:
        {"speed": speed, "layers": layers}[given.command](network)


if __name__ == "__main__":
    main()
