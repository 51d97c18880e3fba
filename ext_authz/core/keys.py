"""What `decide` verifies credentials with: issuers' key sets, API keys, and verified tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ext_authz.core.api_keys import ApiKeys
from ext_authz.core.jwks import EMPTY, KeySet
from ext_authz.core.token_memory import TokenMemory


@dataclass
class Keys:
    """Replaced in parts as keys change; `issuer_keys` is by the issuer's name."""

    issuer_keys: Mapping[str, KeySet] = field(default_factory=dict)
    api_keys: ApiKeys = field(default_factory=ApiKeys)
    remembered: TokenMemory = field(default_factory=TokenMemory)

    def of_issuer(self, name: str) -> KeySet:
        return self.issuer_keys.get(name, EMPTY)
