import base64
import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import OpsinError, PayloadTooLarge, ValidationFailed
from service.protocols import tfserving
from service.protocols.tensor_spec import TensorSpec
from service.protocols.tfserving import ParsedPredict, encode_response, parse_predict

SMALL = TensorSpec((4, 5, 3), 3)
PIXELS = np.arange(2 * 60, dtype=np.uint8).reshape(2, 4, 5, 3)
LISTS = PIXELS.tolist()
FILE = bytes(range(101, 256))
B64 = {"b64": base64.b64encode(FILE).decode()}


def read(body: Any) -> ParsedPredict:
    return parse_predict(json.dumps(body).encode(), SMALL, 200)


@pytest.mark.parametrize(
    ("body", "key"),
    [
        ({"instances": LISTS}, "predictions"),
        ({"instances": [{"image": one} for one in LISTS]}, "predictions"),
        ({"inputs": LISTS}, "outputs"),
        ({"inputs": {"image": LISTS}}, "outputs"),
    ],
)
def test_numbers_as_instances_or_inputs(body: Any, key: str) -> None:
    ask = read(body)
    assert ask.response_key == key
    assert ask.operation == "classify"
    assert np.array_equal(
        np.stack([one for one in ask.images if isinstance(one, np.ndarray)]), PIXELS
    )


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ({"instances": [B64, {"image": B64}]}, 2),
        ({"inputs": [B64]}, 1),
        ({"inputs": B64}, 1),
        ({"inputs": {"image": [B64, B64, B64]}}, 3),
        ({"instances": [{"b64": B64["b64"].replace("+", "-").replace("/", "_")}]}, 1),
        ({"instances": [{"b64": B64["b64"].rstrip("=")}]}, 1),
        ({"instances": [{"b64": base64.encodebytes(FILE).decode()}]}, 1),
        ({"instances": [{"b64": base64.encodebytes(FILE).decode().replace("\n", "\r\n")}]}, 1),
        ({"instances": [{"b64": base64.urlsafe_b64encode(FILE).decode().rstrip("=")}]}, 1),
        ({"instances": [{"b64": f"data:image/png;base64,{B64['b64']}"}]}, 1),
        ({"instances": [B64], "inputs": None, "signature_name": None}, 1),
    ],
)
def test_encoded_images_are_found(body: Any, count: int) -> None:
    assert list(read(body).images) == [FILE] * count


def test_numbers_and_encoded_images_in_one_request() -> None:
    first, second = read({"instances": [B64, {"image": LISTS[1]}]}).images
    assert first == FILE
    assert np.array_equal(second, PIXELS[1])  # type: ignore[arg-type] # told apart above


@pytest.mark.parametrize(
    ("name", "operation"),
    [(None, "classify"), ("", "classify"), ("serve", "classify"), ("features", "embed")],
)
def test_signature_selects_the_operation(name: str | None, operation: str) -> None:
    assert read({"signature_name": name, "instances": LISTS}).operation == operation


@pytest.mark.parametrize(
    "body",
    [
        [],
        7,
        {},
        {"instances": LISTS, "inputs": LISTS},
        {"instances": LISTS, "signature_name": "explain"},
        {"instances": LISTS, "signature_name": 7},
        {"instances": LISTS, "signature_name": ["serve"]},
        {"instances": []},
        {"instances": None},
        {"instances": "AAAA"},
        {"instances": LISTS[0]},
        {"instances": LISTS * 2},
        {"instances": [B64] * 4},
        {"instances": [B64, LISTS[0][0]]},
        {"instances": [{"image": LISTS}]},
        {"instances": [{"picture": B64}]},
        {"instances": [B64 | {"more": 1}]},
        {"inputs": {"image": LISTS, "more": LISTS}},
        {"inputs": {}},
        {"instances": [[[[0.5] * 3] * 5] * 4]},
        {"instances": [[[[-1] * 3] * 5] * 4]},
        {"instances": [[[[256] * 3] * 5] * 4]},
        {"instances": [[[["a"] * 3] * 5] * 4]},
    ],
    ids=lambda body: str(body)[:40],
)
def test_invalid_body_is_refused(body: Any) -> None:
    with pytest.raises(OpsinError) as caught:
        read(body)
    assert caught.value.meaning.status in {413, 422}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "invalid_image"),
        ("not base64", "invalid_image"),
        ("AAAAA", "invalid_image"),
        ("AA=A", "invalid_image"),
        ("ÄÄÄÄ", "invalid_image"),
        (7, "invalid_image"),
        (base64.b64encode(bytes(220)).decode(), "payload_too_large"),
    ],
)
def test_invalid_base64_is_an_image_error(text: Any, code: str) -> None:
    good, bad = read({"instances": [B64, {"b64": text}]}).images
    assert good == FILE
    assert isinstance(bad, OpsinError)
    assert bad.code == code


