"""What is wrong with a configuration is said all at once, with file, line and a hint."""

from __future__ import annotations

import json

import pytest

from ext_authz.core.compile import Options, compile_policies, referenced_files
from ext_authz.core.compile_keys import API_KEYS, DEVELOPMENT_JWKS, PEPPER
from meshwarden.core.faults import InvalidInput
from meshwarden.core.snapshot import Bundle
from tests.support.check_requests import (
    access_policy,
    access_role,
    configured,
    resource,
    role_binding,
    token_issuer,
)
from tests.support.tokens import ec_signer, jwks

KEYS = jwks(ec_signer())
ISSUER = token_issuer(KEYS)
RULE = {"name": "any"}


def problems(**files: str | bytes) -> list[str]:
    """What is wrong with these files; `a` is a.yaml."""
    contents = {
        name if name.startswith("@") else f"{name}.yaml": c.encode() if isinstance(c, str) else c
        for name, c in files.items()
    }
    with pytest.raises(InvalidInput) as caught:
        compile_policies(Bundle(contents))
    return [str(problem) for problem in caught.value.problems]


def faults(*resources: object) -> str:
    with pytest.raises(InvalidInput) as caught:
        configured(*resources)
    return str(caught.value)


def policy_with(**rule: object) -> dict[str, object]:
    return access_policy({**RULE, **rule})


# --- one file, every fault, its line

EVERYTHING_WRONG = """\
apiVersion: meshwarden.io/v1alpha1
kind: AccessRole
metadata: {name: reader}
spec:
  inherits: [writer]
---
apiVersion: meshwarden.io/v1alpha1
kind: AccessPolicy
metadata: {name: shop}
spec:
  hosts: ["*"]
  identify:
    - jwt: {issuers: [nobody]}
  rules:
    - name: conditional
      when: principal.nmae == "x"
    - name: roles
      roles: [raeder]
---
apiVersion: meshwarden.io/v1alpha1
kind: AccessPolicy
metadata: {name: shop}
spec:
  hosts: [other]
  rules: []
---
apiVersion: meshwarden.io/v1alpha1
kind: AccessPolicy
metadata: {name: typo}
spec:
  hosts: [third]
  rules:
    - name: typo
      metods: [GET]
      callers: 7
      roles: [raeder]
      when: principal.nmae == "x"
---
apiVersion: meshwarden.io/v1alpha1
kind: AccessPolcy
metadata: {name: kind}
"""


def test_every_fault_of_every_file_is_reported_at_once_with_its_line():
    found = problems(
        a=EVERYTHING_WRONG, b="apiVersion: [", c=b"\xff", d="apiVersion: x\nkind: AccessRole\n"
    )
    wanted = [
        "a.yaml:5: there is no AccessRole 'writer' (known: reader)",
        "a.yaml:13: there is no TokenIssuer 'nobody' (define it)",
        "a.yaml:16: when: line 1, column",
        "a.yaml:18: there is no AccessRole 'raeder' (did you mean 'reader'?)",
        "a.yaml:22: AccessPolicy 'shop' stands twice (the first is at a.yaml:7)",
        "a.yaml:34: unknown field 'spec.rules.0.metods' (did you mean 'methods'?)",
        "a.yaml:35: spec.rules.0.callers: Input should be 'identified' or 'anyone'",
        "a.yaml:36: there is no AccessRole 'raeder' (did you mean 'reader'?)",
        "a.yaml:37: when: line 1, column",
        "a.yaml:40: unknown kind 'AccessPolcy' (did you mean 'AccessPolicy'?)",
        "b.yaml:2: not YAML",
        "c.yaml:1: not UTF-8 text",
        "d.yaml:1: apiVersion must be 'meshwarden.io/v1alpha1', not 'x'",
    ]
    missing = [text for text in wanted if not any(line.startswith(text) for line in found)]
    assert missing == [], "\n".join(found)


def test_a_fault_in_one_resource_is_not_reported_of_those_that_name_it():
    """A role with a misspelt field is there, though wrong: only its fault is worth reading."""
    wrong = resource("AccessRole", "reader", {"inherit": []})
    text = faults(wrong, ISSUER, policy_with(roles=["reader"]))
    assert "unknown field 'spec.inherit'" in text
    assert "there is no AccessRole" not in text


