"""Valid keys, and every known way around them."""

import http.client
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import httpx
import pytest

from contracts.keys import NewKey
from contracts.settings import Settings
from database.audit import COMMAND
from database.keys import Keys
from service.auth.failed_auth import MAX_FAILED_ATTEMPTS
from tests.service.conftest import listening
from tests.service.parts import FakeServices, gray_png

BOOTSTRAP = "a-key-of-sixteen-or-more"
StartService = Callable[[Settings, FakeServices], AbstractContextManager[str]]
INFER = NewKey(name="a client", scopes=["infer"])


@pytest.fixture
def keyed_client(served: StartService, fakes: FakeServices) -> Iterator[httpx.Client]:
    settings = Settings(_env_file=None, api_key=BOOTSTRAP)
    with served(settings, fakes) as url, httpx.Client(base_url=url) as client:
        yield client


@pytest.fixture(scope="module")
def keyed() -> Iterator[httpx.Client]:
    """A service with a key, for all tests of this module that change nothing in it."""
    settings = Settings(_env_file=None, api_key=BOOTSTRAP)
    with listening(settings, FakeServices()) as url, httpx.Client(base_url=url) as client:
        yield client


@pytest.fixture
def keys(fakes: FakeServices) -> Keys:
    return fakes.with_keys()


def eventually(client: httpx.Client, status: int, **headers: str) -> None:
    """Within the two seconds that a revocation may take, and more on a slow machine."""
    until = time.monotonic() + 60
    while client.get("/v1/models", headers=headers).status_code != status:
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Authorization", f"Bearer {BOOTSTRAP[:-1]}")],
        [("Authorization", f"Basic {BOOTSTRAP}")],
        [("Authorization", BOOTSTRAP)],
        [("Authorization", "Bearer")],
        [("Authorization", f"Bearer {BOOTSTRAP} {BOOTSTRAP}")],
        [("X-API-Key", BOOTSTRAP + "x")],
        [("X-API-Key", "k\xe4se".encode("latin-1"))],
        [("X-API-Key", "")],
        [("X-API-Key", "k" * 10_000)],
        [("X-API-Key", BOOTSTRAP.upper())],
        [("Cookie", f"key={BOOTSTRAP}")],
        [("Proxy-Authorization", f"Bearer {BOOTSTRAP}")],
        [("X-Forwarded-For", "127.0.0.1")],
        [("X-Original-URL", "/healthz")],
        [("X-API-Key", "opsin_000000000000_" + "0" * 48)],
    ],
)
def test_a_missing_or_malformed_key_is_refused(
    keyed_client: httpx.Client, headers: list[tuple[str, str]]
) -> None:
    for path in ("/v1/models", "/v1/system", "/nowhere"):
        answer = keyed_client.get(path, headers=headers)
        assert answer.status_code in {401, 503}
        assert answer.json()["code"] in {"unauthorized", "dependency_unavailable"}
        if answer.status_code == 401:
            assert answer.headers["WWW-Authenticate"] == 'Bearer realm="opsin"'
        assert answer.headers["X-Request-Id"] == answer.json()["request_id"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {BOOTSTRAP}"},
        {"authorization": f"bearer  {BOOTSTRAP}"},
        {"X-API-Key": BOOTSTRAP},
    ],
)
def test_the_bootstrap_key_has_all_scopes(
    keyed_client: httpx.Client, headers: dict[str, str]
) -> None:
    assert keyed_client.get("/v1/models", headers=headers).status_code == 200


def test_probes_and_documentation_need_no_key(keyed_client: httpx.Client) -> None:
    for path in ("/healthz", "/readyz", "/docs", "/docs/start.js", "/openapi.json"):
        assert keyed_client.get(path).status_code == 200


