"""What a decision may need that is not in memory, and what became of asking for it.

`decide` awaits nothing: where it lacks something it says so in its verdict. Who called it asks,
within a time limit, and decides again with the answer. One answer a question: it is never asked
twice for one request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


@dataclass(frozen=True, slots=True)
class IssuerKeysLookup:
    """The keys of the issuer named `issuer`, anew: a token names one that is not known."""

    issuer: str


@dataclass(frozen=True, slots=True)
class ApiKeyLookup:
    """The record of the API key with this digest (hexadecimal)."""

    digest: str


@dataclass(frozen=True, slots=True)
class IntrospectionLookup:
    """What the issuer named `issuer` says of an opaque token (RFC 7662)."""

    issuer: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class TokenReviewLookup:
    """Whether Kubernetes authenticates a token for one of `audiences`
    (authentication.k8s.io/v1 TokenReview).
    """

    token: str = field(repr=False)
    audiences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AccessAttributes:
    """What is done to what, in the words of authorization.k8s.io/v1: either to a resource or, with
    `path`, to a URL of the API server that is none. Empty: not named.
    """

    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""

    def __str__(self) -> str:
        """In one line, as `kubectl auth can-i` takes them: `get orders.shop.example.com/7 in a`."""
        if self.path:
            return f"{self.verb} {self.path}"
        named = [f"{self.resource}.{self.group}" if self.group else self.resource, self.name]
        below = f" subresource {self.subresource}" if self.subresource else ""
        where = f" in {self.namespace}" if self.namespace else ""
        return f"{self.verb} {'/'.join(part for part in named if part)}{below}{where}"


@dataclass(frozen=True, slots=True)
class AccessReviewLookup:
    """Whether Kubernetes lets `user`, who is in `groups` (sorted), do that
    (authorization.k8s.io/v1 SubjectAccessReview).
    """

    user: str
    groups: tuple[str, ...]
    attributes: AccessAttributes


Lookup = (
    IssuerKeysLookup | ApiKeyLookup | IntrospectionLookup | TokenReviewLookup | AccessReviewLookup
)


class Failure(Enum):
    """The answer where there was none in time, or one that can't be used."""

    FAILED = "failed"


FAILED = Failure.FAILED
Answers = Mapping[Lookup, object]
"""By what was asked: for issuer keys nothing (they are in `Keys` now), for an API key its record or
None, for a token what its issuer says, for a review of Kubernetes its `status`, or `FAILED`."""
