"""No cookie but the console's own is parsed."""

import time

import httpx
import pytest


@pytest.mark.parametrize("name", ["opsin_language", "opsin_session", "other"])
@pytest.mark.parametrize("path", ["/healthz", "/", "/v1/models"])
def test_a_cookie_of_quotes_stops_nothing(client: httpx.Client, path: str, name: str) -> None:
    """FastAPI parses the cookies of every request on the event loop, before any key is asked for.

    Python's parser takes long for this one (CVE-2024-7592); the client is in another thread.
    """
    cookie = f'{name}="' + '\\"' * 8_000 + '"'
    began = time.process_time()
    assert client.get(path, headers={"Cookie": cookie}).status_code == 200
    assert time.process_time() - began < 0.1


def test_our_cookies_are_found_among_others(client: httpx.Client) -> None:
    many = "; ".join(f"a{number}=1" for number in range(500))
    answer = client.get("/", headers={"Cookie": f'{many}; opsin_language=zh; b="x"'})
    assert answer.headers["Content-Language"] == "zh"
