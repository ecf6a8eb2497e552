"""Signing in with a key: what the browser keeps, what a key may see, and how a session ends."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from contracts.keys import NewKey, Scope
from contracts.settings import Settings
from database.audit import COMMAND
from tests.flow.console.conftest import OpenConsole
from tests.service.conftest import listening
from tests.service.parts import FakeServices
from tests.valkey import RealValkey

BOOTSTRAP = "a-key-of-sixteen-or-more"
SCOPED: tuple[Scope, ...] = ("infer",)


@pytest.fixture
def fakes(valkey: RealValkey) -> FakeServices:
    return FakeServices(redis=AsyncRedis.from_url(valkey.url, socket_timeout=5))


@pytest.fixture
def url(fakes: FakeServices) -> Iterator[str]:
    """The API, without workers: pages read, and say who may do what."""
    fakes.with_keys()
    with listening(Settings(_env_file=None, api_key=BOOTSTRAP), fakes) as address:
        yield address


def sign_in(page: Page, key: str) -> None:
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()


def test_a_key_opens_what_its_scopes_allow(
    url: str, fakes: FakeServices, open_console: OpenConsole
) -> None:
    key = fakes.keys.create(NewKey(name="a person", scopes=list(SCOPED)), actor=COMMAND).key or ""
    page = open_console(url, "classify")
    sign_in(page, "not a key")
    expect(page.get_by_role("alert")).to_contain_text("Sign in with a valid key.")
    sign_in(page, key)
    expect(page.get_by_role("heading", name="Classify")).to_be_visible()
    cookies = {one["name"]: one for one in page.context.cookies()}
    [session] = [one for name, one in cookies.items() if "session" in name]
    assert session["httpOnly"]
    assert session["sameSite"] == "Strict"
    assert session["value"] not in page.evaluate("document.cookie + JSON.stringify(localStorage)")
    assert key not in page.content()
    page.locator("#pages a[data-page=learn]").click()
    expect(page.locator(".problem")).to_contain_text("scope")
    expect(page.locator(".problem")).to_contain_text("Sign in with a key that has this scope.")
    page.reload()
    expect(page.locator(".problem")).to_be_visible()  # still signed in
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_text("You are signed out.")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_a_session_that_ended_asks_for_the_key_again(
    url: str, valkey: RealValkey, open_console: OpenConsole
) -> None:
    page = open_console(url, "classify")  # it asks for nothing by itself
    sign_in(page, BOOTSTRAP)
    expect(page.get_by_role("heading", name="Classify")).to_be_visible()
    with Redis.from_url(valkey.url) as client:
        client.flushall()
    page.locator("#pages a[data-page=learn]").click()
    expect(page.get_by_text("The session has ended. Sign in again.")).to_be_visible()
    sign_in(page, BOOTSTRAP)
    expect(page.get_by_role("heading", name="Learn")).to_be_visible()


def test_a_page_that_nobody_uses_signs_out(url: str, open_console: OpenConsole) -> None:
    page = open_console(url, "classify", clock=True)
    sign_in(page, BOOTSTRAP)
    expect(page.get_by_role("heading", name="Classify")).to_be_visible()
    page.clock.fast_forward("24:00:00")
    expect(page.get_by_text("signed out because nobody used")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
