import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import BadRequest, OpsinError, PayloadTooLarge, ValidationFailed
from service.protocols.oip import ParsedInfer, RequestedOutput, encode_response, parse_infer
from service.protocols.tensor_spec import TensorSpec

SMALL = TensorSpec((4, 5, 3), 3)
SIZE = 4 * 5 * 3
PIXELS = np.arange(2 * SIZE, dtype=np.uint8).reshape(2, 4, 5, 3)


def request(**changes: Any) -> dict[str, Any]:
    """A good request of two pictures as JSON, with its one input changed."""
    tensor = {"name": "image", "shape": [2, 4, 5, 3], "datatype": "UINT8"}
    return {"inputs": [tensor | {"data": PIXELS.ravel().tolist()} | changes]}


def binary(**changes: Any) -> tuple[bytes, str]:
    """A good request of two binary pictures and the length of its JSON."""
    parameters = {"binary_data_size": 2 * SIZE}
    body = request(parameters=parameters, **changes)
    if "data" not in changes:
        del body["inputs"][0]["data"]
    head = json.dumps(body).encode()
    return head + PIXELS.tobytes(), str(len(head))


def read(body: dict[str, Any] | bytes, length: str | None = None) -> ParsedInfer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse_infer(raw, length, SMALL)


def test_json_may_be_flat_or_nested() -> None:
    for data in (PIXELS.ravel().tolist(), PIXELS.tolist()):
        ask = read(request(data=data) | {"id": "7"})
        assert np.array_equal(ask.pixels, PIXELS)
        assert ask.id == "7"
        assert ask.outputs == (RequestedOutput("probabilities", binary=False),)
        assert ask.timeout is None


def test_nulls_and_whole_floats_are_what_they_stand_for() -> None:
    plain = request(
        shape=[2.0, 4.0, 5.0, 3.0], data=PIXELS.ravel().astype(float).tolist(), parameters=None
    )
    ask = read(plain | {"id": None, "outputs": None, "parameters": None})
    assert np.array_equal(ask.pixels, PIXELS)
    assert ask.outputs == (RequestedOutput("probabilities", binary=False),)
    outputs = [{"name": "features", "parameters": None}]
    parameters = {"timeout": 0, "binary_data_output": None, "sequence_id": 0}
    ask = read(request() | {"outputs": outputs, "parameters": parameters})
    assert ask.outputs == (RequestedOutput("features", binary=False),)
    assert ask.timeout is None


def test_a_sequence_of_one_request_is_a_request() -> None:
    whole = {"sequence_id": 7, "sequence_start": True, "sequence_end": True}
    assert len(read(request() | {"parameters": whole}).pixels) == 2


def test_a_base_without_a_head_returns_features() -> None:
    base = TensorSpec((4, 5, 3), 3, ("features",))
    body = json.dumps(request()).encode()
    assert parse_infer(body, None, base).outputs == (RequestedOutput("features", binary=False),)
    body = json.dumps(request() | {"outputs": [{"name": "probabilities"}]}).encode()
    with pytest.raises(ValidationFailed, match="The outputs are features"):
        parse_infer(body, None, base)


@pytest.mark.parametrize("binary", [False, True], ids=["json", "bytes"])
def test_classification_names_the_largest_numbers(binary: bool) -> None:
    parameters = {"classification": 2, "binary_data": binary}
    outputs = [{"name": "probabilities", "parameters": parameters}]
    ask = read(request() | {"outputs": outputs})
    tensors = {"probabilities": np.array([[0.25, 0, 0.75], [0.5, 0.5, 0]], np.float32)}
    encoded = encode_response(ask, "m", 1, tensors, ["cat", "dog", "a: b"])
    head = json.loads(encoded.body[: encoded.json_length])
    (output,) = head["outputs"]
    texts = ["0.750000:2:a: b", "0.250000:0:cat", "0.500000:0:cat", "0.500000:1:dog"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2, 2])
    if not binary:
        assert output["data"] == texts
        return
    raw = b"".join(len(text).to_bytes(4, "little") + text.encode() for text in texts)
    assert encoded.body[encoded.json_length :] == raw
    assert output["parameters"] == {"binary_data_size": len(raw)}


