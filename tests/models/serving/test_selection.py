import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import pytest

from contracts.errors import Unavailable
from models.serving.batching import Outputs
from models.serving.openvino import graph, shared_base
from models.serving.openvino.runtime import OpenVinoRuntime
from models.serving.predictor import VersionPredictor, load_version
from models.serving.reference import REFERENCE, Reference
from models.serving.runtime import Runtime, RuntimeOptions, RuntimeUnavailableError
from models.serving.selection import choose_runtime, tensorflow_runtime
from models.store.manifest import read_manifest
from models.store.store import Store
from tests.models import keras_warnings

pytestmark = keras_warnings.ignored

PICTURES = np.random.default_rng(9).integers(0, 256, (5, 16, 16, 3), np.uint8)
EXACT = RuntimeOptions("openvino", "float32", 1)


def test_openvino_outputs_equal_tensorflows(tiny: Store) -> None:
    reference = load_version(tiny, "pets", max_batch_size=4)
    quick = load_version(tiny, "pets", max_batch_size=4, options=EXACT)
    assert (reference.runtime, quick.runtime) == ("tensorflow-float32", "openvino-float32")
    assert reference.runtime_reason is quick.runtime_reason is None
    for operation in ("classify", "embed"):
        expected = reference.run(operation, PICTURES)
        np.testing.assert_allclose(quick.run(operation, PICTURES), expected, atol=1e-5)
    classes = np.array([0, 1, 0, 1, 0], np.int32)
    np.testing.assert_allclose(
        quick.explain(PICTURES, classes).grids,
        reference.explain(PICTURES, classes).grids,
        atol=1e-5,
    )


def test_warm_keeps_measured_batch_sizes(tiny: Store) -> None:
    predictor = load_version(tiny, "pets", max_batch_size=4, options=EXACT)
    predictor.warm()
    assert predictor.batch_sizes in ((1,), (1, 2), (1, 2, 4))
    assert predictor.run("classify", PICTURES).shape == (5, 2)


def warmed(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    timed: Callable[[int], tuple[float, float]],
    seconds: float = 60,
) -> VersionPredictor:
    """A predictor whose batches of a size seem to take the seconds and processor time."""
    monkeypatch.setattr(shared_base, "_bases", WeakValueDictionary())  # nothing is known
    predictor = load_version(store, "pets", max_batch_size=4, options=EXACT)
    monkeypatch.setattr(predictor, "_timed", lambda _, images: timed(len(images)))
    predictor.warm(seconds=seconds)
    return predictor


@pytest.mark.parametrize(
    ("passed", "used", "expected"),
    [
        (
            {1: 0.01, 2: 0.02, 4: 0.04},
            {1: 0.01, 2: 0.02, 4: 0.04},
            4,
        ),  # a batch has a cost of its own
        ({1: 0.1, 2: 0.21, 4: 0.42}, {1: 0.1, 2: 0.21, 4: 0.42}, 1),
        # A busy machine: nothing came in between while one image was measured.
        ({1: 0.04, 2: 0.22, 4: 0.44}, {1: 0.06, 2: 0.1, 4: 0.16}, 4),
        # Threads that wait for each other take no processor time, but the images wait.
        ({1: 0.3, 2: 0.32, 4: 0.4}, {1: 0.3, 2: 0.6, 4: 1.2}, 4),
        # Nothing interrupts a batch, and others wait for it.
        ({1: 0.3, 2: 0.4, 4: 0.6}, {1: 0.3, 2: 0.4, 4: 0.6}, 2),
        ({1: 3.0, 2: 3.1, 4: 3.2}, {1: 3.0, 2: 3.1, 4: 3.2}, 1),
        ({1: 0.3, 2: 0.6, 4: 1.2}, {1: 0.1, 2: 0.2, 4: 0.38}, 4),  # on a busy machine
        ({1: 2.0, 2: 3.0, 4: 4.4}, {1: 0.01, 2: 0.01, 4: 0.01}, 1),  # on another device
    ],
)
def test_batches_are_as_large_as_saves_time_or_work(
    tiny: Store,
    monkeypatch: pytest.MonkeyPatch,
    passed: dict[int, float],
    used: dict[int, float],
    expected: int,
) -> None:
    predictor = warmed(tiny, monkeypatch, lambda size: (passed[size], used[size]))
    assert predictor.batch_sizes[-1] == expected


