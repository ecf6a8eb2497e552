"""Two hosts whose clocks differ agree on the time of Redis."""

import time

import pytest

from contracts.queue.clock import RedisClock
from tests.valkey import RealValkey


class Host:
    """A host whose clock is ahead, and whose monotonic clock began at another time."""

    def __init__(self, ahead: float) -> None:
        self.now, self.ahead = 1000.0, ahead

    def clock(self) -> RedisClock:
        return RedisClock(lambda: self.now + self.ahead * 7, lambda: self.now + self.ahead)


def test_before_the_first_measurement_the_host_clock_is_used() -> None:
    host = Host(4)
    assert (host.clock()(), host.clock().host_ahead) == (1004, None)


@pytest.mark.parametrize("ahead", [4, 31, -31, 65])
def test_a_measured_clock_is_that_of_redis(ahead: float) -> None:
    host = Host(ahead)
    clock = host.clock()
    started = clock.start()
    host.now += 0.2
    clock.observe(started, (1000, 100_000))
    assert clock() == pytest.approx(1000.2)
    assert clock.host_ahead == pytest.approx(ahead)
    host.now += 5
    assert clock() == pytest.approx(1005.2)


def test_a_slow_answer_does_not_spoil_a_measurement() -> None:
    host = Host(0)
    clock = host.clock()
    clock.observe(clock.start(), (1000, 0))
    started = clock.start()
    host.now += 3
    clock.observe(started, (1000, 0))
    assert clock() == pytest.approx(1003)


def test_a_clock_that_is_set_forward_is_noticed() -> None:
    host = Host(0)
    clock = host.clock()
    for seconds in (0, 1, -1, 86_400, 86_401, 0, 60):  # by which Redis is ahead
        clock.observe(clock.start(), (1000 + seconds, 0))
    assert clock.jumped == pytest.approx(86_401 + 60)


@pytest.mark.parametrize("ahead", [4, 31, -31, 65])
def test_two_hosts_agree_through_one_redis(valkey: RealValkey, ahead: float) -> None:
    client = valkey.client()
    here = RedisClock()
    there = RedisClock(lambda: time.monotonic() + ahead, lambda: time.time() + ahead)
    for clock in (here, there):
        clock.observe(clock.start(), client.time())
    assert there() == pytest.approx(here(), abs=0.5)
    assert there.host_ahead == pytest.approx(ahead, abs=0.5)
