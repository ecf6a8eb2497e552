import pytest

from contracts.errors import RateLimited
from service.guesses import _MOST_ADDRESSES, MOST_GUESSES, WINDOW_SECONDS, Guesses


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_address_is_refused_after_so_many_and_heard_again_later() -> None:
    clock = Clock()
    guesses = Guesses(clock)
    for _ in range(MOST_GUESSES):
        guesses.require_patience("10.0.0.1")
        guesses.note("10.0.0.1")
    with pytest.raises(RateLimited) as refused:
        guesses.require_patience("10.0.0.1")
    assert refused.value.retry_after == WINDOW_SECONDS
    guesses.require_patience("10.0.0.2")
    clock.now += WINDOW_SECONDS
    guesses.require_patience("10.0.0.1")
    guesses.note("10.0.0.1")
    guesses.require_patience("10.0.0.1")


def test_a_customer_of_ipv6_is_one_however_many_addresses_it_has() -> None:
    guesses = Guesses(Clock())
    for at in range(MOST_GUESSES):
        guesses.note(f"2001:db8:1:2::{at:x}")
    with pytest.raises(RateLimited):
        guesses.require_patience("2001:db8:1:2:ffff::1")
    guesses.require_patience("2001:db8:1:3::1")


def test_it_remembers_no_more_than_its_bound() -> None:
    guesses = Guesses(Clock())
    for at in range(_MOST_ADDRESSES + 500):
        guesses.note(f"10.{at >> 16}.{at >> 8 & 255}.{at & 255}")
    assert len(guesses._found) == _MOST_ADDRESSES
