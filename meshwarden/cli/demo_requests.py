"""The requests that `up` offers to try, and which of them a configuration answers as stated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ext_authz.core.answers import qualified_principal
from ext_authz.core.engine import decide
from ext_authz.core.keys import Keys
from ext_authz.core.model import Reason, Request, Verdict
from ext_authz.core.policies import PolicySet
from meshwarden.cli.state_folder import API_KEY_HEADER
from ratelimit_service.core.lookup import find_limit
from ratelimit_service.core.model import Descriptor, Entry, Limit, Rules

TRIES = 12
"""Of the request that is to be over the limit: at five a minute more than two windows let through,
so that the end of a minute changes nothing.
"""


@dataclass(frozen=True, slots=True)
class DemoRequest:
    """One request: `caller` is reader, admin, service, expired, or empty; `times` is how often it
    is sent.
    """

    name: str
    expect: int
    path: str
    caller: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    order: str = ""
    """The JSON of an order to post; without one it is a GET."""
    times: int = 1


_ORDER = '{"item": "tea", "quantity": 2}'

REQUESTS = (
    DemoRequest("anonymous ping", 200, "/public/ping"),
    DemoRequest("no credential", 401, "/whoami"),
    DemoRequest("bad token", 401, "/whoami", headers=(("authorization", "Bearer not.a.token"),)),
    DemoRequest("expired token", 401, "/whoami", "expired"),
    DemoRequest("two credentials", 401, "/whoami", "reader", headers=((API_KEY_HEADER, "second"),)),
    DemoRequest("who am I", 200, "/whoami", "reader"),
    DemoRequest("reader reads", 200, "/orders", "reader"),
    DemoRequest("reader writes", 403, "/orders", "reader", order=_ORDER),
    DemoRequest("admin writes", 201, "/orders", "admin", order=_ORDER),
    DemoRequest("API key writes", 201, "/orders", "service", order=_ORDER),
    DemoRequest("reader in /admin/", 403, "/admin/reports", "reader"),
    DemoRequest("admin in /admin/", 200, "/admin/reports", "admin"),
    DemoRequest("unknown path", 403, "/nowhere", "admin"),
    DemoRequest("over the limit", 429, "/limited", "reader", times=TRIES),
)


def credential_header(caller: str, credential: str) -> tuple[str, str]:
    """The header that brings the credential of `caller`."""
    if caller == "service":
        return API_KEY_HEADER, credential
    return "authorization", f"Bearer {credential}"


@dataclass(frozen=True, slots=True)
class Expectation:
    """What one configuration answers: `credentials` by caller, limits of `domain`."""

    policies: PolicySet
    keys: Keys
    rules: Rules
    domain: str
    host: str
    credentials: Mapping[str, str]
    now: float

    def holds(self, request: DemoRequest) -> bool:
        """Whether `request` is answered as it states, when the sample upstream is behind."""
        verdict = decide(self._asked(request), self.policies, self.keys, self.now)
        if verdict.reason is Reason.NO_POLICY_FOR_HOST:
            return False  # Right by accident: nothing of the configuration is shown by it.
        if not verdict.is_allowed:
            return request.expect == verdict.status
        if request.expect in (401, 403):
            return False
        limit = self._limit(verdict)
        if request.expect == 429:
            return limit is not None and 2 * limit.requests_per_unit < request.times
        return limit is None or limit.requests_per_unit > 0

    def _asked(self, request: DemoRequest) -> Request:
        headers = {"user-agent": "curl", "accept": "*/*", **dict(request.headers)}
        if request.caller:
            name, value = credential_header(request.caller, self.credentials[request.caller])
            headers[name] = value
        if request.order:
            headers["content-type"] = "application/json"
        return Request(
            method="POST" if request.order else "GET",
            host=self.host,
            target=request.path + ("?try=1" if request.times > 1 else ""),
            headers=headers,
            source_address="127.0.0.1",
        )

    def _limit(self, verdict: Verdict) -> Limit | None:
        """The limit that refuses requests which this verdict allows; Envoy asks with both of the
        descriptor's entries or not at all.
        """
        entries = (Entry("rule", verdict.rule), Entry("principal", qualified_principal(verdict)))
        match = find_limit(self.domain, Descriptor(entries), rules=self.rules)
        if match is None:
            return None
        limit = match.limit
        is_lenient = limit.unlimited or limit.shadow_mode or limit.quota_mode
        return None if is_lenient else limit
