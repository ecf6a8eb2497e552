"""Versions with the same base share it: one compiled graph, and a head for each version."""

import gc
import shutil
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np
import pytest
from keras import layers

from contracts.inference.manifest import Draft, Endpoint
from models.catalog import CATALOG
from models.export.saved_model import _write_saved_model, export_version
from models.export.signatures import Blueprint, signatures
from models.networks.architecture import ARCHITECTURES, build
from models.networks.cnn import cnn
from models.serving.openvino import base_cut, head_file, runtime, shared_base, sharing
from models.serving.openvino.head_file import HEADS
from models.serving.openvino.runtime import OpenVinoExplainer, OpenVinoRuntime
from models.serving.predictor import VersionPredictor, load_version
from models.serving.runtime import RuntimeOptions
from models.store.labels import Label
from models.store.manifest import read_manifest
from models.store.store import Store
from tests.models import keras_warnings
from tests.models.drafts import DRAFT

pytestmark = keras_warnings.ignored

SIDE = 18  # every pool divides its maps evenly, as OpenVINO needs for heatmaps
IMAGES = np.random.default_rng(3).integers(0, 256, (5, SIDE, SIDE, 3), np.uint8)
LABELS = [Label("c", "cat"), Label("d", "dog")]
OPTIONS = RuntimeOptions("openvino", "float32", 2)
ENDPOINTS: tuple[Endpoint, ...] = ("serve", "features")
Layer = Callable[[Any], Any]


def head(*kinds: Layer, output: str = "softmax") -> Layer:
    """What follows the base's maps."""

    def follow(maps: Any) -> Any:
        for kind in kinds:
            maps = kind(maps)
        units = 1 if output == "sigmoid" else 2
        return layers.Dense(units, output, name="predictions")(maps)

    return follow


HEADS_OF_A_TRAINING: dict[str, Callable[[], Layer]] = {
    "average": lambda: head(layers.GlobalAveragePooling2D()),
    "maximum": lambda: head(layers.GlobalMaxPooling2D()),
    "flat": lambda: head(layers.Flatten()),
    "hidden": lambda: head(layers.GlobalAveragePooling2D(), layers.Dense(5, "relu")),
    "one sigmoid": lambda: head(layers.GlobalAveragePooling2D(), output="sigmoid"),
    "two sigmoids": lambda: lambda maps: layers.Dense(2, "sigmoid")(layers.Flatten()(maps)),
    "convolution": lambda: (
        lambda maps: layers.Softmax()(
            layers.GlobalAveragePooling2D()(layers.Conv2D(2, 1, activation="relu")(maps))
        )
    ),
}


def network(follow: Layer, seed: int = 5) -> keras.Model:
    """A base that depends on the seed only, and a head."""
    keras.utils.set_random_seed(seed)
    base = cnn("cnn_small", input_shape=(SIDE, SIDE, 3), include_top=False)
    return keras.Model(base.inputs[0], follow(base.outputs[0]))


BLUEPRINT = Blueprint("cnn_small", SIDE, "cover", "unit", "pool2", "conv2")


def written(
    folder: Path, model: keras.Model, blueprint: Blueprint = BLUEPRINT
) -> tuple[Path, Draft]:
    """The folder of a version that has the SavedModel only, and its draft."""
    endpoints = signatures(model, blueprint)
    vectors = {name: endpoints[name] for name in ENDPOINTS}
    _write_saved_model(vectors, folder / "saved_model")
    return folder, DRAFT.model_copy(update={"endpoints": ENDPOINTS})


def loaded(version: tuple[Path, Draft]) -> OpenVinoRuntime:
    return OpenVinoRuntime(*version, "float32", OPTIONS)


@pytest.fixture
def undivided(monkeypatch: pytest.MonkeyPatch) -> Callable[[tuple[Path, Draft]], OpenVinoRuntime]:
    """Loads a version as it was before: a graph for each endpoint."""

    def load(version: tuple[Path, Draft]) -> OpenVinoRuntime:
        with monkeypatch.context() as patched:
            patched.setattr(runtime, "share", lambda *_: None)
            return loaded(version)

    return load


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Draft]]:
    """One version for each kind of head, all on the same base."""
    folder = tmp_path_factory.mktemp("versions")
    return {
        kind: written(folder / kind, network(make())) for kind, make in HEADS_OF_A_TRAINING.items()
    }


