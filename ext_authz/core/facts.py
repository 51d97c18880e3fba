"""What rules are held against: the request read once, and its caller."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from ext_authz.core.answers import is_grpc
from ext_authz.core.bodies import Body, Form, body_of
from ext_authz.core.hosts import normalized_host
from ext_authz.core.model import ANONYMOUS, Identified, Identity, Principal, Request

if TYPE_CHECKING:
    from ext_authz.core.known import Known
    from ext_authz.core.policies import Policy

QUERY_PARAMETERS_AT_MOST = 1000


class Facts:
    """Everything here is worked out when it is first asked for, and once.

    `known` answers questions about the caller's access; None: they can't be asked. `method` is in
    upper case, because many upstreams read `delete` as DELETE. Properties raise `ValueError` where
    the request does not have what is asked for.
    """

    def __init__(
        self,
        request: Request,
        path: str,
        query: str,
        *,
        identity: Identity,
        policy: Policy,
        now: float,
        known: Known | None = None,
    ) -> None:
        self.request = request
        self.method = request.method.upper()
        self.path = path
        self.query = query
        self.now = now
        self.known = known
        self.identity = identity
        self.is_identified = isinstance(identity, Identified)
        self.principal: Principal = (
            identity.principal if isinstance(identity, Identified) else ANONYMOUS
        )
        self.values: dict[str, Any] = {}
        """What conditions have read so far, by the name of the variable."""
        self._policy = policy

    @cached_property
    def roles(self) -> frozenset[str]:
        principal = self.principal
        if not self.is_identified:
            return frozenset()
        held = self._policy.roles.held(principal.name, principal.roles, principal.groups)
        return frozenset(held)

    @cached_property
    def permissions(self) -> frozenset[str]:
        return self._policy.roles.granted(self.roles)

    @property
    def namespace(self) -> str:
        """Whose policy it is."""
        return self._policy.namespace

    @cached_property
    def host(self) -> str:
        return normalized_host(self.request.host)

    @cached_property
    def query_parameters(self) -> dict[str, list[str]]:
        """Raises `ValueError` for a query of too many, or with a `;`, where some servers split."""
        if ";" in self.query:
            raise ValueError("the query can be read in two ways")
        return parse_qs(self.query, keep_blank_values=True, max_num_fields=QUERY_PARAMETERS_AT_MOST)

    @cached_property
    def client_address(self) -> str:
        return self._policy.client_address(self.request)

    @cached_property
    def body(self) -> Body:
        return body_of(self.request.headers, self.request.body)

    @cached_property
    def form(self) -> tuple[Form, Form]:
        """Raises `NoBody`."""
        return self.body.form()

    @cached_property
    def grpc(self) -> tuple[str, str]:
        """Service and method of a gRPC request; empty for any other."""
        if not is_grpc(self.request):
            return "", ""
        service, _, method = self.path.lstrip("/").partition("/")
        return (service, method) if service and method and "/" not in method else ("", "")
