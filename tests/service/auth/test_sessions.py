"""Sessions of the console: what a cookie may do, and when it ends."""

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack
from dataclasses import replace

import httpx
import pytest
import redis as blocking
from redis.asyncio import Redis

from contracts.keys import NewKey, Scope
from contracts.settings import Settings
from database.audit import COMMAND
from database.keys import Keys
from service.auth import sessions
from tests.service.parts import NOW, FakeServices
from tests.valkey import RealValkey

BOOTSTRAP = "a-key-of-sixteen-or-more"
URL = "/v1/session"
StartService = Callable[[Settings, FakeServices], AbstractContextManager[str]]
SignIn = Callable[[str, str], tuple[httpx.Client, str]]


@pytest.fixture
def fakes(valkey: RealValkey) -> FakeServices:
    return FakeServices(redis=Redis.from_url(valkey.url, socket_timeout=5))


@pytest.fixture
def keys(fakes: FakeServices) -> Keys:
    return fakes.with_keys()


@pytest.fixture
def keyed(served: StartService, fakes: FakeServices, keys: Keys) -> Iterator[str]:
    with served(Settings(_env_file=None, api_key=BOOTSTRAP), fakes) as url:
        yield url


@pytest.fixture
def sign_in() -> Iterator[SignIn]:
    """Opens browsers, with the cookie of a session and its token against forged requests."""
    with ExitStack() as stack:

        def begin(url: str, key: str) -> tuple[httpx.Client, str]:
            browser = stack.enter_context(httpx.Client(base_url=url, timeout=60))
            answer = browser.post(URL, headers={"Authorization": f"Bearer {key}"})
            assert answer.status_code == 201, answer.text
            assert answer.json()["csrf_token"]
            return browser, answer.json()["csrf_token"]

        yield begin


def make_key(keys: Keys, *scopes: Scope) -> tuple[str, str]:
    made = keys.create(NewKey(name="a person", scopes=list(scopes)), actor=COMMAND)
    return made.id, made.key or ""


def test_a_session_may_do_what_its_key_may(sign_in: SignIn, keyed: str, keys: Keys) -> None:
    _, key = make_key(keys, "infer")
    browser, token = sign_in(keyed, key)
    me = browser.get(URL).json()
    assert me["signed_in_by"] == "session"
    assert me["scopes"] == ["infer"]
    assert me["csrf_token"] == token
    assert browser.get("/v1/models").status_code == 200
    assert browser.get("/v1/keys").status_code == 403
    assert browser.get("/v1/datasets").status_code == 403


def test_the_cookie_is_kept_from_scripts_and_other_sites(keyed: str) -> None:
    answer = httpx.post(keyed + URL, headers={"X-API-Key": BOOTSTRAP})
    attributes = answer.headers["Set-Cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict"} <= set(attributes)
    assert not any(attribute.startswith(("Max-Age", "Expires")) for attribute in attributes)
    token = attributes[0].partition("=")[2]
    assert token not in answer.text


def test_over_https_the_cookie_is_secure(served: StartService, fakes: FakeServices) -> None:
    settings = Settings(_env_file=None, api_key=BOOTSTRAP, trusted_proxies="127.0.0.1")
    sent = {"X-API-Key": BOOTSTRAP, "X-Forwarded-Proto": "https"}
    with served(settings, fakes) as url:
        cookie = httpx.post(url + URL, headers=sent).headers["Set-Cookie"]
        assert re.match(r"__(?:Host|Secure)-opsin_session=", cookie)
        assert "Secure" in cookie.split("; ")
        prefixed = httpx.post(url + URL, headers=sent | {"X-Forwarded-Prefix": "/a"})
        assert "; Path=/a;" in prefixed.headers["Set-Cookie"]
        token = prefixed.headers["Set-Cookie"].partition(";")[0]
        assert httpx.get(url + "/v1/models", headers={"Cookie": token}).status_code == 200


