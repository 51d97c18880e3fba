"""An issuer's own document: where it lies, and what it says.

Source: OpenID Connect Discovery 1.0 section 4, RFC 8414 section 3. The document must name the
issuer to the letter, or anybody's document would do; what it points to must not be less secure.
"""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit, urlunsplit

from meshwarden.core.documents import parse_json
from meshwarden.core.faults import InvalidInput

Flavour = Literal["oidc", "oauth"]
Member = Literal["jwks_uri", "introspection_endpoint"]


def document_url(issuer: str, flavour: Flavour) -> str:
    """Where the document of `issuer` lies.

    >>> document_url("https://a.example/tenant/", "oidc")
    'https://a.example/tenant/.well-known/openid-configuration'
    >>> document_url("https://a.example/tenant", "oauth")
    'https://a.example/.well-known/oauth-authorization-server/tenant'
    """
    base = issuer.rstrip("/")
    if flavour == "oidc":
        return f"{base}/.well-known/openid-configuration"
    parts = urlsplit(base)
    path = f"/.well-known/oauth-authorization-server{parts.path}"
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def endpoint(issuer: str, content: bytes, member: Member) -> str:
    """The URL that the document of `issuer` gives as `member`. Raises `InvalidInput`, saying why
    there is none that can be used.
    """
    document = parse_json(f"document of {issuer}", content)
    if not isinstance(document, dict) or document.get("issuer") != issuer:
        raise InvalidInput(f"the document of {issuer} names another issuer, or none")
    url = document.get(member)
    if not isinstance(url, str) or not url.startswith(("https://", "http://")):
        raise InvalidInput(f"the document of {issuer} has no {member}")
    if issuer.startswith("https://") and not url.startswith("https://"):
        raise InvalidInput(f"the document of {issuer} gives a {member} without TLS")
    return url