def test_classification_of_features_has_no_labels() -> None:
    outputs = [{"name": "features", "parameters": {"classification": 99}}]
    ask = read(request() | {"outputs": outputs})
    tensors = {"features": np.array([[1.5, 2]], np.float32)}
    (output,) = json.loads(encode_response(ask, "m", 1, tensors, ["a", "b"]).body)["outputs"]
    assert output["data"] == ["2.000000:1", "1.500000:0"]


def test_binary_pixels_are_a_view_of_the_body() -> None:
    body, length = binary()
    ask = read(body, length)
    assert np.array_equal(ask.pixels, PIXELS)
    assert not ask.pixels.flags.owndata


def test_json_length_may_be_the_whole_body() -> None:
    body = json.dumps(request()).encode()
    assert len(read(body, str(len(body))).pixels) == 2


def test_output_format_is_chosen_per_output_or_request() -> None:
    outputs = [
        {"name": "features", "parameters": {"binary_data": False}},
        {"name": "probabilities"},
    ]
    parameters = {"binary_data_output": True, "timeout": 2_500_000, "mine": [1]}
    ask = read(request() | {"outputs": outputs, "parameters": parameters})
    assert ask.outputs == (
        RequestedOutput("features", binary=False),
        RequestedOutput("probabilities", binary=True),
    )
    assert [wanted.operation for wanted in ask.outputs] == ["embed", "classify"]
    assert ask.timeout == 2.5


