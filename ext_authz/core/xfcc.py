"""The X-Forwarded-Client-Cert header: what a proxy says of the certificate that it was shown.

To be believed only of a proxy that is trusted: anybody can send the header. Source: Envoy's
documentation of `x-forwarded-client-cert`.
"""

from __future__ import annotations

import re

HEADER = "x-forwarded-client-cert"
ELEMENTS_AT_MOST = 32

# Possessive (`*+`): a long run of spaces is gone through once, not once for each of them.
_PAIR = re.compile(r'\s*+([A-Za-z]++)=("(?:[^"\\]|\\.)*+"|[^",;]*+)\s*+([,;]|\Z)')

Element = dict[str, list[str]]
"""Values by key in lower case (`by`, `hash`, `cert`, `chain`, `subject`, `uri`, `dns`); a key may
stand several times."""


def parse_xfcc(text: str) -> list[Element] | None:
    """The elements in their order, the last one written by the nearest proxy; None for a header
    that can't be read.

    >>> parse_xfcc('By=spiffe://a/b;Subject="CN=x,O=y";URI=spiffe://a/c,Hash=1')
    [{'by': ['spiffe://a/b'], 'subject': ['CN=x,O=y'], 'uri': ['spiffe://a/c']}, {'hash': ['1']}]
    """
    elements: list[Element] = [{}]
    position = 0
    while position < len(text):
        found = _PAIR.match(text, position)
        if found is None:
            return None
        key, value, separator = found.groups()
        if value.startswith('"'):
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        elements[-1].setdefault(key.lower(), []).append(value)
        position = found.end()
        if separator == ",":
            elements.append({})
        if len(elements) > ELEMENTS_AT_MOST or (separator and position == len(text)):
            return None
    return elements
