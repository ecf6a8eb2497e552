"""A SavedModel seen through one of its signatures, made without TensorFlow.

OpenVINO reads `serving_default` and no other signature, and that is the first one that Keras
wrote. So the graph file is copied with the signatures renamed; the variables are only linked to.
A protocol buffer is a row of fields, each a tag, a length and a content, and three levels of them
are all that has to be understood (tensorflow/core/protobuf/saved_model.proto, meta_graph.proto):

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
        saved_model: The real one.
        endpoint: The name of one of its signatures.

    Raises:
        ValueError: It has no such signature, or is no SavedModel.
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
        ValueError: It has no such signature, or is no SavedModel.
    """
    found = []

    def signature(entry: bytes) -> bytes | None:
        fields = list(_fields(entry))
        name = next(content for number, content, _ in fields if number == _KEY)
        if name != endpoint.encode():
            return None
        found.append(name)
        return _field(_KEY, _DEFAULT.encode()) + b"".join(
            raw for number, _, raw in fields if number != _KEY
        )

    def meta_graph(content: bytes) -> bytes | None:
        return _with(content, _SIGNATURES, signature)

    renamed = _with(graph, _META_GRAPHS, meta_graph)
    if not found:
        raise ValueError(f"the SavedModel has no signature {endpoint}")
    return renamed


def _with(message: bytes, wanted: int, change: Callable[[bytes], bytes | None]) -> bytes:
    """The message with the content of one field changed; None takes the field away."""
    parts = []
    for number, content, raw in _fields(message):
        if number != wanted:
            parts.append(raw)
        elif (changed := change(content)) is not None:
            parts.append(_field(wanted, changed))
    return b"".join(parts)


def _field(number: int, content: bytes) -> bytes:
    return _written(number << 3 | _LENGTH_DELIMITED) + _written(len(content)) + content


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Number, content and raw bytes of each field; the content of a plain number is empty."""
    at = 0
    while at < len(message):
        began = at
        tag, at = _read(message, at)
        kind = tag & 7
        length = 0
        if kind == 0:
            _, at = _read(message, at)
        elif kind == _LENGTH_DELIMITED:
            length, at = _read(message, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError("not a SavedModel")
        end = at + length
        if end > len(message):
            raise ValueError("the SavedModel ends before it is whole")
        yield tag >> 3, message[at:end], message[began:end]
        at = end


def _read(message: bytes, at: int) -> tuple[int, int]:
    """A varint, and where the next byte is."""
    value = shift = 0
    while at < len(message):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("the SavedModel ends before it is whole")


def _written(value: int) -> bytes:
    """A varint's bytes."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
