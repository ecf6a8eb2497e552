import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.queue.messages import (
    ID_LENGTH,
    ID_OFFSET,
    Item,
    MalformedMessageError,
    Reply,
    pack_bundle,
    unpack_bundle,
)

ID = bytes(range(16))


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 2),
    st.text(max_size=40),
    st.integers(-1, 2**31 - 1),
    st.binary(max_size=300),
)
def test_item_survives_packing(
    height: int, width: int, attempt: int, reply_to: str, class_index: int, note: bytes
) -> None:
    pixels = np.arange(height * width * 3, dtype=np.uint64).astype(np.uint8)
    pixels = pixels.reshape(height, width, 3)
    item = Item(ID, 2e9, 1.9e9, reply_to, pixels, attempt, class_index, note)
    unpacked = Item.unpack(item.pack())
    assert (unpacked.id, unpacked.deadline, unpacked.enqueued) == (ID, 2e9, 1.9e9)
    assert (unpacked.reply_to, unpacked.attempt) == (reply_to, attempt)
    assert (unpacked.class_index, unpacked.note) == (class_index, note)
    np.testing.assert_array_equal(unpacked.pixels, pixels)


def test_id_is_where_the_lua_scripts_expect_it() -> None:
    raw = Item(ID, 0, 0, "r", np.zeros((1, 1, 3), np.uint8)).pack()
    assert raw[ID_OFFSET - 1 : ID_OFFSET - 1 + ID_LENGTH] == ID


def test_reply_survives_packing() -> None:
    vector = np.linspace(0, 1, 1000, dtype=np.float32)
    unpacked = Reply.unpack(Reply(ID, 3, 8, 0.5, 0.25, vector=vector, note=b"a note").pack())
    assert unpacked.note == b"a note"
    assert (
        unpacked.version,
        unpacked.batch_size,
        unpacked.queue_seconds,
        unpacked.compute_seconds,
    ) == (
        3,
        8,
        0.5,
        0.25,
    )
    assert unpacked.vector is not None
    np.testing.assert_array_equal(unpacked.vector, vector)


def test_error_survives_packing() -> None:
    unpacked = Reply.unpack(Reply(ID, 1, 1, 0, 0, error=("internal_error", "a\nb")).pack())
    assert unpacked.error == ("internal_error", "a\nb")
    assert unpacked.vector is None


@given(st.binary(max_size=200))
def test_other_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        Item.unpack(raw)
    with pytest.raises(MalformedMessageError):
        Reply.unpack(raw)


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_truncated_item_is_refused(cut: int) -> None:
    raw = Item(ID, 0, 0, "replies:x", np.zeros((4, 4, 3), np.uint8)).pack()
    with pytest.raises(MalformedMessageError):
        Item.unpack(raw[:-cut])


def test_error_that_is_not_text_is_refused() -> None:
    raw = Reply(ID, 1, 1, 0, 0, error=("internal_error", "no")).pack()
    with pytest.raises(MalformedMessageError):
        Reply.unpack(raw.replace(b"internal", b"\x80nternal"))


def test_reply_list_that_is_not_text_is_refused() -> None:
    raw = Item(ID, 0, 0, "replies:x", np.zeros((4, 4, 3), np.uint8)).pack()
    with pytest.raises(MalformedMessageError):
        Item.unpack(raw.replace(b"replies", b"\xffeplies"))


@given(st.lists(st.binary(max_size=20), max_size=5))
def test_bundle_survives_packing_but_not_truncation(raws: list[bytes]) -> None:
    raw = pack_bundle(raws)
    assert unpack_bundle(raw) == raws
    if raws:
        with pytest.raises(MalformedMessageError):
            unpack_bundle(raw[:-1])