def test_response_has_a_row_for_each_image() -> None:
    rows = np.array([[0.25, 0.75], [1, 0]], np.float32)
    assert json.loads(encode_response(read({"inputs": LISTS}), rows)) == {"outputs": rows.tolist()}
    assert json.loads(encode_response(read({"instances": LISTS}), rows)) == {
        "predictions": rows.tolist()
    }


def test_error_describes_a_valid_image() -> None:
    with pytest.raises(ValidationFailed, match=r"\[4, 5, 3\].*b64"):
        read({"instances": [{"picture": B64}]})


def refused_well(error: OpsinError) -> None:
    """It is one of the documented refusals, and can be sent."""
    assert error.meaning.status in {400, 413, 422}
    assert error.detail.encode()


JSON = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=5) | st.just(LISTS[0]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["b64", "image", "x"]), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(["instances", "inputs", "signature_name"]), JSON))
def test_any_body_is_parsed_or_refused(body: dict[str, Any]) -> None:
    try:
        ask = read(body)
    except OpsinError as error:
        refused_well(error)
    else:
        assert 1 <= len(ask.images) <= SMALL.max_images


def test_long_strings_are_not_copied() -> None:
    size = 20_000_000
    # One character beyond Unicode's first plane makes Python store four bytes for each.
    text = "a" * size + "\N{GRINNING FACE}"
    encoded = base64.b64encode(bytes(30_000)).decode()
    body = {"x": text, "instances": [{"b64": text}, {"b64": encoded}]}
    raw = json.dumps(body, ensure_ascii=False).encode()
    del body
    tracemalloc.start()
    try:
        bad, good = parse_predict(raw, SMALL, 40_000).images
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(bad, PayloadTooLarge)
    assert good == bytes(30_000)
    assert peak < size // 4


@pytest.mark.parametrize("escaped", ["/", "+", "="])
def test_base64_may_be_escaped_as_some_json_libraries_do(escaped: str) -> None:
    data = bytes(range(256)) * 40 + b"\xff\xfe"
    text = base64.b64encode(data).decode()
    for replacement in (f"\\u{ord(escaped):04x}", "\\/" if escaped == "/" else escaped):
        raw = '{"instances":[{"b64":"TEXT"}]}'.replace("TEXT", text.replace(escaped, replacement))
        assert parse_predict(raw.encode(), SMALL, len(data)).images == [data]


@given(
    data=st.binary(max_size=200),
    alphabet=st.sampled_from(["+/", "-_"]),
    line=st.integers(1, 80),
    padded=st.booleans(),
    prefix=st.sampled_from(["", "data:image/png;base64,"]),
    block=st.integers(30, 90),
)
def test_base64_of_any_length_is_decoded_in_pieces(
    data: bytes, alphabet: str, line: int, padded: bool, prefix: str, block: int
) -> None:
    text = base64.b64encode(data, alphabet.encode()).decode()
    text = "\r\n".join(text[at : at + line] for at in range(0, len(text), line))
    text = prefix + (text if padded else text.rstrip("="))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfserving, "_BLOCK", block)
        assert tfserving._decode_base64(text) == data
        for spoilt in (text + "=a", text + "!", text[:-1] + "=" + text[-1:] + "aaaa"):
            if data:
                with pytest.raises(ValueError):
                    tfserving._decode_base64(spoilt)
