"""Finding the policy of a host: the exact name, else the longest wildcard, else `*`.

`*.example.com` covers every name below example.com, at any depth, and not example.com itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Generic, TypeVar

Value = TypeVar("Value")

_HOST = re.compile(r"(?P<name>[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])\.?(?::[0-9]{1,5})?\Z")
HOST_CHARACTERS_AT_MOST = 260


def normalized_host(host: str) -> str:
    """The host in lower case, without port and without the dot at its end; empty where `host` is
    not one name or address with at most a port (RFC 9110 section 7.2), such as two Host lines that
    a proxy joined: servers would disagree about which is meant.
    """
    # Before letters are made small: the Kelvin sign becomes a plain k.
    if len(host) > HOST_CHARACTERS_AT_MOST or not host.isascii():
        return ""
    found = _HOST.match(host.lower())
    return found["name"] if found else ""


class HostIndex(Generic[Value]):
    """Looks a host up in as many steps as the longest pattern has labels, however many patterns
    there are and however long the host is.
    """

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = dict(values)
        self._labels_at_most = max((pattern.count(".") for pattern in self._values), default=0)

    def __len__(self) -> int:
        return len(self._values)

    def find(self, name: str) -> Value | None:
        """The value of the most specific pattern that covers the normalised host `name`."""
        exact = self._values.get(name)
        if exact is not None and name != "*":
            return exact
        labels = name.rsplit(".", self._labels_at_most)[1:]
        for start in range(len(labels)):
            found = self._values.get(f"*.{'.'.join(labels[start:])}")
            if found is not None:
                return found
        return self._values.get("*")
