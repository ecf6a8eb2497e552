"""The request that an image or a job belongs to, as it travels."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.queue.explain_messages import ExplainRequest, parse_request
from contracts.queue.messages import Item
from contracts.tracing.origin import Origin, TraceContext, split_origin, with_origin

TRACE = TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "01")
ids = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=128)
notes = st.sampled_from([b"", b'{"task":"map","layer":null}', b'{"a":{"b":"]}"}}'])


@given(ids, st.sampled_from([None, TRACE]), notes)
def test_an_origin_survives_beside_any_note(
    request_id: str, trace: TraceContext | None, note: bytes
) -> None:
    origin = Origin(request_id, trace)
    assert split_origin(with_origin(note, origin)) == (note, origin)


@given(st.binary(max_size=60))
def test_other_notes_stay_as_they_are(note: bytes) -> None:
    assert split_origin(note) == (note, Origin())
    cut = b'{"origin":' + note
    assert split_origin(cut)[1] == Origin() or cut != split_origin(cut)[0]


def test_a_note_that_is_no_object_gets_no_origin() -> None:
    assert with_origin(b"no such layer", Origin("r")) == b"no such layer"


def test_a_worker_of_the_release_before_reads_the_note() -> None:
    """It takes the whole note, and ignores a member that it does not know."""
    request = ExplainRequest(method="grad_cam")
    item = Item(bytes(16), 0, 0, "r", np.zeros((1, 1, 3), np.uint8), note=request.pack())
    raw = Item(
        bytes(16), 0, 0, "r", item.pixels, note=request.pack(), origin=Origin("r", TRACE)
    ).pack()
    note = raw[raw.index(b'{"origin"') : -3]
    assert json.loads(note)["origin"] == {"request_id": "r", "traceparent": TRACE.header}
    assert parse_request(note) == request
    read = Item.unpack(raw)
    assert (read.note, read.origin) == (item.note, Origin("r", TRACE))


@pytest.mark.parametrize(
    "stored",
    [
        *(None, 3, "text", [], {}, {"request_id": 1, "traceparent": 2}, {"request_id": "a\nb"}),
        *({"traceparent": f"00-{'0' * 32}-{'1' * 16}-01"}, {"request_id": "x" * 129}),
    ],
)
def test_what_is_stored_wrongly_is_left_out(stored: Any) -> None:
    assert Origin.of_json(stored) == Origin()
