"""What a policy says to ask the Kubernetes API server: for whom a token is, and what a caller may.

The words are those of authentication.k8s.io/v1 and authorization.k8s.io/v1.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from ext_authz.core.kind_parts import Part, TrustDomain

_API_SERVER = re.compile(r"(https://)?kubernetes\.default\.svc(\.[a-z0-9.-]+)?(:443)?/?\Z")
"""The audiences that API servers are usually given, which stand in the token of every Pod."""


def _audience(text: str) -> str:
    if _API_SERVER.match(text):
        raise ValueError(
            f"'{text}' is the API server's own audience: name one of ours, and let workloads "
            "mount a token for it (projected volume, serviceAccountToken.audience)"
        )
    return text


def _prefix(text: str) -> str:
    if text.startswith("system:"):
        raise ValueError("a userPrefix can't begin with 'system:', which is Kubernetes' own")
    return text


Audience = Annotated[
    str,
    StringConstraints(pattern=r"^[!-~]+$", max_length=256),
    AfterValidator(_audience),
]
Verb = Annotated[str, StringConstraints(pattern=r"^[a-z]+$", max_length=63)]
Filled = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:@{}-]*$", max_length=253)]
ResourceWord = Annotated[str, StringConstraints(pattern=r"^[a-z0-9.-]*$", max_length=253)]
UserPrefix = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9.-]+:$", max_length=63), AfterValidator(_prefix)
]


class KubernetesAccess(Part):
    """What the cluster's RBAC must let the caller do (SubjectAccessReview).

    A caller by `kubernetesToken` is asked about as the user and with the groups that Kubernetes
    gave. Of any other, only whom `trustDomains` or `userPrefix` maps can be asked about; the rule
    does not match for the rest.
    """

    verb: Verb = Field(description="Such as get, list, create; any word that a Role may name.")
    group: ResourceWord = Field("", description="API group; empty: the core group.")
    resource: ResourceWord = Field("", description="In the plural. It need not exist as an API.")
    subresource: ResourceWord = ""
    namespace: Filled = Field(
        "", description="Empty: all of them. `{variable}`: a segment of the rule's path."
    )
    name: Filled = Field("", description="Empty: any. `{variable}` as in namespace.")
    nonResourcePath: (  # noqa: N815
        Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9._~/{}-]*$", max_length=1024)] | None
    ) = Field(None, description="In place of a resource: a path, as in a ClusterRole's.")
    trustDomains: list[TrustDomain] = Field(  # noqa: N815
        [],
        max_length=20,
        description="Whose spiffe://DOMAIN/ns/NAMESPACE/sa/NAME are ServiceAccounts of the cluster "
        "that is asked.",
    )
    userPrefix: UserPrefix | None = Field(  # noqa: N815
        None,
        description="Ask about any other caller as the user PREFIXjwt:rita, with its groups, each "
        "after PREFIX; such as meshwarden:.",
    )
    onUnavailable: Literal["deny", "fault"] = Field(  # noqa: N815
        "deny",
        description="When Kubernetes does not answer and no other rule allows: deny is a 503 "
        "in-band, fault an error, which Envoy's failure mode may allow.",
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> KubernetesAccess:
        if bool(self.resource) == (self.nonResourcePath is not None):
            raise ValueError("exactly one of resource, nonResourcePath is needed")
        others = (self.group, self.subresource, self.namespace, self.name)
        if self.nonResourcePath is not None and any(others):
            raise ValueError("a nonResourcePath has no group, subresource, namespace or name")
        return self
