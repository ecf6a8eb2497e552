"""Whose connections are closed for the next one."""

from dataclasses import dataclass

import pytest

from service.connections.eviction import _REFUSED_SECONDS, RefusedNetworks, to_cut_off, to_evict

LIMIT = 100


@dataclass(eq=False)
class Fake:
    """A connection; by default one whose request is in progress."""

    network: str = "greedy"
    is_closing: bool = False
    is_stuck: bool = False
    is_idle: bool = False
    is_in_head: bool = False
    is_slow: bool = False
    is_queued: bool = False
    is_proxied: bool = False
    waits_since: float = 0.0


def head(network: str) -> Fake:
    return Fake(network, is_idle=True, is_in_head=True)


def idle(network: str) -> Fake:
    return Fake(network, is_idle=True)


def test_nothing_is_closed_while_there_is_room() -> None:
    assert to_evict(Fake("b"), [Fake() for _ in range(LIMIT - 1)], LIMIT) is None


def test_requests_that_have_not_begun_make_room_for_another_address() -> None:
    known = [Fake() for _ in range(50)] + [Fake(is_queued=True) for _ in range(50)]
    assert to_evict(Fake("b"), known, LIMIT) == known[50:55]
    assert to_evict(Fake(), known, LIMIT) == []


def test_a_few_requests_that_have_not_begun_are_ordinary() -> None:
    known = [Fake() for _ in range(LIMIT)]
    known[3].is_queued = True
    assert to_evict(Fake("b"), known, LIMIT) == []


def test_those_of_a_proxy_belong_to_many() -> None:
    known = [Fake(is_queued=True, is_proxied=True) for _ in range(LIMIT)]
    assert to_evict(Fake("b"), known, LIMIT) == []


def queued(network: str) -> Fake:
    return Fake(network, is_queued=True)


@pytest.mark.parametrize("make", [head, idle, queued])
def test_an_address_that_has_more_than_a_quarter_closes_only_its_own(make: type[Fake]) -> None:
    busy = [Fake() for _ in range(40)]
    others = [make("b") for _ in range(60)]
    assert to_evict(Fake(), [*busy, *others], LIMIT) == []
    own = idle("greedy")
    assert to_evict(Fake(), [*busy, own, *others], LIMIT) == [own]
    assert to_evict(Fake("c"), [*busy, *others], LIMIT) == others[:5]


def test_a_few_heads_may_be_on_their_way_while_there_is_anything_else() -> None:
    heads = [head("a"), head("a"), head("b")]
    slow = [Fake(is_slow=True) for _ in range(LIMIT)]
    assert to_evict(Fake("c"), heads + slow, LIMIT) == slow[:5]
    assert to_evict(Fake("c"), heads + [Fake(str(i)) for i in range(LIMIT)], LIMIT) == heads[:1]


def test_of_unread_answers_those_of_the_slow_address_go_first_not_the_newest_large_one() -> None:
    @dataclass(eq=False)
    class Client:
        network: str
        paused_at: float

    slow = [Client("slow", 10.0 + at) for at in range(3)]
    large, other = Client("fast", 99.9), Client("other", 0.0)
    unread = {large: 60_000, slow[1]: 2_000, slow[0]: 2_000, slow[2]: 2_000, other: 5_000}
    assert to_cut_off(unread, 100.0) == [*slow, other, large], "it too, if theirs are not enough"
    assert to_cut_off({large: 60_000}, 100.0) == [large], "there is nobody else"


def test_a_network_is_refused_without_a_look_for_a_moment() -> None:
    refused = RefusedNetworks()
    assert not refused.has("a", 5.0)
    refused.add("a", 5.0)
    refused.add("b", 5.0 + _REFUSED_SECONDS / 2)
    assert refused.has("a", 5.0 + _REFUSED_SECONDS / 2)
    assert not refused.has("c", 5.0)
    assert not refused.has("b", 5.0 + _REFUSED_SECONDS)
