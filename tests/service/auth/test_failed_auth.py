from contextlib import suppress

import pytest

from contracts.errors import RateLimited
from service.auth.failed_auth import _MOST_ADDRESSES, MOST_GUESSES, WINDOW_SECONDS, Guesses


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_address_is_refused_after_so_many_and_heard_again_later() -> None:
    clock = Clock()
    guesses = Guesses(clock)
    for at in range(MOST_GUESSES):
        guesses.note("10.0.0.1", f"guess {at}")
    with pytest.raises(RateLimited) as refused:
        guesses.note("10.0.0.1", "one more")
    assert refused.value.retry_after == WINDOW_SECONDS
    guesses.note("10.0.0.2", "one more")
    clock.now += WINDOW_SECONDS
    guesses.note("10.0.0.1", "one more")


def test_a_client_with_an_old_key_is_no_guesser() -> None:
    guesses = Guesses(Clock())
    for at in range(5 * MOST_GUESSES):
        guesses.note("10.0.0.1", "what was right once")
        guesses.note("10.0.0.1", f"opsin_0123456789ab_{at:048x}")  # of one id
    for at in range(MOST_GUESSES - 2):
        guesses.note("10.0.0.1", f"opsin_{at:012x}_{0:048x}")
    with pytest.raises(RateLimited):
        guesses.note("10.0.0.1", f"opsin_{MOST_GUESSES:012x}_{0:048x}")


def test_a_customer_of_ipv6_is_one_however_many_addresses_it_has() -> None:
    guesses = Guesses(Clock())
    for at in range(MOST_GUESSES):
        guesses.note(f"2001:db8:1:2::{at:x}", f"guess {at}")
    with pytest.raises(RateLimited):
        guesses.note("2001:db8:1:2:ffff::1", "one more")
    guesses.note("2001:db8:1:3::1", "one more")


def test_it_remembers_no_more_than_its_bound() -> None:
    guesses = Guesses(Clock())
    for at in range(_MOST_ADDRESSES + 500):
        guesses.note(f"10.{at >> 16}.{at >> 8 & 255}.{at & 255}", "guess")
    assert len(guesses._found) == _MOST_ADDRESSES
    for at in range(5 * MOST_GUESSES):
        with suppress(RateLimited):
            guesses.note("10.0.0.1", f"guess {at}")
    assert len(guesses._found["10.0.0.1"][1]) == MOST_GUESSES
