"""Client addresses as limits count them."""

import ipaddress
from collections.abc import Container, Sequence
from functools import lru_cache

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware


@lru_cache(4096)
def network_of(host: str) -> str:
    """The address; for IPv6 the /64 network, which usually belongs to one customer.

    An IPv4 client of a server that listens on IPv6 is `::ffff:192.0.2.1`; all of these share a /64
    network, and nothing else.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 4:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


def trusted_hosts(proxies: Sequence[str]) -> Container[str]:
    """The hosts that these addresses and networks contain."""

    async def unused(*_: object) -> None: ...

    middleware = ProxyHeadersMiddleware(unused, list(proxies))
    return middleware.trusted_hosts  # type: ignore[return-value] # it is only asked for strings
