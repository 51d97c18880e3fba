"""What `decide` verifies credentials with: key sets, API keys, revocations, verified tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ext_authz.core.api_keys import ApiKeys, KeyRecord
from ext_authz.core.failure_budget import FailureBudget
from ext_authz.core.identity_token import SigningKeys
from ext_authz.core.jwks import EMPTY, KeySet
from ext_authz.core.lookups import ApiKeyLookup
from ext_authz.core.review_memory import ReviewMemory
from ext_authz.core.revocations import Revocations
from ext_authz.core.token_memory import IntrospectedToken, RememberedToken, TokenMemory


class ApiKeyBook(Protocol):
    """Where API keys are found."""

    def find(self, key: str, now: float) -> KeyRecord | ApiKeyLookup | None:
        """The record of `key`, None where there is none, or what to ask the key store."""
        ...

    def __len__(self) -> int: ...


@dataclass
class Keys:
    """Replaced in parts as keys change; `issuer_keys` is by the issuer's name.

    Past `revocations_current_until` (seconds since the epoch) revocations may have been missed, and
    tokens can't be judged.
    """

    issuer_keys: Mapping[str, KeySet] = field(default_factory=dict)
    api_keys: ApiKeyBook = field(default_factory=ApiKeys)
    revocations: Revocations = field(default_factory=Revocations)
    revocations_current_until: float = float("inf")
    signing: SigningKeys = field(default_factory=SigningKeys)
    budget: FailureBudget = field(default_factory=FailureBudget)
    remembered: TokenMemory[RememberedToken] = field(default_factory=TokenMemory)
    active: TokenMemory[IntrospectedToken] = field(default_factory=TokenMemory)
    inactive: TokenMemory[IntrospectedToken] = field(default_factory=TokenMemory)
    """Apart, so that a flood of wrong tokens forgets no good one."""
    reviews: ReviewMemory = field(default_factory=ReviewMemory)

    def of_issuer(self, name: str) -> KeySet:
        return self.issuer_keys.get(name, EMPTY)