def test_heads_of_every_kind_answer_as_before_on_a_shared_base(
    versions: dict[str, tuple[Path, Draft]],
    undivided: Callable[[tuple[Path, Draft]], OpenVinoRuntime],
) -> None:
    shared = {kind: loaded(version) for kind, version in versions.items()}
    bases = {kind: one.base for kind, one in shared.items()}
    # Heads that average begin with the average, the others with the maps.
    assert bases["average"] is bases["hidden"] is bases["one sigmoid"] is not None
    assert bases["flat"] is bases["maximum"] is bases["two sigmoids"] is not None
    assert bases["average"] is not bases["flat"]
    assert bases["convolution"] is None  # too much work for a head
    for kind, version in versions.items():
        before = undivided(version)
        assert before.base is None
        for endpoint in ENDPOINTS:
            expected, actual = (one.run(endpoint, IMAGES) for one in (before, shared[kind]))
            np.testing.assert_allclose(actual, expected, atol=1e-5, err_msg=f"{kind} {endpoint}")


@pytest.mark.slow
def test_published_network_shares_its_base_with_what_is_trained_on_it(
    tmp_path: Path,
    undivided: Callable[[tuple[Path, Draft]], OpenVinoRuntime],
) -> None:
    row, side = CATALOG["efficientnet_lite0"], 64
    published = build(row, input_size=(side, side), classes=7)
    end = published.get_layer(ARCHITECTURES[row.name].base_output).output
    trained = keras.Model(published.inputs[0], HEADS_OF_A_TRAINING["average"]()(end))
    images = np.random.default_rng(1).integers(0, 256, (3, side, side, 3), np.uint8)
    pair = [
        written(tmp_path / kind, model, Blueprint.of(row))
        for kind, model in (("published", published), ("trained", trained))
    ]
    shared = [loaded(version) for version in pair]
    assert shared[0].base is not None
    assert shared[0].base is shared[1].base
    for version, one in zip(pair, shared, strict=True):
        before = undivided(version)
        for endpoint in ENDPOINTS:
            expected = before.run(endpoint, images)
            np.testing.assert_allclose(one.run(endpoint, images), expected, rtol=1e-4, atol=1e-5)


def test_digest_is_that_of_the_base_alone(tmp_path: Path) -> None:
    first = loaded(written(tmp_path / "1", network(HEADS_OF_A_TRAINING["flat"](), seed=5)))
    same = loaded(written(tmp_path / "2", network(HEADS_OF_A_TRAINING["maximum"](), seed=5)))
    other = loaded(written(tmp_path / "3", network(HEADS_OF_A_TRAINING["flat"](), seed=6)))
    assert first.base is not None
    assert other.base is not None
    assert first.base is same.base
    assert other.base.digest != first.base.digest
    assert other.base is not first.base
    one_thread = RuntimeOptions("openvino", "float32", 1)
    again = OpenVinoRuntime(
        tmp_path / "1", DRAFT.model_copy(update={"endpoints": ENDPOINTS}), "float32", one_thread
    )
    assert again.base is not None
    assert again.base is not first.base
    assert again.base.digest == first.base.digest


def test_version_whose_work_is_behind_the_maps_is_not_divided(tmp_path: Path) -> None:
    many = head(layers.Flatten(), *(layers.Dense(4, "relu") for _ in range(4)))
    version = loaded(written(tmp_path / "deep", network(many)))
    assert version.base is None
    assert version.run("serve", IMAGES).shape == (5, 2)


def test_base_goes_with_its_last_version(tmp_path: Path) -> None:
    version = written(tmp_path / "own", network(HEADS_OF_A_TRAINING["average"](), seed=7))
    first, second = loaded(version), loaded(version)
    assert first.base is not None
    base = weakref.ref(first.base)
    del first
    gc.collect()
    assert base() is second.base
    del second
    gc.collect()
    assert base() is None
    assert loaded(version).run("serve", IMAGES).shape == (5, 2)


