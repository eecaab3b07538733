"""Who sends a request, as far as turns, limits and caches go."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network, ip_address

from starlette.datastructures import Address

SITE_BITS = 64  # of an IPv6 address: what a single subscriber, or machine, is given at least


def caller_of(client: Address | None) -> str:
    """The client's address, as proxies that are trusted tell it; empty where it has none.

    Of an IPv6 one it is the network, within which a client picks its addresses as it likes. What is no address stays as
    it is: a proxy may tell anything.
    """
    if client is None:
        return ""
    try:
        address = ip_address(client.host)
    except ValueError:
        return client.host
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(IPv6Network((int(address), SITE_BITS), strict=False))
