from contextlib import suppress

import pytest

from contracts.errors import RateLimited
from service.auth.failed_auth import (
    _MAX_ADDRESSES,
    MAX_FAILED_ATTEMPTS,
    WINDOW_SECONDS,
    FailedAttempts,
)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_address_is_limited_until_the_window_ends() -> None:
    clock = Clock()
    attempts = FailedAttempts(clock)
    for n in range(MAX_FAILED_ATTEMPTS):
        attempts.record("10.0.0.1", f"guess {n}")
    with pytest.raises(RateLimited) as refused:
        attempts.record("10.0.0.1", "one more")
    assert refused.value.retry_after == WINDOW_SECONDS
    attempts.record("10.0.0.2", "one more")
    clock.now += WINDOW_SECONDS
    attempts.record("10.0.0.1", "one more")


def test_a_repeated_wrong_key_counts_once() -> None:
    attempts = FailedAttempts(Clock())
    for n in range(5 * MAX_FAILED_ATTEMPTS):
        attempts.record("10.0.0.1", "an old key")
        attempts.record("10.0.0.1", f"opsin_0123456789ab_{n:048x}")  # of one id
    for n in range(MAX_FAILED_ATTEMPTS - 2):
        attempts.record("10.0.0.1", f"opsin_{n:012x}_{0:048x}")
    with pytest.raises(RateLimited):
        attempts.record("10.0.0.1", f"opsin_{MAX_FAILED_ATTEMPTS:012x}_{0:048x}")


def test_an_ipv6_network_counts_as_one_address() -> None:
    attempts = FailedAttempts(Clock())
    for n in range(MAX_FAILED_ATTEMPTS):
        attempts.record(f"2001:db8:1:2::{n:x}", f"guess {n}")
    with pytest.raises(RateLimited):
        attempts.record("2001:db8:1:2:ffff::1", "one more")
    attempts.record("2001:db8:1:3::1", "one more")


def test_ipv4_clients_of_a_server_on_ipv6_are_told_apart() -> None:
    attempts = FailedAttempts(Clock())
    for n in range(2 * MAX_FAILED_ATTEMPTS):
        attempts.record(f"::ffff:192.0.2.{n}", f"guess {n}")
    for n in range(MAX_FAILED_ATTEMPTS):
        attempts.record("::ffff:198.51.100.1", f"guess {n}")
    with pytest.raises(RateLimited):
        attempts.record("198.51.100.1", "one more")


def test_memory_is_bounded() -> None:
    attempts = FailedAttempts(Clock())
    for n in range(_MAX_ADDRESSES + 500):
        attempts.record(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", "guess")
    assert len(attempts._windows) == _MAX_ADDRESSES
    for n in range(5 * MAX_FAILED_ATTEMPTS):
        with suppress(RateLimited):
            attempts.record("10.0.0.1", f"guess {n}")
    assert len(attempts._windows["10.0.0.1"][1]) == MAX_FAILED_ATTEMPTS
