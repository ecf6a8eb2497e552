"""Client addresses as limits count them."""

import ipaddress
from collections.abc import Iterable, Sequence
from functools import lru_cache

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052
_SHARED = [ipaddress.IPv6Network(one) for one in ("fe80::/64", "2001::/32")]  # link-local, Teredo


@lru_cache(4096)
def network_of(host: str) -> str:
    """The address; for IPv6 the /64 network, which usually belongs to one customer.

    An IPv4 client of a server that listens on IPv6 is `::ffff:192.0.2.1`, and one that comes
    through NAT64 `64:ff9b::192.0.2.1`; all of these share a /64 network, and nothing else. So do
    the hosts of one link, and those behind one Teredo relay.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 4:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    if address in _NAT64:
        return str(ipaddress.IPv4Address(address.packed[-4:]))
    if any(address in network for network in _SHARED):
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))


_ADDRESSES = b"x-forwarded-for"


def without_quotes(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers with plain addresses: some proxies quote what has a colon, uvicorn does not."""
    return [
        (name, value.replace(b'"', b"") if name == _ADDRESSES else value) for name, value in headers
    ]


class TrustedProxies:
    """The proxies whose headers count, as uvicorn tells them.

    Args:
        addresses: Their addresses and networks.
    """

    def __init__(self, addresses: Sequence[str] = ()) -> None:
        async def unused(*_: object) -> None: ...

        self._hosts = ProxyHeadersMiddleware(unused, list(addresses)).trusted_hosts

    def __contains__(self, host: str) -> bool:
        return host in self._hosts

    def network_behind(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """The network of the client that a trusted proxy sent these headers for; "" if unknown."""
        values = [value for name, value in without_quotes(headers) if name == _ADDRESSES]
        if not values:
            return ""
        sent = b", ".join(values).decode("latin-1")
        return network_of(self._hosts.get_trusted_client_address(sent)[0])