def test_equal_heads_are_compiled_once(versions: dict[str, tuple[Path, Draft]]) -> None:
    maximum, flat = (loaded(versions[kind]) for kind in ("maximum", "flat"))
    assert maximum._heads["features"] is flat._heads["features"] is not None
    assert maximum._heads["serve"] is not flat._heads["serve"]


def test_embedding_that_is_the_bases_output_needs_no_head(
    versions: dict[str, tuple[Path, Draft]],
) -> None:
    average = loaded(versions["average"])
    assert average._heads["features"] is None
    assert average.base is not None
    np.testing.assert_array_equal(average.run("features", IMAGES), average.base.run(IMAGES))


def test_versions_load_while_others_compute(versions: dict[str, tuple[Path, Draft]]) -> None:
    first = loaded(versions["average"])
    expected = first.run("serve", IMAGES)
    stopping = threading.Event()
    agreed: list[bool] = []

    def compute() -> None:
        while not stopping.is_set():
            agreed.append(np.allclose(first.run("serve", IMAGES), expected, atol=1e-6))

    threads = [threading.Thread(target=compute) for _ in range(2)]
    for thread in threads:
        thread.start()
    for kind in ("flat", "hidden", "maximum"):
        second = loaded(versions[kind])
        alone = second.run("serve", IMAGES[:2])
        runs = [second.run("serve", IMAGES[:2]) for _ in range(20)]
        agreed += [np.allclose(run, alone, atol=1e-6) for run in runs]
    stopping.set()
    for thread in threads:
        thread.join()
    assert len(agreed) > 60
    assert all(agreed)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Endpoint]:
    """The endpoints that were read from a SavedModel."""
    read: list[Endpoint] = []
    original = OpenVinoRuntime._read

    def recorded(self: OpenVinoRuntime, endpoint: Endpoint) -> Any:
        read.append(endpoint)
        return original(self, endpoint)

    monkeypatch.setattr(OpenVinoRuntime, "_read", recorded)
    return read


def own_copy(version: tuple[Path, Draft], target: Path) -> tuple[Path, Draft]:
    shutil.copytree(version[0], target)
    return target, version[1]


def test_known_version_is_loaded_without_its_saved_model(
    versions: dict[str, tuple[Path, Draft]], reads: list[Endpoint]
) -> None:
    first = loaded(versions["maximum"])
    second = loaded(versions["flat"])
    expected = second.run("serve", IMAGES)
    reads.clear()
    again = loaded(versions["flat"])
    assert reads == []
    assert again.base is first.base
    np.testing.assert_array_equal(again.run("serve", IMAGES), expected)


def damage(file: Path, content: bytes) -> None:
    file.write_bytes(content[:-400] + bytes(byte ^ 1 for byte in content[-400:]))


