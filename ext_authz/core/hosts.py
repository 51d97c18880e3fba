"""Finding the policy of a host: the exact name, else the longest wildcard, else `*`.

`*.example.com` covers every name below example.com, at any depth, and not example.com itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Generic, TypeVar

Value = TypeVar("Value")

_PATTERN = re.compile(r"(\*|(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])\Z")


def normalized_host(host: str) -> str:
    """The host in lower case, without port and without the dot at its end."""
    host = host.lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]" if "]" in host else host
    return host.partition(":")[0].rstrip(".")


def parse_host_pattern(text: str) -> str:
    """The pattern in lower case. Raises `ValueError` for what is none."""
    pattern = text.lower()
    if _PATTERN.match(pattern) is None:
        raise ValueError(
            f"'{text}' is no host pattern: write a name, '*.' and a name, or '*'; no port"
        )
    return pattern


class HostIndex(Generic[Value]):
    """Looks a host up in as many steps as the longest pattern has labels, however many patterns
    there are and however long the host is.
    """

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = dict(values)
        self._labels_at_most = max((pattern.count(".") for pattern in self._values), default=0)

    def find(self, host: str) -> Value | None:
        """The value of the most specific pattern that covers `host` (as received)."""
        name = normalized_host(host)
        exact = self._values.get(name)
        if exact is not None and name != "*":
            return exact
        labels = name.rsplit(".", self._labels_at_most)[1:]
        for start in range(len(labels)):
            found = self._values.get(f"*.{'.'.join(labels[start:])}")
            if found is not None:
                return found
        return self._values.get("*")
