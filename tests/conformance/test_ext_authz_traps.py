"""The traps of Envoy's external authorization, as far as they lie between bytes and bytes.

The list is that of the project's specification; what needs an Envoy is tested through one.
"""

from __future__ import annotations

import asyncio
import inspect
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.adapters import envoy_check
from ext_authz.adapters.envoy_check import Check, decode, encode
from ext_authz.core.lookups import IssuerKeysLookup
from ext_authz.core.model import (
    ANONYMOUS,
    Append,
    HeaderMutation,
    Kind,
    Principal,
    Reason,
    Verdict,
)
from meshwarden.adapters.telemetry import Metrics
from meshwarden.core.faults import InvalidInput, Unavailable
from tests.support.check_requests import (
    Authorizer,
    access_policy,
    check_request,
    problem_of,
    response_of,
    token_issuer,
)
from tests.support.tokens import NOW, claims, ec_signer, jwks

EC = ec_signer()
TOKEN = EC.token()
ASKED = Authorizer(
    token_issuer(jwks(EC)),
    access_policy(
        {"name": "open", "callers": "anyone", "paths": ["/open"]},
        {"name": "closed", "paths": ["/orders"]},
    ),
)


async def nothing_new(_lookup: object) -> None:
    return None


def check_of(asked: Authorizer = ASKED, ask=nothing_new) -> Check:
    made = Check(asked.keys, ask, metrics=Metrics(), clock=lambda: asked.now)
    made.policies = asked.policies
    return made


def answered(message: bytes, check: Check | None = None) -> bytes:
    """The answer to a message, which needs nothing that is not in memory."""
    answer = (check or check_of()).handle(message, ())
    assert isinstance(answer, bytes)
    return answer


# --- 1: explicit append semantics on everything that we set


def test_every_header_that_we_set_overwrites():
    """`append_action` and the deprecated `append` both say so: what unset means has changed."""
    allowed = answered(check_request("/orders", headers={"authorization": f"Bearer {TOKEN}"}))
    denied = answered(check_request("/orders"))
    options = [
        *response_of(allowed).ok_response.headers,
        *response_of(denied).denied_response.headers,
    ]
    assert {option.header.key for option in options} >= {"x-auth-principal", "www-authenticate"}
    for option in options:
        assert option.append_action == Append.OVERWRITE_IF_EXISTS_OR_ADD.value
        assert option.HasField("append")
        assert option.append.value is False


# --- 2: OK never stands beside a denial

texts = st.text(st.characters(codec="utf-8"), max_size=8)
mutations = st.builds(HeaderMutation, texts, texts, st.sampled_from(Append))
contents = {
    "principal": st.builds(Principal, st.sampled_from(Kind), texts) | st.just(ANONYMOUS),
    "policy": texts,
    "rule": texts,
    "detail": texts,
    "challenges": st.lists(texts, max_size=2).map(tuple),
    "headers": st.lists(st.builds(HeaderMutation, texts, texts, st.sampled_from(Append))).map(
        tuple
    ),
    "headers_to_remove": st.lists(texts, max_size=2).map(tuple),
    "query_parameters_to_remove": st.lists(texts, max_size=2).map(tuple),
}
denials = st.builds(
    Verdict,
    is_allowed=st.just(False),
    reason=st.sampled_from([reason for reason in Reason if reason is not Reason.ALLOWED]),
    status=st.sampled_from([400, 401, 403, 431, 500, 503]),
    **contents,
)
allowances = st.builds(
    Verdict, is_allowed=st.just(True), reason=st.just(Reason.ALLOWED), **contents
)


@given(denials | allowances)
def test_ok_never_stands_beside_a_denial(verdict):
    """Envoy lets such a pair pass; so also no denial has the status OK or HTTP 200."""
    response = response_of(encode(verdict))
    given = response.WhichOneof("http_response")
    assert given == ("ok_response" if verdict.is_allowed else "denied_response")
    assert (response.status.code == 0) is verdict.is_allowed
    if not verdict.is_allowed:
        assert response.denied_response.status.code >= 400


@pytest.mark.parametrize(
    ("is_allowed", "reason", "status"),
    [
        (False, Reason.NOT_READY, 200),
        (False, Reason.ALLOWED, 403),
        (True, Reason.EXPIRED, 200),
        (True, Reason.ALLOWED, 403),
    ],
)
def test_a_verdict_that_contradicts_itself_cannot_be_built(is_allowed, reason, status):
    with pytest.raises(ValueError, match="no verdict"):
        Verdict(is_allowed, reason, status=status)


# --- 3 and 5: what can't be decided is a denial; only bytes that are none are an error


def test_a_request_without_http_part_is_denied():
    """Istio's network filter sends one."""
    answer = answered(check_request(None))
    assert problem_of(answer)["reason"] == "not_http"
    assert response_of(answer).status.code == 7


