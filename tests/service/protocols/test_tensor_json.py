import json
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import BadRequest, OpsinError, PayloadTooLarge, ValidationFailed
from contracts.queue.messages import Pixels
from service.protocols import tensor_json
from service.protocols.tensor_json import Numbers, numbers_of, parse


def noise(*shape: int) -> Pixels:
    return np.random.default_rng(8).integers(0, 256, shape, np.uint8)


def read(value: Any, *shapes: tuple[int, ...], max_numbers: int = 1_000_000) -> Pixels:
    numbers = numbers_of(value)
    assert numbers is not None
    return numbers.read(*shapes, max_numbers=max_numbers)


@pytest.mark.parametrize("options", [{}, {"indent": 1}, {"separators": (",", ":")}])
@pytest.mark.parametrize("shape", [(2, 60, 50, 3), (1, 2, 2, 3)], ids=["long", "short"])
def test_nested_numbers_survive_a_round_trip(
    shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    pixels = noise(*shape)
    text = json.dumps({"a": {"data": pixels.tolist()}, "b": [1, "x"]}, **options).encode()
    document = parse(text)
    assert document["b"] == [1, "x"]
    assert np.array_equal(read(document["a"]["data"], shape), pixels)
    assert np.array_equal(read(document["a"]["data"], (-1, *shape[1:])), pixels)


@pytest.mark.parametrize("options", [{}, {"indent": 1}, {"separators": (",", ":")}])
@pytest.mark.parametrize("count", [12, 300_000], ids=["short", "long"])
def test_whole_numbers_may_be_written_as_floats(count: int, options: dict[str, Any]) -> None:
    pixels = noise(count)
    text = json.dumps(pixels.astype(float).tolist(), **options).encode()
    assert b"255.0" in text or count == 12
    assert np.array_equal(read(parse(text), (count,)), pixels)


def test_scaled_numbers_are_refused_as_such() -> None:
    """Not as too long: 0.0039 takes more characters than any whole number of a pixel."""
    text = json.dumps((noise(3000) / 255).tolist()).encode()
    with pytest.raises(ValidationFailed, match="whole numbers from 0 to 255"):
        read(parse(text), (3000,), max_numbers=3000)


def test_flat_numbers_have_another_shape() -> None:
    pixels = noise(500)
    value = parse(json.dumps(pixels.tolist()).encode())
    assert np.array_equal(read(value, (10, 50), (500,)), pixels)
    with pytest.raises(ValidationFailed, match="do not form"):
        read(value, (10, 50))


def test_array_longer_than_a_block_is_read() -> None:
    pixels = noise(2_000_000)
    value = parse(json.dumps(pixels.tolist()).encode())
    assert isinstance(value, Numbers)
    assert np.array_equal(read(value, (-1,), max_numbers=2_000_000), pixels)


def test_a_byte_order_mark_is_skipped() -> None:
    assert parse(b"\xef\xbb\xbf" + b'{"a": 1}') == {"a": 1}


def test_array_inside_a_string_stays_a_string() -> None:
    text = '"data": [' + "1," * 500 + "1], \\"
    document = parse(json.dumps({"id": text, "data": [1]}).encode())
    assert document == {"id": text, "data": [1]}


@pytest.mark.parametrize(
    "row",
    [
        "256",
        "1000",
        "-1",
        "0.5",
        "1.5",
        "1.",
        ".0",
        "1.0.0",
        "1e9",
        "256.0",
        "NaN",
        "null",
        "true",
        "[1]",
        "1 2",
        "01",
        "0x1",
        "",
        "1,",
    ],
)
def test_values_other_than_pixels_are_refused(row: str) -> None:
    for count in (5, 500):
        text = "[" + "7," * count + row + "]"
        with pytest.raises((ValidationFailed, BadRequest)):
            read(parse(text.encode()), (count + 1,))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b'{"a": "',
        b'{"a": "\\"',
        b'{"a": 1} x',
        b"\xff\xfe{}",
        b'"\\ud800"',
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 10_000,
        b'"' + b"\\" * 100_000 + b'"',
        b'"' * 100_001,
        b'["a",' + b"{}," * 100_000 + b"0]",
        b'{"a": NaN}',
        b"9" * 5000,
    ],
    ids=lambda text: text[:12].decode("latin-1"),
)
def test_hostile_json_is_refused_quickly(text: bytes) -> None:
    began = time.monotonic()
    with pytest.raises((BadRequest, ValidationFailed)):
        read(parse(text), (3,))
    assert time.monotonic() - began < 30


def test_too_many_numbers_are_refused_before_reading() -> None:
    value = parse(b"[" + b"1," * 100_000 + b"1]")
    with pytest.raises(PayloadTooLarge):
        read(value, (-1,), max_numbers=20_000)
    with pytest.raises(PayloadTooLarge):
        read(value, (-1,), max_numbers=100_000)
    assert read(value, (-1,), max_numbers=100_001).all()


def test_white_space_is_bounded() -> None:
    value = parse(b"[" + b" " * 100_000 + b"1]")
    with pytest.raises(PayloadTooLarge):
        read(value, (1,), max_numbers=1)


@settings(max_examples=300)
@given(st.binary(max_size=2000) | st.text('[]{},:" 019-.eN\\', max_size=2000).map(str.encode))
def test_any_bytes_are_parsed_or_refused(text: bytes) -> None:
    try:
        value = parse(text)
        if (numbers := numbers_of(value)) is not None:
            numbers.read((-1,), max_numbers=1000)
    except OpsinError:
        pass


@settings(max_examples=200)
@given(st.text("[],0123456789 -.", min_size=512, max_size=4000))
def test_long_arrays_are_read_like_json(middle: str) -> None:
    text = "[" + "1," * 300 + "1" + middle + "]"
    try:
        expected = json.loads(text)
        assert isinstance(expected, list)
        valid = all(type(one) is int and 0 <= one <= 255 for one in expected)
    except (ValueError, AssertionError):
        valid = False
    try:
        levels = read(parse(text.encode()), (-1,), max_numbers=10_000)
    except OpsinError:
        assert not valid
    else:
        assert levels.tolist() == expected


def test_long_arrays_are_read_in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is done with one of them holds the interpreter lock."""
    sizes = list[int]()

    def counted(text: bytes) -> bytes:
        sizes.append(len(text))
        return without(text)

    without = tensor_json._without_fractions
    monkeypatch.setattr(tensor_json, "_without_fractions", counted)
    numbers = np.random.default_rng(0).integers(0, 256, 1_000_000)
    text = b"[" + b", ".join(b"%d.0" % number for number in numbers) + b"]"
    read = Numbers(text).read((-1,), max_numbers=numbers.size)
    assert np.array_equal(read, numbers)
    assert max(sizes) <= 200_000
    assert sum(sizes) == len(text)
    sizes.clear()
    with pytest.raises(ValidationFailed, match="whole numbers"):
        Numbers(b"[1.5," + text[1:]).read((-1,), max_numbers=2 * numbers.size)
    assert len(sizes) == 1, "refused at once"