@pytest.mark.parametrize(
    ("changes", "expected_text"),
    [
        ({"name": "input_1"}, "one input, 'image'"),
        ({"datatype": "FP32"}, "must be UINT8"),
        ({"shape": [2, 5, 4, 3]}, "[-1, 4, 5, 3]"),
        ({"shape": [4, 5, 3]}, "[-1, 4, 5, 3]"),
        ({"shape": [-1, 4, 5, 3]}, "1 to 3 images"),
        ({"shape": [0, 4, 5, 3]}, "1 to 3 images"),
        ({"shape": [4, 4, 5, 3]}, "1 to 3 images"),
        ({"shape": [10**30, 4, 5, 3]}, "1 to 3 images"),
        ({"shape": [1, 4, 5, 3]}, "do not form [60] or [1, 4, 5, 3]"),
        ({"data": [0] * 181}, "At most 180"),
        ({"shape": [3, 4, 5, 3]}, "do not form"),
        ({"shape": "2453"}, "inputs.0.shape"),
        ({"shape": [2.5, 4, 5, 3]}, "inputs.0.shape"),
        ({"shape": [True, 4, 5, 3]}, "inputs.0.shape"),
        ({"data": None}, "needs `data`"),
        ({"data": "AAAA"}, "needs `data`"),
        ({"data": {"b64": "AAAA"}}, "needs `data`"),
        ({"data": [-1] * (2 * SIZE)}, "0 to 255"),
        ({"data": [0.5] * (2 * SIZE)}, "0 to 255"),
        ({"data": [256] * (2 * SIZE)}, "0 to 255"),
        ({"data": [[0] * SIZE] * 2}, "do not form"),
        ({"parameters": {"shared_memory_region": "r"}}, "shared memory"),
        ({"parameters": {"binary_data_size": -1}}, "binary_data_size"),
        ({"parameters": {"binary_data_size": "120"}}, "binary_data_size"),
        ({"parameters": {"binary_data_size": 0}}, "both"),
        ({"parameters": []}, "inputs.0.parameters"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_invalid_input_is_explained(changes: dict[str, Any], expected_text: str) -> None:
    with pytest.raises((ValidationFailed, PayloadTooLarge)) as caught:
        read(request(**changes))
    assert expected_text in caught.value.detail


@pytest.mark.parametrize(
    ("change", "expected_text"),
    [
        ({"inputs": []}, "inputs"),
        ({"inputs": request()["inputs"] * 2}, "one input"),
        ({"inputs": None}, "inputs"),
        ({"id": 7}, "id"),
        ({"outputs": [{"name": "logits"}]}, "probabilities, features"),
        ({"outputs": [{"name": "features"}] * 2}, "name each once"),
        ({"outputs": [{"name": "features", "parameters": {"classification": -1}}]}, "classif"),
        (
            {"outputs": [{"name": "features", "parameters": {"shared_memory_region": "r"}}]},
            "does not support shared memory",
        ),
        ({"outputs": [{"name": "features", "parameters": {"binary_data": 1}}]}, "binary_data"),
        ({"parameters": {"timeout": -1}}, "timeout"),
        ({"parameters": {"sequence_id": 7}}, "does not support sequences"),
        ({"parameters": {"sequence_id": "a", "sequence_start": True}}, "sequence_id"),
        ({"parameters": {"sequence_id": 7, "sequence_end": True}}, "sequence_id"),
    ],
    ids=str,
)
def test_invalid_request_is_explained(change: dict[str, Any], expected_text: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        read(request() | change)
    assert expected_text in caught.value.detail


@pytest.mark.parametrize("length", ["-1", "1e3", "", "x", "99999", "٣", "9" * 30, "0", "10"])
def test_wrong_json_length_is_refused(length: str) -> None:
    body, _ = binary()
    with pytest.raises(BadRequest):
        read(body, length)


def test_wrong_binary_data_size_is_refused() -> None:
    body, length = binary()
    for wrong in (body[:-1], body + b"x"):
        with pytest.raises(BadRequest, match="bytes follow"):
            read(wrong, length)
    with pytest.raises(ValidationFailed, match="do not fill"):
        read(*binary(shape=[1, 4, 5, 3]))
    with pytest.raises(ValidationFailed, match="both"):
        read(*binary(data=[1]))
    head = json.dumps(request()).encode()
    with pytest.raises(BadRequest, match="does not mention"):
        read(head + b"x", str(len(head)))


def test_response_may_mix_json_and_bytes() -> None:
    outputs = (
        RequestedOutput("features", binary=True),
        RequestedOutput("probabilities", binary=False),
    )
    tensors = {
        "probabilities": np.array([[0.25, 0.75]], np.float32),
        "features": np.array([[1, 2, 3]], np.float32),
    }
    packed = encode_response(ParsedInfer("7", PIXELS, outputs, None), "m", 3, tensors)
    assert packed.json_length is not None
    head = json.loads(packed.body[: packed.json_length])
    assert head == {
        "model_name": "m",
        "model_version": "3",
        "id": "7",
        "outputs": [
            {
                "name": "features",
                "datatype": "FP32",
                "shape": [1, 3],
                "parameters": {"binary_data_size": 12},
            },
            {"name": "probabilities", "datatype": "FP32", "shape": [1, 2], "data": [0.25, 0.75]},
        ],
    }
    assert np.frombuffer(packed.body[packed.json_length :], "<f4").tolist() == [1, 2, 3]


def test_response_of_json_only() -> None:
    ask = ParsedInfer(None, PIXELS, (RequestedOutput("features", binary=False),), None)
    packed = encode_response(ask, "m", 1, {"features": np.zeros((2, 1), np.float32)})
    assert packed.json_length is None
    assert "id" not in json.loads(packed.body)


def refused_well(error: OpsinError) -> None:
    """It is one of the documented refusals, and can be sent."""
    assert error.meaning.status in {400, 413, 422}
    assert error.detail.encode()


WHOLE, EMBEDDING_SIZE = binary()


@settings(max_examples=400)
@given(
    at=st.integers(0, len(WHOLE)),
    put=st.binary(max_size=40),
    dropped=st.integers(0, 40),
    length=st.none() | st.integers(-5, len(WHOLE) + 50).map(str) | st.just(EMBEDDING_SIZE),
)
def test_damaged_binary_request_is_parsed_or_refused(
    at: int, put: bytes, dropped: int, length: str | None
) -> None:
    body = WHOLE[:at] + put + WHOLE[at + dropped :]
    try:
        ask = read(body, length)
    except OpsinError as error:
        refused_well(error)
    else:
        assert ask.pixels.shape[1:] == SMALL.image
        assert 1 <= len(ask.pixels) <= SMALL.max_images


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(max_examples=300)
@given(
    field=st.sampled_from(["name", "shape", "datatype", "parameters", "data"]),
    value=JSON,
    outside=st.dictionaries(st.sampled_from(["id", "parameters", "outputs", "inputs"]), JSON),
)
def test_any_json_in_any_field_is_parsed_or_refused(
    field: str, value: Any, outside: dict[str, Any]
) -> None:
    try:
        read(request(**{field: value}) | outside)
    except OpsinError as error:
        refused_well(error)


def test_any_timeout_is_a_number_of_seconds() -> None:
    ask = read(request() | {"parameters": {"timeout": 10**400}})
    assert ask.timeout is not None
    assert ask.timeout > 3600
