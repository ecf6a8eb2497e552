"""Requests that skip FastAPI's dependency resolution get the same responses."""

import httpx
import pytest

from tests.service.parts import gray_png

TYPE = {"Content-Type": "image/png"}


@pytest.mark.parametrize(
    "query", ["", "?top_k=3", "?resize=squash&top_k=2", "?model=squeezenet&version=champion"]
)
def test_both_ways_give_the_same_response(client: httpx.Client, query: str) -> None:
    plain = client.post(f"/v1/classify{query}", content=gray_png(), headers=TYPE)
    # An unknown preference changes nothing, but makes FastAPI read the request.
    general = client.post(
        f"/v1/classify{query}", content=gray_png(), headers=TYPE | {"Prefer": "nothing"}
    )
    assert plain.status_code == general.status_code == 200
    bodies = [answer.json() for answer in (plain, general)]
    for body in bodies:
        del body["timing_ms"]
    assert bodies[0] == bodies[1]
    assert plain.headers["Content-Type"] == general.headers["Content-Type"]


@pytest.mark.parametrize("query", ["?top_k=0", "?top_k=many", "?topk=3", "?model=", "?resize=x"])
def test_an_invalid_query_takes_the_general_way(client: httpx.Client, query: str) -> None:
    answer = client.post(f"/v1/classify{query}", content=gray_png(), headers=TYPE)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")


def test_the_special_headers_are_still_read(client: httpx.Client) -> None:
    answer = client.post(
        "/v1/classify", content=gray_png(), headers=TYPE | {"X-Timeout-Ms": "999999999"}
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")