@pytest.mark.parametrize("message", [b"\xff", b"\x0a\x05abc", b"garbage", b"\x0a\xff\xff\xff\x7f"])
def test_bytes_that_are_no_check_request_are_invalid_input(message):
    with pytest.raises(InvalidInput, match="not an envoy"):
        check_of().handle(message, ())


def test_a_header_that_is_no_utf8_is_invalid_input():
    """Envoy replaces such bytes before it asks; anything else is no Envoy."""
    message = check_request("/orders", headers={"x-a": "marker"}).replace(b"marker", b"\xff" * 6)
    with pytest.raises(InvalidInput):
        check_of().handle(message, ())


def test_bytes_that_are_no_utf8_in_raw_headers_are_read():
    """There they are allowed; they are replaced as Envoy would."""
    message = check_request("/open", headers={"x-a": "marker"}, is_raw=True)
    request = decode(message.replace(b"marker", b"\xff" * 6))
    assert request.headers["x-a"] == "\ufffd" * 6


@given(st.binary(max_size=64) | st.binary(max_size=64).map(lambda tail: check_request() + tail))
def test_any_bytes_are_answered_or_invalid_input(message):
    try:
        answer = answered(message)
    except InvalidInput:
        return
    assert response_of(answer).WhichOneof("http_response") is not None


@given(st.integers(0, 200), st.integers(0, 255))
def test_a_damaged_request_is_answered_or_invalid_input(place, byte):
    message = bytearray(check_request("/orders", headers={"authorization": f"Bearer {TOKEN}"}))
    message[place % len(message)] = byte
    try:
        answer = answered(bytes(message))
    except InvalidInput:
        return
    assert response_of(answer).WhichOneof("http_response") is not None


def test_before_the_first_configuration_everything_is_denied():
    check = check_of()
    check.policies = None
    answer = answered(check_request("/open"), check)
    assert problem_of(answer) | {"detail": ""} == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "",
        "reason": "not_ready",
    }


def test_overload_is_a_denial():
    """An error would let a flood through where Envoy's failure mode is to allow."""
    answer = check_of().overloaded()
    assert problem_of(answer)["reason"] == "overloaded"
    headers = {o.header.key: o.header.value for o in response_of(answer).denied_response.headers}
    assert headers["retry-after"] == "1"


# --- 7: merged headers


def test_two_authorization_headers_are_refused():
    for is_raw in (False, True):
        lines = [("authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer x")]
        answer = answered(check_request("/orders", headers=lines, is_raw=is_raw))
        assert problem_of(answer)["reason"] == "multiple_credentials"


header_names = st.sampled_from(["x-a", "cookie", "authorization", "accept"])
header_values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=5)


@given(st.lists(st.tuples(header_names, header_values), max_size=8))
def test_raw_and_merged_headers_are_one_request(lines):
    """`encode_raw_headers` changes nothing but that lines can be counted, nor does letter case."""
    titled = [(name.title(), value) for name, value in lines]
    merged = decode(check_request("/a", headers=titled))
    raw = decode(check_request("/a", headers=titled, is_raw=True))
    assert raw.headers == merged.headers
    assert (raw.method, raw.host, raw.target) == (merged.method, merged.host, merged.target)
    assert not any(name.startswith(":") or name != name.lower() for name in raw.headers)
    assert raw.header_count >= len(lines)


def test_repeated_raw_headers_count_against_the_limit():
    """Merged into one they would be passed over, and Envoy would answer an empty 500."""
    lines = [("x-a", "1")] * 81
    answer = answered(check_request("/open", headers=lines, is_raw=True))
    assert problem_of(answer)["reason"] == "too_many_headers"


# --- 12: identity that no header can carry


@pytest.mark.parametrize("subject", ["rita\0", "ri\nta", "\x7f", "ri\rta", "\u2028"])
def test_a_subject_that_no_header_can_carry_is_refused(subject):
    token = EC.token(claims(sub=subject))
    answer = answered(check_request("/orders", headers={"authorization": f"Bearer {token}"}))
    assert problem_of(answer)["reason"] == "invalid_subject"


def test_a_subject_outside_ascii_is_sent_as_utf8():
    token = EC.token(claims(sub="zoë"))
    answer = answered(check_request("/orders", headers={"authorization": f"Bearer {token}"}))
    values = {o.header.key: o.header.value for o in response_of(answer).ok_response.headers}
    assert values["x-auth-subject"] == "zoë"


# --- the answer's form


def test_a_denial_is_problem_json_with_one_challenge_line():
    """RFC 9457; one WWW-Authenticate line, because Envoy drops headers appended to a denial."""
    response = response_of(answered(check_request("/orders")))
    denied = response.denied_response
    headers = [(option.header.key, option.header.value) for option in denied.headers]
    assert headers == [
        ("content-type", "application/problem+json"),
        ("cache-control", "no-store"),
        ("www-authenticate", 'Bearer realm="meshwarden", ApiKey realm="meshwarden"'),
    ]
    assert (denied.status.code, response.status.code) == (401, 16)
    assert json.loads(denied.body) == {
        "type": "about:blank",
        "title": "Unauthorized",
        "status": 401,
        "detail": "no credential was sent",
        "reason": "missing_credential",
    }


