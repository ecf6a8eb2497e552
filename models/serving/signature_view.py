"""A view of a SavedModel with one signature as the default, made without TensorFlow.

OpenVINO reads the signature `serving_default` only, which is the first one that Keras wrote. So the
graph file is copied with one signature, renamed; the variables are linked. A protocol buffer is a
row of fields, each a tag, a length and a content, and only three levels of them matter here
(tensorflow/core/protobuf/saved_model.proto, meta_graph.proto):

    SavedModel.meta_graphs = 2  >  MetaGraphDef.signature_def = 5  >  map key = 1, value = 2
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_META_GRAPHS, _SIGNATURES, _KEY = 2, 5, 1
_LENGTH_DELIMITED = 2
_DEFAULT = "serving_default"


@contextmanager
def signature_view(saved_model: Path, endpoint: str) -> Iterator[Path]:
    """A folder that is the SavedModel with `endpoint` as its only and default signature.

    Args:
        saved_model: The folder of the SavedModel.
        endpoint: The name of one of its signatures.

    Raises:
        ValueError: It has no such signature, or is not a SavedModel.
    """
    graph = (saved_model / "saved_model.pb").read_bytes()
    with tempfile.TemporaryDirectory(prefix="opsin-view-") as folder:
        view = Path(folder)
        (view / "saved_model.pb").write_bytes(only_signature(graph, endpoint))
        (view / "variables").symlink_to((saved_model / "variables").absolute())
        yield view


def only_signature(graph: bytes, endpoint: str) -> bytes:
    """The content of a `saved_model.pb` with one signature left, renamed to the default.

    Raises:
        ValueError: It has no such signature, or is not a SavedModel.
    """
    matches = []

    def signature(entry: bytes) -> bytes | None:
        fields = list(_fields(entry))
        name = next(content for number, content, _ in fields if number == _KEY)
        if name != endpoint.encode():
            return None
        matches.append(name)
        return _field(_KEY, _DEFAULT.encode()) + b"".join(
            raw for number, _, raw in fields if number != _KEY
        )

    def meta_graph(content: bytes) -> bytes | None:
        return _replace_field(content, _SIGNATURES, signature)

    renamed = _replace_field(graph, _META_GRAPHS, meta_graph)
    if not matches:
        raise ValueError(f"the SavedModel has no signature {endpoint}")
    return renamed


def _replace_field(message: bytes, field: int, change: Callable[[bytes], bytes | None]) -> bytes:
    """The message with the content of one field changed; None removes the field."""
    parts = []
    for number, content, raw in _fields(message):
        if number != field:
            parts.append(raw)
        elif (changed := change(content)) is not None:
            parts.append(_field(field, changed))
    return b"".join(parts)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(content)) + content


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Number, content and raw bytes of each field; the content of a plain number is empty."""
    offset = 0
    while offset < len(message):
        start = offset
        tag, offset = _read_varint(message, offset)
        kind = tag & 7
        length = 0
        if kind == 0:
            _, offset = _read_varint(message, offset)
        elif kind == _LENGTH_DELIMITED:
            length, offset = _read_varint(message, offset)
        elif kind in (1, 5):
            offset += 8 if kind == 1 else 4
        else:
            raise ValueError("not a SavedModel")
        end = offset + length
        if end > len(message):
            raise ValueError("the SavedModel is truncated")
        yield tag >> 3, message[offset:end], message[start:end]
        offset = end


def _read_varint(message: bytes, offset: int) -> tuple[int, int]:
    """A varint, and the offset of the next byte."""
    value = shift = 0
    while offset < len(message):
        byte = message[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
        shift += 7
    raise ValueError("the SavedModel is truncated")


def _varint(value: int) -> bytes:
    """The bytes of a varint."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
