"""Which addresses are one client for limits."""

import pytest

from service.http.addresses import network_of


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("64:ff9b::192.0.2.1", "192.0.2.1"),
        ("fe80::1", "fe80::1"),
        ("2001:0:5ef5::1", "2001:0:5ef5::1"),
        ("testclient", "testclient"),
    ],
)
def test_each_client_is_limited_by_itself(host: str, network: str) -> None:
    assert network_of(host) == network