def test_metadata_says_who_and_why_on_both_verdicts():
    """Later filters and the access log read it: subject, policy, rule, reason."""
    allowed = answered(check_request("/orders", headers={"authorization": f"Bearer {TOKEN}"}))
    denied = answered(check_request("/nowhere", headers={"authorization": f"Bearer {TOKEN}"}))
    common = {"principal": "jwt:rita", "subject": "rita", "policy": "orders"}
    assert metadata(allowed) == {**common, "rule": "closed", "reason": "allowed"}
    assert metadata(denied) == {**common, "reason": "no_rule_allows"}
    anonymous = {"principal": "anonymous", "policy": "orders", "rule": "open", "reason": "allowed"}
    assert metadata(answered(check_request("/open"))) == anonymous


def metadata(answer: bytes) -> dict[str, str]:
    fields = response_of(answer).dynamic_metadata.fields
    return {name: value.string_value for name, value in fields.items()}


def test_the_callers_trace_is_found_in_the_request():
    message = check_request("/", headers={"traceparent": "00-1-2-01"})
    assert envoy_check.trace_headers(message)["traceparent"] == "00-1-2-01"
    assert envoy_check.trace_headers(check_request(None)) == {}


def test_failed_conditions_are_counted_by_policy_and_rule():
    rule = {"name": "failing", "callers": "anyone", "when": 'request.headers["x"] == "y"'}
    asked, metrics = Authorizer(access_policy(rule, identify=[])), Metrics()
    check = Check(asked.keys, nothing_new, metrics=metrics, clock=lambda: NOW)
    check.policies = asked.policies
    answered(check_request(), check)
    text = metrics.exposition().decode()
    assert 'ext_authz_failed_conditions_total{policy="orders",rule="failing"} 1.0' in text
    assert 'ext_authz_verdicts_total{reason="no_rule_allows",verdict="denied"} 1.0' in text


# --- waiting for keys

FETCHED = {"jwks": {"url": "https://issuer.example.com/jwks.json"}}
REQUEST = check_request("/orders", headers={"authorization": f"Bearer {TOKEN}"})


def fetched_keys() -> tuple[Authorizer, Authorizer]:
    """An authorizer that has no keys yet, and one with the keys that a fetch would bring."""
    return Authorizer(token_issuer(**FETCHED), access_policy({"name": "any"})), ASKED


async def test_an_unknown_key_is_decided_again_after_a_fetch_that_brought_keys():
    asked, ready = fetched_keys()
    lookups = []

    async def ask(lookup: object) -> None:
        lookups.append(lookup)
        asked.keys.issuer_keys = ready.keys.issuer_keys

    answer = check_of(asked, ask).handle(REQUEST, ())
    assert inspect.isawaitable(answer)
    assert response_of(await answer).WhichOneof("http_response") == "ok_response"
    assert lookups == [IssuerKeysLookup("main")]


async def test_an_unknown_key_is_denied_where_a_fetch_brings_nothing():
    asked, _ = fetched_keys()
    answer = check_of(asked).handle(REQUEST, ())
    assert problem_of(await answer)["reason"] == "unknown_key"


async def test_a_slow_issuer_is_not_waited_for_beyond_envoys_patience():
    """Else Envoy's 200 ms end first: an error, which its failure mode may allow."""
    asked, _ = fetched_keys()
    began = asyncio.get_running_loop().time()

    async def ask(_lookup: object) -> None:
        await asyncio.Event().wait()

    problem = problem_of(await check_of(asked, ask).handle(REQUEST, ()))
    assert (problem["reason"], problem["status"]) == ("issuer_unavailable", 503)
    assert asyncio.get_running_loop().time() - began < 2


async def unavailable(_lookup: object) -> None:
    raise Unavailable("nobody answers")


async def test_a_fault_of_ours_is_a_grpc_error_where_the_policy_says_so():
    asked = Authorizer(token_issuer(**FETCHED), access_policy({"name": "any"}, identify=FAULT))
    with pytest.raises(Unavailable, match="issuer_unavailable: the token's issuer does not give"):
        await check_of(asked, unavailable).handle(REQUEST, ())


async def test_a_fault_of_ours_is_an_error_response_by_a_setting_and_never_with_ok():
    asked = Authorizer(token_issuer(**FETCHED), access_policy({"name": "any"}, identify=FAULT))
    check = Check(asked.keys, unavailable, metrics=Metrics(), answers_faults=True)
    check.policies = asked.policies
    response = response_of(await check.handle(REQUEST, ()))
    assert response.WhichOneof("http_response") == "error_response"
    assert response.status.code != 0
    assert response.error_response.status.code == 503
    assert json.loads(response.error_response.body)["reason"] == "issuer_unavailable"


FAULT = [{"jwt": {"issuers": ["main"]}, "onUnavailable": "fault"}]