def truncate(file: Path, content: bytes) -> None:
    file.write_bytes(content[: len(content) // 2])


def replace(file: Path, content: bytes) -> None:
    file.write_bytes(b"no heads")


def damage_header(file: Path, content: bytes) -> None:
    """So that Python's tokenizer does not find its end."""
    at = content.index(b"{'descr'")
    file.write_bytes(content[:at] + b"(" + content[at + 1 :])


@pytest.mark.parametrize(
    "harm", [damage, damage_header, truncate, replace, lambda file, _: file.unlink()]
)
def test_harmed_heads_are_read_from_the_saved_model(
    versions: dict[str, tuple[Path, Draft]],
    tmp_path: Path,
    reads: list[Endpoint],
    harm: Callable[[Path, bytes], None],
) -> None:
    version = own_copy(versions["flat"], tmp_path / "flat")
    first = loaded(version)
    expected = first.run("serve", IMAGES)
    file = tmp_path / "flat" / "derived" / HEADS
    harm(file, file.read_bytes())
    reads.clear()
    assert head_file.kept_base(tmp_path / "flat") in {None, first.base and first.base.digest}
    again = loaded(version)
    assert set(reads) == {*ENDPOINTS}
    np.testing.assert_allclose(again.run("serve", IMAGES), expected, atol=1e-6)
    reads.clear()
    loaded(version)
    assert reads == []  # written again


def test_heads_of_other_files_are_not_used(
    versions: dict[str, tuple[Path, Draft]], tmp_path: Path, reads: list[Endpoint]
) -> None:
    """Such as those of a version whose files were replaced, or copied from elsewhere."""
    target = own_copy(versions["average"], tmp_path / "average")
    kept = [loaded(target), loaded(versions["hidden"])]
    expected = kept[1].run("serve", IMAGES)
    source = versions["average"][0] / "derived" / HEADS
    assert source.is_file()
    changed = own_copy(versions["hidden"], tmp_path / "hidden")
    shutil.copy(source, tmp_path / "hidden" / "derived" / HEADS)
    reads.clear()
    np.testing.assert_allclose(loaded(changed).run("serve", IMAGES), expected, atol=1e-6)
    assert reads


def test_heads_of_another_openvino_are_not_used(
    versions: dict[str, tuple[Path, Draft]], monkeypatch: pytest.MonkeyPatch, reads: list[Endpoint]
) -> None:
    kept = loaded(versions["average"])
    reads.clear()
    monkeypatch.setattr(runtime.import_openvino(), "get_version", lambda: "another")
    assert loaded(versions["average"]).base is kept.base
    assert reads


def test_folder_that_cannot_be_written_to_is_served(
    versions: dict[str, tuple[Path, Draft]], tmp_path: Path
) -> None:
    version = own_copy(versions["flat"], tmp_path / "flat")
    shutil.rmtree(tmp_path / "flat" / "derived", ignore_errors=True)
    (tmp_path / "flat" / "derived").write_text("a file where the folder would be")
    assert loaded(version).run("serve", IMAGES).shape == (5, 2)


@pytest.mark.parametrize("error", [FileNotFoundError("no temporary folder"), RuntimeError("full")])
def test_version_whose_heads_cannot_be_written_is_served(
    versions: dict[str, tuple[Path, Draft]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    version = own_copy(versions["flat"], tmp_path / "flat")
    shutil.rmtree(tmp_path / "flat" / "derived", ignore_errors=True)

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(head_file, "_serialized", fail)
    assert loaded(version).run("serve", IMAGES).shape == (5, 2)
    assert not (tmp_path / "flat" / "derived" / HEADS).exists()


def test_workers_with_one_process_id_keep_heads_at_once(
    versions: dict[str, tuple[Path, Draft]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in containers: each writes a file of its own."""
    version = own_copy(versions["flat"], tmp_path / "flat")
    derived = tmp_path / "flat" / "derived"
    shutil.rmtree(derived, ignore_errors=True)
    drafts: set[str] = set()
    write = np.savez

    def recorded(file: Any, **arrays: Any) -> None:
        drafts.update(path.name for path in derived.iterdir() if path.name != HEADS)
        write(file, **arrays)

    monkeypatch.setattr(np, "savez", recorded)
    loaded(version)
    (derived / HEADS).unlink()
    loaded(version)
    assert len(drafts) == 2
    assert [path.name for path in derived.iterdir()] == [HEADS]


def test_operations_with_graphs_of_their_own_have_no_digest() -> None:
    """Python does not show what is in them."""
    openvino = runtime.import_openvino()
    operations = openvino.opset13

    def branching(added: float) -> Any:
        """Adds a number within a branch."""
        images = operations.parameter([-1, 4, 4, 3], np.float32)
        inner = [operations.parameter([-1, 4, 4, 3], np.float32) for _ in range(2)]
        bodies = [
            openvino.Model([operations.result(operations.add(one, np.float32(plus)))], [one], "b")
            for one, plus in zip(inner, (added, 0), strict=True)
        ]
        node = operations.if_op(operations.constant(True))
        node.set_then_body(bodies[0])
        node.set_else_body(bodies[1])
        node.set_input(images.output(0), *inner)
        node.set_output(bodies[0].results[0], bodies[1].results[0])
        return openvino.Model([operations.result(node.output(0))], [images], "m")

    assert base_cut._digests(branching(1)) == {}
    assert base_cut.divide(openvino, {"serve": branching(1), "features": branching(2)}) is None


def test_large_heads_do_not_count_as_little_memory(
    versions: dict[str, tuple[Path, Draft]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = loaded(versions["average"])
    assert first.base is not None
    folder = versions["average"][0]
    assert head_file.kept_base(folder) == first.base.digest
    monkeypatch.setattr(head_file, "SMALL", (folder / "derived" / HEADS).stat().st_size - 1)
    assert head_file.kept_base(folder) is None


def test_large_heads_are_not_kept(
    versions: dict[str, tuple[Path, Draft]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_file, "_LARGEST", 10)
    version = own_copy(versions["flat"], tmp_path / "flat")
    shutil.rmtree(tmp_path / "flat" / "derived", ignore_errors=True)
    assert loaded(version).base is not None
    assert not (tmp_path / "flat" / "derived" / HEADS).exists()


class HintedCore:
    """A core of a processor with bfloat16, as far as it is asked; computes in float32."""

    def __init__(self) -> None:
        self.hints: list[tuple[str, str]] = []
        self._core = runtime.converting_core(runtime.import_openvino())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def get_property(self, device: str, name: str) -> Any:
        return ["FP32", "BF16"]

    def compile_model(self, model: Any, device: str, properties: dict[str, Any]) -> Any:
        self.hints.append((model.get_friendly_name(), properties["INFERENCE_PRECISION_HINT"]))
        return self._core.compile_model(
            model, device, properties | {"INFERENCE_PRECISION_HINT": "f32"}
        )


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("average", [("base", "bf16"), ("head", "f32")]),
        ("hidden", [("base", "bf16"), ("head", "f32")]),
        ("flat", [("base", "bf16"), ("head", "f32"), ("head", "f32")]),
    ],
)
def test_small_heads_compute_in_float32(
    versions: dict[str, tuple[Path, Draft]],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    expected: list[tuple[str, str]],
) -> None:
    core = HintedCore()
    monkeypatch.setattr(runtime, "_core", lambda: core)
    monkeypatch.setattr(shared_base, "_bases", weakref.WeakValueDictionary())
    version = OpenVinoRuntime(*versions[kind], "bfloat16", OPTIONS)
    assert core.hints == expected
    exact = loaded(versions[kind])
    assert version.base is not None
    assert exact.base is not None
    assert version.base is not exact.base
    assert version.base.digest == exact.base.digest
    np.testing.assert_allclose(version.run("serve", IMAGES), exact.run("serve", IMAGES), atol=1e-6)


def test_large_head_computes_in_the_precision_of_its_base_except_the_last_product(
    versions: dict[str, tuple[Path, Draft]], monkeypatch: pytest.MonkeyPatch
) -> None:
    core = HintedCore()
    monkeypatch.setattr(runtime, "_core", lambda: core)
    monkeypatch.setattr(shared_base, "_bases", weakref.WeakValueDictionary())
    monkeypatch.setattr(sharing, "_SMALL_HEAD", 10)
    OpenVinoRuntime(*versions["hidden"], "bfloat16", OPTIONS)
    assert [hint for _, hint in core.hints[:3]] == ["bf16", "f32", "bf16"]


def test_base_that_ends_in_a_product_is_compiled_in_pieces_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the face embedder's, whose output is its base's: the last product is in float32."""
    keras.utils.set_random_seed(9)
    base = cnn("cnn_small", input_shape=(SIDE, SIDE, 3), include_top=False)
    vector = layers.Dense(6, name="vector")(layers.GlobalAveragePooling2D()(base.outputs[0]))
    model = keras.Model(base.inputs[0], vector)
    blueprint = Blueprint("cnn_small", SIDE, "cover", "unit", "vector", "conv2")
    _write_saved_model(signatures(model, blueprint), tmp_path / "saved_model")
    draft = DRAFT.model_copy(update={"endpoints": ("features",)})
    expected = OpenVinoRuntime(tmp_path, draft, "float32", OPTIONS).run("features", IMAGES)
    core = HintedCore()
    monkeypatch.setattr(runtime, "_core", lambda: core)
    version = OpenVinoRuntime(tmp_path, draft, "bfloat16", OPTIONS)
    version.parallelize()
    assert [hint for _, hint in core.hints] == ["f32", *["bf16"] * 4]
    np.testing.assert_allclose(version.run("features", IMAGES), expected, atol=1e-5)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """`one`, `two` and `three` on the same base, `other` on another."""
    store = Store(tmp_path_factory.mktemp("home") / "store")
    kinds = {"one": ("average", 5), "two": ("hidden", 5), "other": ("average", 6)}
    for name, (kind, seed) in kinds.items():
        with store.staging() as folder:
            draft = export_version(
                network(HEADS_OF_A_TRAINING[kind](), seed),
                BLUEPRINT,
                folder,
                images=IMAGES,
                labels=LABELS,
            )
            store.promote(name, store.publish(name, folder, draft))
    return store


def predictor(store: Store, name: str) -> VersionPredictor:
    return load_version(store, name, max_batch_size=4, options=OPTIONS)


def test_predictors_of_one_base_have_the_same_object(store: Store) -> None:
    one, two, other = (predictor(store, name) for name in ("one", "two", "other"))
    assert one.base is not None
    assert one.base is two.base
    assert other.base is not one.base
    maps = one.base.run(IMAGES)
    for each in (one, two):
        for operation in ("classify", "embed"):
            expected = each.run(operation, IMAGES)
            np.testing.assert_allclose(each.finish(operation, maps), expected, atol=1e-6)
            part = each.finish(operation, maps[2:4])
            np.testing.assert_allclose(part, expected[2:4], atol=1e-6)


def test_explanations_share_a_base_of_their_own(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explainer(name: str) -> OpenVinoExplainer:
        return OpenVinoExplainer(store.path(name, 1), "explain", "float32", OPTIONS)

    monkeypatch.setattr(base_cut, "_is_heavy", lambda *_: False)  # gradients double the head
    one, two, other = map(explainer, ("one", "two", "other"))
    assert one._base is two._base is not None
    assert other._base is not one._base
    assert one.parallelize()
    assert not two.parallelize(), "another version's base has run already"
    monkeypatch.setattr(runtime, "share_graph", lambda *_: None)
    classes = np.array([0, 1, -1, 0, 1], np.int32)
    for name, shared in (("one", one), ("two", two), ("other", other)):
        whole = explainer(name)
        assert whole._base is None
        expected = whole.explain(IMAGES, classes)
        for count in (5, 1, 5):  # buffers are released in between
            for key, actual in shared.explain(IMAGES[:count], classes[:count]).items():
                np.testing.assert_allclose(actual, expected[key][:count], atol=1e-5)


def test_base_is_measured_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_base, "_bases", weakref.WeakValueDictionary())
    one = predictor(store, "one")
    monkeypatch.setattr(one, "_timed", lambda _, images: (len(images) ** 2 / 100,) * 2)
    one.warm(seconds=60)
    assert one.batch_sizes == (1,)
    two = predictor(store, "two")
    monkeypatch.setattr(two, "_timed", lambda *_: pytest.fail("it was measured again"))
    two.warm()
    assert two.batch_sizes == (1,)


def test_tensorflow_has_no_base(store: Store) -> None:
    assert load_version(store, "one", max_batch_size=4).base is None


def test_deviating_head_is_refused_on_a_shared_base(store: Store, tmp_path: Path) -> None:
    """The gate compares every version, whatever is known of its base."""
    folder = tmp_path / "1"
    shutil.copytree(store.path("one", 1), folder)
    file = folder / "reference.npz"
    with np.load(file) as arrays:
        contents = dict(arrays)
    np.savez(file, allow_pickle=False, **(contents | {"serve": contents["serve"][:, ::-1]}))
    kept = predictor(store, "one")
    assert kept.base is not None
    refused = VersionPredictor(folder, max_batch_size=4, options=OPTIONS)
    assert refused.runtime == "tensorflow-float32"
    assert "a probability deviated" in (refused.runtime_reason or "")


def test_draft_and_manifest_name_the_same_sources(store: Store) -> None:
    """So a training writes heads that the inference worker uses."""
    manifest = read_manifest(store.path("one", 1))
    draft = Draft.model_validate(manifest.model_dump())
    folder = store.path("one", 1)
    assert head_file._sources(folder, draft) == head_file._sources(folder, manifest)
    assert len(cast("dict[str, str]", head_file._sources(folder, draft))) >= 3