@pytest.mark.parametrize(
    "query",
    [
        f"api_key={BOOTSTRAP}",
        f"apikey={BOOTSTRAP}",
        f"X-API-Key={BOOTSTRAP}",
        f"limit=1&access_token={BOOTSTRAP}",
        f"Authorization={BOOTSTRAP}",
        "model=opsin_0123456789ab_" + "0" * 48,
    ],
)
def test_a_key_in_the_query_is_refused_even_with_a_valid_header(
    keyed_client: httpx.Client, query: str
) -> None:
    for headers in ({}, {"X-API-Key": BOOTSTRAP}):
        answer = keyed_client.get(f"/v1/models?{query}", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
        assert "revoke" in answer.json()["detail"]


def test_a_key_in_a_path_is_refused(keyed_client: httpx.Client) -> None:
    key = "opsin_0123456789ab_" + "0" * 48
    for path in (f"/v1/models/{key}", f"/{key}", f"/docs/{key[:-9]}", f"/v1/models/x{key.upper()}"):
        for headers in ({}, {"X-API-Key": BOOTSTRAP}):
            answer = keyed_client.get(path, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
            assert key not in answer.text


def test_a_revoked_key_that_is_still_sent_blocks_no_other(
    served: StartService, fakes: FakeServices, keys: Keys
) -> None:
    made = keys.create(INFER, actor=COMMAND)
    keys.revoke(made.id, actor=COMMAND)
    settings = Settings(_env_file=None, api_key=BOOTSTRAP)
    with served(settings, fakes) as url, httpx.Client(base_url=url) as client:
        for _ in range(2 * MAX_FAILED_ATTEMPTS):
            answer = client.get("/v1/models", headers={"X-API-Key": made.key or ""})
            assert answer.status_code == 401
        assert client.get("/v1/models", headers={"X-API-Key": BOOTSTRAP}).status_code == 200


def test_a_stream_ends_when_its_key_is_revoked(
    served: StartService, fakes: FakeServices, keys: Keys
) -> None:
    made = keys.create(INFER, actor=COMMAND)
    fakes.jobs.put("job_seen", kind="classify")
    with (
        served(Settings(_env_file=None), fakes) as url,
        httpx.stream(
            "GET",
            f"{url}/v1/jobs/job_seen/events",
            headers={"X-API-Key": made.key or ""},
            timeout=30,
        ) as answer,
    ):
        lines = answer.iter_lines()
        assert "state" in next(lines)
        keys.revoke(made.id, actor=COMMAND)
        began = time.monotonic()
        for _ in lines:
            assert time.monotonic() - began < 20
        assert time.monotonic() - began < 20


def test_the_document_lists_the_scopes(keyed_client: httpx.Client) -> None:
    document = keyed_client.get("/openapi.json", timeout=60).json()
    classify = document["paths"]["/v1/classify"]["post"]
    assert classify["security"] == [{"bearer": ["infer"]}, {"header": ["infer"]}]
    assert {"401", "403", "429"} <= classify["responses"].keys()
    assert {"queue_full", "rate_limited"} == set(
        classify["responses"]["429"]["content"]["application/problem+json"]["examples"]
    )
    assert document["paths"]["/healthz"]["get"]["security"] == []


def test_the_first_key_closes_an_open_service(
    served: StartService, fakes: FakeServices, keys: Keys
) -> None:
    with served(Settings(_env_file=None), fakes) as url, httpx.Client(base_url=url) as client:
        assert client.get("/v1/models").status_code == 200
        made = client.post("/v1/keys", json=INFER.model_dump(mode="json")).json()
        # At once, as this process created it.
        assert client.get("/v1/models").status_code == 401
        assert client.get("/v1/models", headers={"X-API-Key": made["key"]}).status_code == 200
        keys.revoke(made["id"], actor=COMMAND)
        eventually(client, 401, **{"X-API-Key": made["key"]})
        # And it does not become open again once the last key is revoked.
        assert client.get("/v1/models").status_code == 401


def test_a_key_works_until_it_is_revoked_in_every_process(
    served: StartService, fakes: FakeServices, keys: Keys
) -> None:
    made = keys.create(NewKey(name="all", scopes=["admin"]), actor=COMMAND)
    header = {"X-API-Key": made.key or ""}
    other = replace(fakes, open_count=0)  # another process with the same tables
    with (
        served(Settings(_env_file=None), fakes) as here,
        served(Settings(_env_file=None), other) as there,
        httpx.Client(base_url=here) as first,
        httpx.Client(base_url=there) as second,
    ):
        assert [one.get("/v1/system", headers=header).status_code for one in (first, second)] == [
            200,
            200,
        ]
        assert first.delete(f"/v1/keys/{made.id}", headers=header).status_code == 204
        assert first.get("/v1/system", headers=header).status_code == 401
        eventually(second, 401, **header)


def test_an_expired_key_is_refused(served: StartService, fakes: FakeServices, keys: Keys) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.5)
    made = keys.create(INFER.model_copy(update={"expires_at": soon}), actor=COMMAND)
    time.sleep(0.6)
    with served(Settings(_env_file=None), fakes) as url, httpx.Client(base_url=url) as client:
        answer = client.get("/v1/models", headers={"X-API-Key": made.key or ""})
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
        assert client.get("/v1/models").status_code == 401  # and the service is not open


def test_the_public_part_of_a_key_is_not_the_key(
    served: StartService, fakes: FakeServices, keys: Keys
) -> None:
    made = keys.create(INFER, actor=COMMAND)
    forged = str(made.key)[:-48] + "0" * 48
    with served(Settings(_env_file=None), fakes) as url, httpx.Client(base_url=url) as client:
        assert client.get("/v1/models", headers={"X-API-Key": forged}).status_code == 401


def test_a_missing_scope_is_named_before_the_body_is_read(
    served: StartService, fakes: FakeServices, keys: Keys
) -> None:
    made = keys.create(NewKey(name="reader", scopes=["faces"]), actor=COMMAND)
    with served(Settings(_env_file=None), fakes) as url, httpx.Client(base_url=url) as client:
        answer = client.post(
            "/v1/classify", content=gray_png(), headers={"X-API-Key": made.key or ""}
        )
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert "`infer`" in answer.json()["detail"]
        plain = client.post(
            "/v2/models/squeezenet/infer", content=b"{}", headers={"X-API-Key": made.key or ""}
        )
        assert (plain.status_code, plain.json().keys()) == (403, {"error"})
        served_as = client.post(
            "/v1/models/squeezenet:predict", content=b"{}", headers={"X-API-Key": made.key or ""}
        )
        assert (served_as.status_code, served_as.json().keys()) == (403, {"error"})
    assert fakes.decoder.runs == 0
    assert fakes.dispatcher.asked == []


def test_only_the_bootstrap_key_is_valid_before_the_keys_are_read(
    served: StartService, fakes: FakeServices
) -> None:
    fakes.keyed = True  # its tables are missing
    with served(Settings(_env_file=None), fakes) as url:
        assert httpx.get(f"{url}/v1/models").status_code == 401
        header = {"X-API-Key": "opsin_000000000000_" + "0" * 48}
        assert httpx.get(f"{url}/v1/models", headers=header).status_code == 503
    with served(Settings(_env_file=None, api_key=BOOTSTRAP), fakes) as url:
        assert httpx.get(f"{url}/v1/models", headers={"X-API-Key": BOOTSTRAP}).status_code == 200


def test_a_client_that_guesses_keys_is_rate_limited(
    served: StartService, fakes: FakeServices, keys: Keys
) -> None:
    made = keys.create(INFER, actor=COMMAND)
    settings = Settings(_env_file=None, api_key=BOOTSTRAP)
    with served(settings, fakes) as url, httpx.Client(base_url=url) as client:
        for at in range(MAX_FAILED_ATTEMPTS):
            wrong = {"X-API-Key": f"guess-number-{at:06}"}
            assert client.get("/v1/models", headers=wrong).status_code == 401
        answer = client.get("/v1/models", headers={"X-API-Key": "one-guess-too-many"})
        assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
        assert int(answer.headers["Retry-After"]) <= 60
        # A client with a valid key is not refused for others at its address.
        for right in (BOOTSTRAP, made.key or ""):
            assert client.get("/v1/models", headers={"X-API-Key": right}).status_code == 200
        assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "rebound.example.org"},
        {"Host": "127.0.0.1.example.org"},
        {"Host": "localhost.example.org:8000"},
        {"Origin": "https://example.org"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Host": "localhost", "Origin": "http://localhost.example.org"},
        {"Forwarded": "for=192.0.2.1"},
        {"X-Forwarded-For": "127.0.0.1"},
        {"X-Forwarded-Host": "opsin.example.org"},
        {"X-Forwarded-Proto": "https"},
        {"X-Real-IP": "192.0.2.1"},
        {"Via": "1.1 proxy.example.org"},
        {"CF-Connecting-IP": "192.0.2.1"},
    ],
)
def test_an_open_service_refuses_pages_of_other_sites(
    client: httpx.Client, fakes: FakeServices, headers: dict[str, str]
) -> None:
    answer = client.post(
        "/v1/classify", content=gray_png(), headers={"Content-Type": "image/png"} | headers
    )
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert fakes.dispatcher.asked == []


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"Host": "opsin.internal"}, ["'opsin.internal'", "localhost", "Host"]),
        ({"Origin": "https://example.org"}, ["'https://example.org'", "OPSIN_CORS_ORIGINS"]),
        ({"X-Forwarded-For": "192.0.2.1"}, ["proxy", "x-forwarded-for"]),
        ({"Via": "1.1 cache"}, ["proxy", "via"]),
        ({"Sec-Fetch-Site": "cross-site"}, ["other sites"]),
    ],
)
def test_an_open_service_says_why_it_refuses_and_what_to_set(
    client: httpx.Client, headers: dict[str, str], words: list[str]
) -> None:
    problem = client.get("/v1/models", headers=headers).json()
    for word in (*words, "opsin keys create", "OPSIN_API_KEY"):
        assert word in problem["detail"]
    assert "key may not" not in problem["title"]


