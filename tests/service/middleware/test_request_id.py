import httpx
import pytest


@pytest.mark.parametrize("path", ["/healthz", "/v1/jobs/none", "/nowhere"])
def test_an_id_is_taken_over_and_echoed(client: httpx.Client, path: str) -> None:
    answer = client.get(path, headers={"X-Request-Id": "abc-1"})
    assert answer.headers["X-Request-Id"] == "abc-1"
    if answer.is_error:
        assert answer.json()["request_id"] == "abc-1"


@pytest.mark.parametrize("sent", ["", "a b", "a" * 129, "a\tb", "k\xe4se"])
def test_an_unfit_id_is_replaced(client: httpx.Client, sent: str) -> None:
    headers = {"X-Request-Id": sent.encode("latin-1")}
    made = client.get("/healthz", headers=headers).headers["X-Request-Id"]
    assert len(made) == 32
    assert made.isalnum()


def test_ids_are_made_anew(client: httpx.Client) -> None:
    made = {client.get("/healthz").headers["X-Request-Id"] for _ in range(3)}
    assert len(made) == 3