@pytest.mark.parametrize(("seconds", "expected"), [(0.01, 4), (0.15, 2), (1.6, 1)])
def test_a_slow_network_has_small_batches_although_larger_ones_were_not_tried(
    tiny: Store, monkeypatch: pytest.MonkeyPatch, seconds: float, expected: int
) -> None:
    tried: list[int] = []

    def timed(size: int) -> tuple[float, float]:
        tried.append(size)
        return size * seconds, size * seconds

    predictor = warmed(tiny, monkeypatch, timed, seconds=0)
    assert set(tried) == {1}
    assert predictor.batch_sizes[-1] == expected


def test_a_network_that_is_far_too_slow_is_not_served(
    tiny: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unavailable, match="takes 12 seconds for one image"):
        warmed(tiny, monkeypatch, lambda size: (12.0 * size, 12.0 * size))


@pytest.mark.parametrize("pieces", [(1,), (1, 2), (1, 2, 3)])
def test_parallel_pieces_give_the_same_outputs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, pieces: tuple[int, ...]
) -> None:
    monkeypatch.setattr(shared_base, "_bases", WeakValueDictionary())  # nothing is known
    monkeypatch.setattr(graph, "_PIECES", pieces)
    options = RuntimeOptions("openvino", "float32", 2)
    runtime = OpenVinoRuntime(folder, read_manifest(folder), "float32", options)
    whole = runtime.run("serve", PICTURES)
    runtime.parallelize()
    np.testing.assert_allclose(runtime.run("serve", PICTURES), whole, atol=1e-6)
    np.testing.assert_allclose(runtime.run("serve", PICTURES[:1]), whole[:1], atol=1e-6)


def test_threads_run_batches_in_pieces_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_base, "_bases", WeakValueDictionary())  # nothing is known
    runtime = OpenVinoRuntime(
        folder, read_manifest(folder), "float32", RuntimeOptions("openvino", "float32", 2)
    )
    assert runtime.parallel_batches == 1
    runtime.parallelize()
    assert runtime.parallel_batches == 2
    answers_alike_from_several_threads(runtime)


def test_threads_run_tensorflow_at_once(folder: Path) -> None:
    answers_alike_from_several_threads(tensorflow_runtime(folder, RuntimeOptions()))


def answers_alike_from_several_threads(runtime: Runtime) -> None:
    expected = runtime.run("serve", PICTURES)

    def run(number: int) -> Outputs:
        rows = np.roll(PICTURES, number, axis=0)
        return np.roll(runtime.run("serve", rows), -number, axis=0)

    with ThreadPoolExecutor(4) as pool:
        for outputs in pool.map(run, range(64)):
            np.testing.assert_allclose(outputs, expected, atol=1e-5)


def test_outputs_belong_to_the_caller(folder: Path) -> None:
    runtime = OpenVinoRuntime(folder, read_manifest(folder), "float32", EXACT)
    first = runtime.run("serve", PICTURES[:1])
    copied = first.copy()
    runtime.run("serve", PICTURES[1:2])
    np.testing.assert_array_equal(first, copied)


def test_deviating_runtime_is_replaced_with_a_reason(folder: Path, tmp_path: Path) -> None:
    version = tmp_path / "1"
    shutil.copytree(folder, version)
    true = Reference.read(version / REFERENCE)
    assert true is not None
    false = {name: output[:, ::-1] for name, output in true.outputs.items()}
    Reference(true.images, false).write(version / REFERENCE)
    choice = choose_runtime(version, read_manifest(version), EXACT)
    assert choice.runtime.name == "tensorflow-float32"
    assert choice.reason is not None
    assert "openvino-float32: a probability deviated" in choice.reason


@pytest.mark.slow  # the child imports TensorFlow
def test_missing_reference_is_computed(folder: Path, tmp_path: Path) -> None:
    version = tmp_path / "1"
    shutil.copytree(folder, version)
    true = Reference.read(version / REFERENCE)
    (version / REFERENCE).write_bytes(b"not a reference")
    choice = choose_runtime(version, read_manifest(version), EXACT)
    assert choice.runtime.name == "openvino-float32"
    made = Reference.read(version / "derived" / REFERENCE)
    assert made is not None
    assert true is not None
    assert made.outputs.keys() == true.outputs.keys()


def test_int8_falls_back_for_an_unquantized_version(folder: Path) -> None:
    options = RuntimeOptions("openvino", "int8", 1)
    choice = choose_runtime(folder, read_manifest(folder), options)
    assert choice.runtime.name in ("openvino-bfloat16", "openvino-float32")
    assert choice.reason is not None
    assert "openvino-int8: this version is not quantized" in choice.reason
    with pytest.raises(RuntimeUnavailableError, match="not quantized"):
        OpenVinoRuntime(folder, read_manifest(folder), "int8", options)