@pytest.mark.parametrize("hosts", [[], ["localhost", "localhost"], ["localhost", "evil.example"]])
def test_a_request_has_one_host(client: httpx.Client, hosts: list[str]) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port or 0), 60) as wire:
        lines = "".join(f"Host: {host}\r\n" for host in hosts)
        wire.sendall(f"GET /healthz HTTP/1.1\r\n{lines}Connection: close\r\n\r\n".encode())
        assert wire.recv(65536).startswith(b"HTTP/1.1 400")
    with socket.create_connection((client.base_url.host, client.base_url.port or 0), 60) as wire:
        wire.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert wire.recv(65536).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("Authorization", f"Bearer {BOOTSTRAP}")], 200),
        ([("Authorization", f"bearer  {BOOTSTRAP}")], 200),
        ([("Authorization", f"Bearer {BOOTSTRAP}"), ("X-API-Key", BOOTSTRAP)], 200),
        ([("Authorization", "Basic dXNlcjpwYXNz"), ("X-API-Key", BOOTSTRAP)], 200),
        ([("Authorization", "Bearer eyJhbGciOi.x.y"), ("X-API-Key", BOOTSTRAP)], 200),
        ([("Authorization", f"Bearer {BOOTSTRAP}"), ("X-API-Key", "")], 200),
        ([("Authorization", f"Bearer {BOOTSTRAP}"), ("X-API-Key", "another")], 200),
        ([("Authorization", f"Bearer {BOOTSTRAP}")] * 2, 200),
        ([("X-API-Key", "wrong-and-sixteen-long"), ("X-API-Key", BOOTSTRAP)], 200),
        ([("Authorization", ""), ("X-API-Key", BOOTSTRAP)], 200),
        ([("Authorization", "Bearer"), ("X-API-Key", BOOTSTRAP)], 200),
        ([("Authorization", f"Bearer {'j' * 3000}"), ("X-API-Key", BOOTSTRAP)], 200),
        ([("Authorization", BOOTSTRAP)], 401),
        ([("Authorization", f"Token {BOOTSTRAP}")], 401),
        ([("Authorization", "Basic dXNlcjpwYXNz")], 401),
        ([("Authorization", "Bearer x.y.z"), ("X-API-Key", "wrong")], 401),
        ([("X-API-Key", f"wrong{at}") for at in range(9)] + [("X-API-Key", BOOTSTRAP)], 401),
    ],
)
def test_the_key_that_is_ours_counts(
    keyed: httpx.Client, headers: list[tuple[str, str]], status: int
) -> None:
    assert keyed.get("/v1/models", headers=headers).status_code == status


