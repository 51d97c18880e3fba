"""The address of the client, behind proxies that are trusted to tell it, and networks.

X-Forwarded-For is read from its end: each address is believed as long as the one after it is a
trusted proxy's. Without trusted proxies the client is the direct peer.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network
HEADER = "x-forwarded-for"
HOPS_AT_MOST = 64


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """The networks that `texts` write; a lone address is a network of one. Raises `ValueError`."""
    return tuple(ip_network(text) for text in texts)


def covers(networks: tuple[Network, ...], address: str) -> bool:
    """Whether `address` lies in one of `networks`; an IPv4-mapped IPv6 address counts as IPv4."""
    if not networks:
        return False
    try:
        found = ip_address(address)
    except ValueError:
        return False
    if found.version == 6 and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return any(found in network for network in networks)


def client_address(peer: str, forwarded_for: str, trusted: tuple[Network, ...]) -> str:
    """The first address, from our end, that no trusted proxy has; empty where a trusted proxy
    tells what is no address.

    >>> proxies = parse_networks(["10.0.0.0/8"])
    >>> client_address("10.0.0.1", "203.0.113.9, 198.51.100.7, 10.0.0.2", proxies)
    '198.51.100.7'
    >>> client_address("198.51.100.7", "203.0.113.9", proxies)
    '198.51.100.7'
    """
    if not covers(trusted, peer):
        return peer
    address = peer
    for entry in [part.strip() for part in forwarded_for.split(",")][::-1][:HOPS_AT_MOST]:
        if not entry:
            continue
        try:
            ip_address(entry)
        except ValueError:
            return ""
        address = entry
        if not covers(trusted, address):
            break
    return address