# --- one fault a row


@pytest.mark.parametrize(
    ("resources", "what"),
    [
        ([ISSUER, ISSUER], "TokenIssuer 'main' stands twice"),
        (
            [ISSUER, token_issuer(KEYS, name="b", subjectPrefix="b/")],
            "is already TokenIssuer 'main'",
        ),
        ([ISSUER, token_issuer(KEYS, name="b", issuer="b")], "has the same subjectPrefix"),
        ([ISSUER, policy_with(), access_policy(RULE, name="b")], r"the host '\*' is already"),
        ([ISSUER, access_policy(RULE, hosts=["a", "A"])], "the host 'a' is already covered"),
        ([access_role("a", inherits=["b"])], "there is no AccessRole 'b'"),
        ([access_role("a", inherits=["a"])], "AccessRole 'a' inherits itself"),
        (
            [access_role("a", inherits=["b"]), access_role("b", inherits=["a"])],
            "AccessRole 'b' inherits itself",
        ),
        ([role_binding("a", {"group": "g"})], "there is no AccessRole 'a'"),
        ([access_role("a"), role_binding("a", {"principal": "rita"})], "begins with its kind"),
        ([access_role("a"), role_binding("a", {})], "exactly one of principal, group"),
        ([ISSUER, policy_with(principals=["rita"])], "begins with its kind"),
        ([ISSUER, policy_with(permissions=["read"])], "spec.rules.0.permissions.0"),
        (
            [ISSUER, access_role("a", "orders:read"), policy_with(permissions=["orders:raed"])],
            r"no AccessRole grants 'orders:raed' \(did you mean 'orders:read'\?\)",
        ),
        ([ISSUER, access_policy(RULE, RULE)], "the rule name 'any' stands twice"),
        ([ISSUER, policy_with(paths=["orders"])], "must begin with a slash"),
        ([ISSUER, policy_with(paths=["/a/**/b"])], "may stand only at the end"),
        ([ISSUER, policy_with(paths=["/a/b*"])], "must be whole segments"),
        ([ISSUER, policy_with(paths=["/a/%62"])], "not in its normal form"),
        ([ISSUER, policy_with(paths=["/a//b"])], "not in its normal form"),
        ([ISSUER, policy_with(methods=["get"])], "spec.rules.0.methods.0"),
        ([ISSUER, policy_with(callers="anyone", scopes=["s"])], "a rule for anyone can't ask"),
        ([ISSUER, policy_with(when="1 + 1")], "must be true or false, this is a"),
        ([ISSUER, policy_with(when="request.method ==")], "when: line 1, column"),
        ([ISSUER, policy_with(when="(" * 2000)], "when: "),
        ([ISSUER, policy_with(when="principal.kind.nope()")], "when: line 1, column"),
        ([ISSUER, policy_with(when="x" * 2049)], "at most 2048 characters"),
        ([ISSUER, access_policy(RULE, hosts=["a:80"])], "is no host pattern"),
        ([ISSUER, access_policy(RULE, hosts=["*.*.a"])], "is no host pattern"),
        ([ISSUER, access_policy(RULE, hosts=[7])], "spec.hosts.0: Input should be a valid string"),
        ([ISSUER, access_policy(RULE, identityHeaders={"cookie": "subject"})], "can't be an iden"),
        ([ISSUER, access_policy(RULE, identityHeaders={"x_user": "subject"})], "identityHeaders"),
        (
            [ISSUER, access_policy(RULE, identityHeaders={"x-api-key": "subject"})],
            "brings the credential and the identity",
        ),
        (
            [ISSUER, access_policy(RULE, identify=[{"apiKey": {}}, {"apiKey": {}}])],
            "the header 'x-api-key' is read by two ways to identify",
        ),
        ([access_policy(RULE, identify=[{}])], "exactly one of jwt, introspection, apiKey"),
        ([access_policy(RULE, identify=[{"apiKey": {"sources": [{}]}}])], "exactly one of header"),
        (
            [
                access_policy(
                    RULE, identify=[{"apiKey": {"sources": [{"query": "k", "scheme": "A"}]}}]
                )
            ],
            "a scheme goes with a header",
        ),
        (
            [access_policy({**RULE, "when": "request.path.matches('(')"})],
            r"when: '\(' is no regular expression",
        ),
        (
            [access_policy({**RULE, "when": 'matches(request.path, r"[")'})],
            "is no regular expression",
        ),
        ([token_issuer(jwks={})], "exactly one of inline, file, url, discovery, development"),
        ([token_issuer(jwks={"url": "file:///etc/passwd"})], "spec.jwks.url"),
        ([token_issuer(jwks={"development": True})], "not switched on here"),
        ([token_issuer({"keys": "none"})], "the JWKS is not a JWKS"),
        ([token_issuer(KEYS, audiences=[])], "spec.audiences"),
        ([token_issuer(KEYS, algorithms=["HS256"])], "spec.algorithms.0"),
        ([token_issuer(KEYS, tokenType='at"jwt')], "spec.tokenType"),
        ([token_issuer(KEYS, claims={"roles": 'a"b'})], "spec.claims.roles"),
        ([resource("AccessRole", "Not A Name")], "metadata.name"),
        ([{"kind": "AccessRole"}], "apiVersion must be"),
        ([7], "a resource must be a mapping"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_fault_is_named(resources, what):
    with pytest.raises(InvalidInput, match=what):
        configured(*resources)


@pytest.mark.parametrize("scheme", ["Bearer", "Token"])
def test_a_header_cannot_be_read_with_and_without_a_scheme(scheme):
    """Every request with it would have two credentials."""
    sources = [{"header": "x-a"}, {"header": "x-a", "scheme": scheme}]
    policy = access_policy(RULE, identify=[{"jwt": {"issuers": ["main"], "sources": sources}}])
    assert "the header 'x-a' is read by two ways to identify" in faults(ISSUER, policy)


# --- files beside the resources


def test_a_jwks_file_is_read_by_its_name():
    issuer = token_issuer(jwks={"file": "./keys/../jwks.json"})
    text = json.dumps(issuer).encode()
    assert referenced_files({"a.yaml": text, "b.yaml": b"TokenIssuer: ["}) == {"jwks.json"}
    made = configured(issuer, files={"jwks.json": json.dumps(KEYS).encode()})
    assert list(made.policies.keys_configured()["main"].keys) == ["ec"]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"<html>", "jwks.json:1: not JSON"),
        (b"[]", "config.yaml:13: the JWKS is not a JWKS"),
        (b"\xff", "jwks.json:1: not UTF-8 text"),
        (b"9" * 5000, "JWKS|jwks"),
    ],
)
def test_a_jwks_file_that_is_none_is_refused(content, what):
    with pytest.raises(InvalidInput, match=what):
        configured(token_issuer(jwks={"file": "jwks.json"}), files={"jwks.json": content})


