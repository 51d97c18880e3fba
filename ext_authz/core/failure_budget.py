"""How many credentials that are not valid one address may have verified.

A bucket an address: each credential that is not known yet costs one, which is given back when it
turns out to be valid; the bucket fills again with time. Where it is empty an unknown credential is
refused unverified, so that a flood of wrong ones buys no unbounded work, while known ones are
served. An IPv6 client counts by its /64, which is one site's. Known weakness: where all requests
come through one proxy that no policy trusts, they share its bucket.
"""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import ip_address

ADDRESSES_AT_MOST = 100_000


class FailureBudget:
    """`at_once` failures, and `per_second` more as time goes; takes no lock: one event loop owns
    it.
    """

    def __init__(self, *, at_once: int = 200, per_second: float = 10.0) -> None:
        self._at_once = at_once
        self._per_second = per_second
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """By address: how much of the budget is spent, and when that was so."""

    def __len__(self) -> int:
        return len(self._spent)

    def spend(self, address: str, now: float) -> bool:
        """Take one from the budget of `address`; whether there was one."""
        name = site_of(address)
        spent = self._at(name, now)
        if spent + 1 > self._at_once:
            return False
        self._note(name, spent + 1, now)
        return True

    def give_back(self, address: str, now: float) -> None:
        """What was spent bought a valid credential."""
        name = site_of(address)
        self._note(name, max(0.0, self._at(name, now) - 1), now)

    def _at(self, name: str, now: float) -> float:
        spent, when = self._spent.get(name, (0.0, now))
        return max(0.0, spent - max(0.0, now - when) * self._per_second)

    def _note(self, name: str, spent: float, now: float) -> None:
        if spent == 0.0:
            self._spent.pop(name, None)
            return
        self._spent[name] = (spent, now)
        self._spent.move_to_end(name)
        if len(self._spent) > ADDRESSES_AT_MOST:
            self._spent.popitem(last=False)


def site_of(address: str) -> str:
    """What shares a budget: an IPv4 address, or the /64 of an IPv6 address.

    >>> site_of("2001:db8::1") == site_of("2001:db8::ffff:1")
    True
    """
    if ":" not in address:
        return address
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if found.version == 6:
        mapped = found.ipv4_mapped
        return str(mapped) if mapped is not None else found.packed[:8].hex()
    return address