def test_two_keys_of_ours_are_refused(
    served: StartService, fakes: FakeServices, keys: Keys
) -> None:
    """Which of them counts would be a guess."""
    first, second = (keys.create(INFER, actor=COMMAND).key or "" for _ in range(2))
    with served(Settings(_env_file=None), fakes) as url:
        headers = {"Authorization": f"Bearer {first}", "X-API-Key": second}
        answer = httpx.get(f"{url}/v1/models", headers=headers)
    assert answer.status_code == 401
    assert "two different keys" in answer.json()["detail"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost:9000"},
        {"Host": "[::1]:9000"},
        {"Origin": "http://127.0.0.1:3000"},
        {"Sec-Fetch-Site": "same-origin"},
        {"X-API-Key": "a key that is not needed"},
    ],
)
def test_an_open_service_answers_this_machine(
    client: httpx.Client, headers: dict[str, str]
) -> None:
    assert client.get("/v1/models", headers=headers).status_code == 200


def test_an_idempotency_key_belongs_to_one_client(
    served: StartService, fakes: FakeServices, keys: Keys
) -> None:
    clients = [keys.create(INFER, actor=COMMAND).key or "" for _ in range(2)]
    with served(Settings(_env_file=None), fakes) as url, httpx.Client(base_url=url) as client:
        jobs = []
        for key in (*clients, clients[0]):
            answer = client.post(
                "/v1/classify",
                content=gray_png(),
                headers={
                    "X-API-Key": key,
                    "Content-Type": "image/png",
                    "Prefer": "respond-async",
                    "Idempotency-Key": "the-same",
                },
            )
            assert answer.status_code == 202
            jobs.append(answer.json()["id"])
    assert jobs[0] == jobs[2] != jobs[1]


