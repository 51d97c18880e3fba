"""What a caller is identified with: the policy, keys, the time, and answers to earlier look-ups."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType

from ext_authz.core.keys import Keys
from ext_authz.core.lookups import Answers
from ext_authz.core.policies import Policy

NO_ANSWERS: Answers = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Known:
    """`now`: seconds since the epoch."""

    policy: Policy
    keys: Keys
    now: float
    answers: Answers = field(default_factory=lambda: NO_ANSWERS)
