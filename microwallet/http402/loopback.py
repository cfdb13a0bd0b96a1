"""Which hosts are this very machine: what is sent there is read by nobody in between."""

from __future__ import annotations

import ipaddress
from functools import lru_cache


def parse_ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An IP address, or None for anything else; one of IPv4 that is written in IPv6 is that of IPv4."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


@lru_cache(maxsize=1024)
def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host.

    By its text alone: a name, but for localhost, means whatever its look-up says.
    """
    address = parse_ip(host)
    return host == "localhost" if address is None else address.is_loopback
