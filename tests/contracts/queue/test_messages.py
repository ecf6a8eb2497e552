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
    bundled,
    unbundled,
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
def test_an_item_comes_back_as_it_went(
    height: int, width: int, attempt: int, reply_to: str, class_index: int, note: bytes
) -> None:
    pixels = np.arange(height * width * 3, dtype=np.uint64).astype(np.uint8)
    pixels = pixels.reshape(height, width, 3)
    item = Item(ID, 2e9, 1.9e9, reply_to, pixels, attempt, class_index, note)
    back = Item.unpack(item.pack())
    assert (back.id, back.deadline, back.enqueued) == (ID, 2e9, 1.9e9)
    assert (back.reply_to, back.attempt) == (reply_to, attempt)
    assert (back.class_index, back.note) == (class_index, note)
    np.testing.assert_array_equal(back.pixels, pixels)


def test_lua_finds_the_id_where_it_looks() -> None:
    raw = Item(ID, 0, 0, "r", np.zeros((1, 1, 3), np.uint8)).pack()
    assert raw[ID_OFFSET - 1 : ID_OFFSET - 1 + ID_LENGTH] == ID


def test_a_reply_comes_back_as_it_went() -> None:
    vector = np.linspace(0, 1, 1000, dtype=np.float32)
    back = Reply.unpack(Reply(ID, 3, 8, 0.5, 0.25, vector=vector, note=b"a note").pack())
    assert back.note == b"a note"
    assert (back.version, back.batch_size, back.queue_seconds, back.compute_seconds) == (
        3,
        8,
        0.5,
        0.25,
    )
    assert back.vector is not None
    np.testing.assert_array_equal(back.vector, vector)


def test_an_error_comes_back_as_it_went() -> None:
    back = Reply.unpack(Reply(ID, 1, 1, 0, 0, error=("internal_error", "a\nb")).pack())
    assert back.error == ("internal_error", "a\nb")
    assert back.vector is None


@given(st.binary(max_size=200))
def test_foreign_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        Item.unpack(raw)
    with pytest.raises(MalformedMessageError):
        Reply.unpack(raw)


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_half_an_item_is_refused(cut: int) -> None:
    raw = Item(ID, 0, 0, "replies:x", np.zeros((4, 4, 3), np.uint8)).pack()
    with pytest.raises(MalformedMessageError):
        Item.unpack(raw[:-cut])


def test_an_error_that_is_no_text_is_refused() -> None:
    raw = Reply(ID, 1, 1, 0, 0, error=("internal_error", "no")).pack()
    with pytest.raises(MalformedMessageError):
        Reply.unpack(raw.replace(b"internal", b"\x80nternal"))


def test_a_list_that_is_no_text_is_refused() -> None:
    raw = Item(ID, 0, 0, "replies:x", np.zeros((4, 4, 3), np.uint8)).pack()
    with pytest.raises(MalformedMessageError):
        Item.unpack(raw.replace(b"replies", b"\xffeplies"))


@given(st.lists(st.binary(max_size=20), max_size=5))
def test_a_bundle_comes_back_as_it_went_and_not_in_part(raws: list[bytes]) -> None:
    raw = bundled(raws)
    assert unbundled(raw) == raws
    if raws:
        with pytest.raises(MalformedMessageError):
            unbundled(raw[:-1])