def test_a_missing_jwks_file_leaves_no_key_and_is_a_fault():
    assert "jwks.json" in faults(token_issuer(jwks={"file": "jwks.json"}))


def test_the_development_issuer_needs_its_keys():
    """A check away from the running service takes it as it is."""
    issuer = token_issuer(jwks={"development": True})
    content = {"a.yaml": json.dumps(issuer).encode()}
    assumed = compile_policies(Bundle(content), Options(assumes_development_keys=True))
    assert assumed.policies.keys_configured()["main"].keys == {}
    files = {DEVELOPMENT_JWKS: json.dumps(KEYS).encode()}
    assert list(configured(issuer, files=files).policies.keys_configured()["main"].keys) == ["ec"]


def test_wrong_api_keys_are_reported_together_with_everything_else():
    found = problems(**{API_KEYS: b"{", PEPPER: b"x" * 32, "a": EVERYTHING_WRONG})
    assert any(line.startswith("API keys:1: not JSON") for line in found)
    assert len(found) > 5


def test_what_belongs_to_the_other_service_is_passed_over():
    limit = resource("RateLimit", "limits", {"domain": "d"})
    plain = b"domain: d\ndescriptors: []\n"
    made = configured(limit, ISSUER, policy_with(), files={"plain.yaml": plain, "x.txt": b"\xff"})
    assert made.policies.policies.find("anything").name == "orders"


def test_an_empty_configuration_denies_everything():
    assert configured().policies.policies.find("a") is None