def test_a_change_needs_the_token_of_our_pages(sign_in: SignIn, keyed: str) -> None:
    browser, token = sign_in(keyed, BOOTSTRAP)
    body = {"name": "forged", "scopes": ["admin"]}
    assert browser.post("/v1/keys", json=body).status_code == 403
    for wrong in ("", "0" * 64, token[:-1]):
        answer = browser.post("/v1/keys", json=body, headers={"X-CSRF-Token": wrong})
        assert answer.status_code == 403
        assert "X-CSRF-Token" in answer.json()["detail"]
    assert browser.delete(URL).status_code == 403
    other, _ = sign_in(keyed, BOOTSTRAP)
    assert other.post("/v1/keys", json=body, headers={"X-CSRF-Token": token}).status_code == 403
    assert browser.post("/v1/keys", json=body, headers={"X-CSRF-Token": token}).status_code == 201


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_request_that_another_page_caused_has_no_session(
    sign_in: SignIn, keyed: str, site: str
) -> None:
    browser, token = sign_in(keyed, BOOTSTRAP)
    sent = {"Sec-Fetch-Site": site, "X-CSRF-Token": token}
    assert browser.get("/v1/keys", headers=sent).status_code == 401
    assert browser.get("/v1/keys", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200


def test_a_key_needs_no_token_and_counts_before_a_cookie(
    sign_in: SignIn, keyed: str, keys: Keys
) -> None:
    browser, _ = sign_in(keyed, BOOTSTRAP)
    _, key = make_key(keys, "infer")
    assert browser.get("/v1/keys", headers={"X-API-Key": key}).status_code == 403
    created = browser.post(
        "/v1/keys", json={"name": "b", "scopes": ["infer"]}, headers={"X-API-Key": BOOTSTRAP}
    )
    assert created.status_code == 201


def test_signing_out_ends_it(sign_in: SignIn, keyed: str) -> None:
    browser, token = sign_in(keyed, BOOTSTRAP)
    cookie = dict(browser.cookies)
    answer = browser.delete(URL, headers={"X-CSRF-Token": token})
    assert answer.status_code == 204
    assert "Max-Age=0" in answer.headers["Set-Cookie"]
    with httpx.Client(base_url=keyed, cookies=cookie) as thief:
        assert thief.get("/v1/models").status_code == 401
        assert thief.get("/").status_code == 200  # the page itself holds nothing


def test_signing_out_ends_streams(sign_in: SignIn, keyed: str, fakes: FakeServices) -> None:
    fakes.jobs.put("job_1", state="running", attempt=1, started_at=NOW)
    browser, token = sign_in(keyed, BOOTSTRAP)
    with browser.stream("GET", "/v1/jobs/job_1/events") as stream:
        lines = stream.iter_lines()
        assert next(lines)
        assert browser.delete(URL, headers={"X-CSRF-Token": token}).status_code == 204
        assert [line for line in lines if line.startswith("event: state")] == []  # and it ends


def test_revoking_the_key_ends_its_sessions_in_every_process(
    sign_in: SignIn,
    served: StartService,
    fakes: FakeServices,
    keys: Keys,
    keyed: str,
    valkey: RealValkey,
) -> None:
    key_id, key = make_key(keys, "infer")
    browser, _ = sign_in(keyed, key)
    other = replace(fakes, redis=Redis.from_url(valkey.url, socket_timeout=5))
    with served(Settings(_env_file=None, api_key=BOOTSTRAP), other) as second:
        cookies = dict(browser.cookies)
        assert httpx.get(second + "/v1/models", cookies=cookies).status_code == 200
        sent = {"X-API-Key": BOOTSTRAP}
        assert httpx.delete(f"{keyed}/v1/keys/{key_id}", headers=sent).status_code == 204
        assert browser.get("/v1/models").status_code == 401
        until = time.monotonic() + 60
        while httpx.get(second + "/v1/models", cookies=cookies).status_code != 401:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_another_bootstrap_key_ends_the_sessions_of_the_one_before(
    sign_in: SignIn, served: StartService, fakes: FakeServices, keyed: str, valkey: RealValkey
) -> None:
    browser, _ = sign_in(keyed, BOOTSTRAP)
    cookies = dict(browser.cookies)
    other = replace(fakes, redis=Redis.from_url(valkey.url, socket_timeout=5))
    with served(Settings(_env_file=None, api_key=BOOTSTRAP + "-2"), other) as second:
        assert httpx.get(second + "/v1/models", cookies=cookies).status_code == 401


def test_an_idle_session_ends_and_use_prolongs_it(
    sign_in: SignIn, keyed: str, valkey: RealValkey
) -> None:
    browser, _ = sign_in(keyed, BOOTSTRAP)
    with blocking.Redis.from_url(valkey.url, decode_responses=True) as store:
        (key,) = store.keys("session:*")
        assert 1790 < store.ttl(key) <= 1800
        store.expire(key, 100)
        assert browser.get("/v1/jobs/job_1/events").status_code == 404
        assert store.ttl(key) <= 100  # a stream that reconnects by itself is not use
        for use in ("/v1/models", "/v1/models/events"):
            store.expire(key, 100)
            browser.get(use)
            assert store.ttl(key) > 1000
        store.delete(key)  # as when it expires
    answer = browser.get("/v1/models")
    assert answer.status_code == 401
    assert "Sign in again" in answer.json()["detail"]


def test_a_session_has_a_last_moment(
    sign_in: SignIn, keyed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser, _ = sign_in(keyed, BOOTSTRAP)
    monkeypatch.setattr(sessions, "MAX_SECONDS", 0)
    assert browser.get("/v1/models").status_code == 401


def test_redis_holds_neither_token_nor_key(sign_in: SignIn, keyed: str, valkey: RealValkey) -> None:
    browser, token = sign_in(keyed, BOOTSTRAP)
    (cookie,) = dict(browser.cookies).values()
    with blocking.Redis.from_url(valkey.url, decode_responses=True) as store:
        names = store.keys("session*")
        values = [store.get(name) for name in names if name.startswith("session:")]
    text = " ".join([*names, *map(str, values)])
    assert values
    assert not any(secret in text for secret in (cookie, token, BOOTSTRAP))


def test_a_key_has_a_bounded_number_of_sessions(
    sign_in: SignIn, keyed: str, valkey: RealValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 3)
    browsers = [sign_in(keyed, BOOTSTRAP)[0] for _ in range(5)]
    statuses = [browser.get("/v1/models").status_code for browser in browsers]
    assert statuses == [401, 401, 200, 200, 200]


def test_simultaneous_sign_ins_end_no_more_than_the_oldest(
    keyed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 10)
    headers = {"Authorization": f"Bearer {BOOTSTRAP}"}

    async def all_at_once() -> tuple[list[int], int]:
        browsers = [httpx.AsyncClient(base_url=keyed, timeout=60) for _ in range(30)]
        async with AsyncExitStack() as stack:
            for browser in browsers:
                await stack.enter_async_context(browser)
            made = await asyncio.gather(*(one.post(URL, headers=headers) for one in browsers))
            asked = await asyncio.gather(*(one.get("/v1/models") for one in browsers))
        return [one.status_code for one in made], sum(one.is_success for one in asked)

    statuses, alive = asyncio.run(all_at_once())
    assert statuses == [201] * 30
    assert alive == 10


@pytest.mark.parametrize("cookie", ["opsin_session=", "opsin_session=x", "a=b; ;;=", "session"])
def test_a_cookie_that_is_not_ours_is_none(keyed: str, cookie: str) -> None:
    answer = httpx.get(keyed + "/v1/models", headers={"Cookie": cookie})
    assert answer.status_code == 401
    assert "Send a key" in answer.json()["detail"]


def test_an_open_service_has_nothing_to_sign_in_to(
    served: StartService, fakes: FakeServices
) -> None:
    with served(Settings(_env_file=None), fakes) as url:
        me = httpx.get(url + URL).json()
        assert me["signed_in_by"] == "none"
        assert "admin" in me["scopes"]
        assert httpx.post(url + URL).status_code == 409
        stale = {"Cookie": "opsin_session=" + "a" * 43}
        assert httpx.get(url + "/v1/models", headers=stale).status_code == 200


def test_without_redis_a_session_waits_and_a_key_works(served: StartService) -> None:
    fakes = FakeServices()  # its Redis does not respond
    with served(Settings(_env_file=None, api_key=BOOTSTRAP), fakes) as url:
        stale = {"Cookie": "opsin_session=" + "a" * 43}
        answer = httpx.get(url + "/v1/models", headers=stale)
        assert answer.status_code == 503
        assert answer.json()["code"] == "dependency_unavailable"
        assert httpx.get(url + "/v1/models", headers={"X-API-Key": BOOTSTRAP}).status_code == 200


@pytest.mark.parametrize("order", [1, -1])
def test_a_neighboring_host_signs_nobody_in(
    served: StartService, fakes: FakeServices, keys: Keys, order: int
) -> None:
    settings = Settings(_env_file=None, api_key=BOOTSTRAP, trusted_proxies="127.0.0.1")
    https = {"X-Forwarded-Proto": "https"}
    attacker_id, attacker = make_key(keys, "infer")
    with served(settings, fakes) as url:
        ours, theirs = (
            httpx.post(url + URL, headers=https | {"X-API-Key": key})
            .headers["Set-Cookie"]
            .partition(";")[0]
            for key in (BOOTSTRAP, attacker)
        )
        tossed = theirs.removeprefix("__Host-")
        both = "; ".join([ours, tossed][::order])
        answer = httpx.get(url + URL, headers=https | {"Cookie": both})
        assert answer.json()["key_id"] not in (attacker_id, None)
        for cookie in (tossed, f"__Secure-{tossed}", f"{ours}; {theirs}"):
            answer = httpx.get(url + URL, headers=https | {"Cookie": cookie})
            assert answer.status_code == 401
        plain = httpx.get(url + URL, headers={"Cookie": both})
        assert plain.json()["key_id"] != attacker_id


def test_a_session_begins_no_other(sign_in: SignIn, keyed: str, keys: Keys) -> None:
    """A copied cookie could otherwise be renewed for ever, also after the person signs out."""
    _, key = make_key(keys, "infer")
    browser, token = sign_in(keyed, key)
    again = browser.post(URL, headers={"X-CSRF-Token": token})
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    assert "Set-Cookie" not in again.headers
    assert browser.get(URL).status_code == 200
    assert browser.post(URL, headers={"Authorization": f"Bearer {key}"}).status_code == 201
