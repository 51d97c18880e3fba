"""What a caller is identified with: the policy, keys, the time, and answers to earlier look-ups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType

from ext_authz.core.keys import Keys
from ext_authz.core.lookups import Answers, Lookup
from ext_authz.core.model import Identified, Identity, Reason, Unidentified
from ext_authz.core.policies import Policy

NO_ANSWERS: Answers = MappingProxyType({})
TOO_MANY = Unidentified(
    Reason.TOO_MANY_FAILURES,
    "too many credentials that are not valid came from this address",
    status=429,
)


@dataclass(frozen=True, slots=True)
class Known:
    """`now`: seconds since the epoch. `address`: where the client is, behind trusted proxies."""

    policy: Policy
    keys: Keys
    now: float
    answers: Answers = field(default_factory=lambda: NO_ANSWERS)
    address: str = ""

    def verified(self, verify: Callable[[], Identity]) -> Identity:
        """The identity that verifying an unknown credential comes to, unless too many that are not
        valid came from its address.
        """
        budget = self.keys.budget
        if not budget.spend(self.address, self.now):
            return TOO_MANY
        identity = verify()
        if isinstance(identity, Identified) or identity.lookup is not None:
            budget.give_back(self.address, self.now)
        return identity

    def looked_up(self, lookup: Lookup, judge: Callable[[object], Identity]) -> Identity:
        """The identity that the answer to a look-up comes to, or the question; as `verified`."""
        budget = self.keys.budget
        if lookup not in self.answers:
            if not budget.spend(self.address, self.now):
                return TOO_MANY
            return Unidentified(Reason.PENDING, "the credential is looked up", lookup=lookup)
        identity = judge(self.answers[lookup])
        if isinstance(identity, Identified) or identity.is_fault:
            budget.give_back(self.address, self.now)
        return identity