def test_a_job_is_visible_with_the_scope_of_its_kind(
    served: StartService, fakes: FakeServices, keys: Keys
) -> None:
    infer, train = (
        {"X-API-Key": keys.create(NewKey(name="n", scopes=[scope]), actor=COMMAND).key or ""}
        for scope in ("infer", "train")
    )
    fakes.jobs.put("job_seen", kind="classify")
    fakes.jobs.put("job_taught", kind="training")
    with served(Settings(_env_file=None), fakes) as url, httpx.Client(base_url=url) as client:
        assert client.get("/v1/jobs/job_taught", headers=train).status_code == 200
        for method, ending in (
            ("GET", ""),
            ("POST", "/cancel"),
            ("DELETE", ""),
            ("GET", "/events"),
        ):
            answer = client.request(method, f"/v1/jobs/job_taught{ending}", headers=infer)
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        listed = client.get("/v1/jobs", headers=infer).json()["items"]
        assert [job["id"] for job in listed] == ["job_seen"]
    assert fakes.jobs.jobs["job_taught"].state == "queued"


def _spoken(url: str, lines: str) -> tuple[int, str]:
    """The status and the body of the response to a request in these bytes."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(lines.replace("\n", "\r\n").encode())
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return answer.status, answer.read().decode()


def test_an_open_service_refuses_what_a_plain_proxy_pass_of_nginx_forwards(
    served: StartService, fakes: FakeServices
) -> None:
    with served(Settings(_env_file=None), fakes) as url:
        host = f"Host: {urlsplit(url).netloc}\n"
        forwarded = f"GET /v1/models HTTP/1.0\n{host}Connection: close\nAccept: */*\n\n"
        status, body = _spoken(url, forwarded)
        assert status == 403
        assert "opsin keys create" in body
        assert _spoken(url, forwarded.replace("/v1/models", "/healthz"))[0] == 200
        # ApacheBench and old clients here speak HTTP/1.0 too, and others close their connection.
        assert _spoken(url, f"GET /v1/models HTTP/1.0\n{host}\n")[0] == 200
        closing = f"GET /v1/models HTTP/1.1\n{host}Connection: close\n\n"
        assert _spoken(url, closing)[0] == 200


def test_a_service_with_keys_answers_through_any_proxy(keyed: httpx.Client) -> None:
    forwarded = (
        f"GET /v1/models HTTP/1.0\nHost: {keyed.base_url.netloc.decode()}\n"
        f"Connection: close\nVia: 1.1 a\nX-API-Key: {BOOTSTRAP}\n\n"
    )
    assert _spoken(str(keyed.base_url), forwarded)[0] == 200
