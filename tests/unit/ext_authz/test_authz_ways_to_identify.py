"""Several ways to identify in their order, and what each does where it fails."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from ext_authz.core.api_keys import KeyRecord, digest, make_key
from ext_authz.core.key_memory import UNKNOWN_AT_MOST, RememberedApiKeys
from ext_authz.core.lookups import FAILED, ApiKeyLookup, IssuerKeysLookup
from ext_authz.core.model import Reason
from ext_authz.core.revocations import Revocation, Revocations, parse_revocation_file
from meshwarden.core.faults import InvalidInput
from tests.support.check_requests import Authorizer, access_policy, configured, token_issuer
from tests.support.tokens import ISSUER, NOW, claims, ec_signer, ed_signer, jwks

EC, ED = ec_signer(), ed_signer()
PEPPER = b"0123456789abcdef0123456789abcdef"
KEY = make_key(bytes(32))
RECORD = KeyRecord(id="1", name="service", digest=digest(KEY, PEPPER))
BEARER = {"header": "authorization", "scheme": "Bearer"}
ANY = {"name": "any"}
KEYS_IN_BEARER = {"apiKey": {"sources": [BEARER]}}


@dataclass
class Asked:
    """An authorizer over two ways that read one credential: a token, else an API key."""

    first: dict[str, str]
    authorizer: Authorizer = field(init=False)

    def __post_init__(self) -> None:
        ways = [{"jwt": {"issuers": ["main"]}, **self.first}, KEYS_IN_BEARER]
        policy = access_policy(ANY, identify=ways)
        self.authorizer = Authorizer(token_issuer(jwks(EC)), policy)


def test_the_next_way_reads_what_the_first_skips():
    """Tokens and API keys in one header, told apart by their form."""
    asked = Asked({"onInvalid": "skip"}).authorizer
    memory = RememberedApiKeys(entries_at_most=10, serves_stale=False)
    memory.use_pepper(PEPPER)
    memory.remember(RECORD.digest, RECORD)
    memory.current_until = NOW
    asked.keys.api_keys = memory
    assert asked.ask(token=EC.token()).principal.name == "jwt:rita"
    assert asked.ask(token=KEY).principal.name == "key:service"
    assert asked.ask(token="nonsense").reason is Reason.INVALID_API_KEY
    expired = EC.token(claims(exp=NOW - 100))
    assert asked.ask(token=expired).reason is Reason.INVALID_API_KEY


def test_two_ways_for_one_credential_need_the_first_to_skip():
    ways = [{"jwt": {"issuers": ["main"]}}, KEYS_IN_BEARER]
    with pytest.raises(InvalidInput, match=r"read by two ways .*onInvalid: skip"):
        configured(token_issuer(jwks(EC)), access_policy(ANY, identify=ways))


def test_skipping_to_nobody_is_refused():
    ways = [{"jwt": {"issuers": ["main"]}, "onInvalid": "skip"}, {"apiKey": {}}]
    with pytest.raises(InvalidInput, match="nothing reads the header 'authorization' after this"):
        configured(token_issuer(jwks(EC)), access_policy(ANY, identify=ways))


@pytest.mark.parametrize(
    ("strategy", "reason", "status", "is_fault"),
    [
        ("deny", Reason.ISSUER_UNAVAILABLE, 503, False),
        ("fault", Reason.ISSUER_UNAVAILABLE, 503, True),
        ("skip", Reason.INVALID_API_KEY, 401, False),
    ],
)
def test_what_happens_when_an_issuer_never_gave_its_keys(strategy, reason, status, is_fault):
    first = {"onInvalid": "skip", "onUnavailable": strategy}
    ways = [{"jwt": {"issuers": ["main"]}, **first}, KEYS_IN_BEARER]
    source = token_issuer(jwks={"url": "https://issuer.example.com/jwks.json"})
    asked = Authorizer(source, access_policy(ANY, identify=ways))
    lookup = asked.ask(token=EC.token()).lookup
    assert lookup == IssuerKeysLookup("main")
    verdict = asked.ask(token=EC.token(), answers={lookup: FAILED})
    assert (verdict.reason, verdict.status, verdict.is_fault) == (reason, status, is_fault)
    assert verdict.challenges == () or status == 401


# --- keys that are looked up


def keys_only(**settings: bool) -> tuple[Authorizer, RememberedApiKeys]:
    asked = Authorizer(access_policy(ANY, identify=[{"apiKey": {}}]))
    memory = RememberedApiKeys(entries_at_most=2, serves_stale=settings.get("serves_stale", False))
    memory.use_pepper(PEPPER)
    asked.keys.api_keys = memory
    return asked, memory


def ask(asked: Authorizer, answers=()) -> object:
    return asked.ask(headers={"x-api-key": KEY}, answers=dict(answers))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (RECORD, Reason.ALLOWED),
        (RECORD.model_copy(update={"revoked_at": 1.0}), Reason.INVALID_API_KEY),
        (RECORD.model_copy(update={"expires_at": NOW}), Reason.INVALID_API_KEY),
        (None, Reason.INVALID_API_KEY),
        (FAILED, Reason.KEY_STORE_UNAVAILABLE),
    ],
)
def test_a_key_that_is_not_known_is_asked_for_and_judged_by_the_answer(answer, reason):
    asked, _ = keys_only()
    lookup = ask(asked).lookup
    assert lookup == ApiKeyLookup(RECORD.digest)
    verdict = ask(asked, {lookup: answer})
    assert (verdict.reason, verdict.lookup) == (reason, None)


def test_a_key_without_its_form_is_never_asked_for():
    asked, _ = keys_only()
    verdict = asked.ask(headers={"x-api-key": KEY[:-1] + "?"})
    assert (verdict.reason, verdict.lookup) == (Reason.INVALID_API_KEY, None)


def test_past_the_time_until_which_changes_were_heard_a_known_key_is_asked_for_again():
    """Unless the setting is to serve it however old."""
    for serves_stale in (False, True):
        asked, memory = keys_only(serves_stale=serves_stale)
        memory.remember(RECORD.digest, RECORD)
        memory.current_until = NOW
        assert ask(asked).is_allowed
        asked.now = NOW + 0.001
        assert ask(asked).is_allowed is serves_stale


def test_a_flood_of_unknown_keys_forgets_no_known_one_and_is_bounded():
    _, memory = keys_only()
    memory.current_until = NOW
    memory.remember(RECORD.digest, RECORD)
    for number in range(UNKNOWN_AT_MOST + 5):
        memory.remember(f"{number:064x}", None)
    assert memory.find(KEY, NOW) == RECORD
    assert len(memory) == 1


def test_the_least_recently_used_record_goes_first_and_another_pepper_forgets_all():
    _, memory = keys_only()
    memory.current_until = NOW
    other = RECORD.model_copy(update={"digest": "a" * 64})
    memory.remember(RECORD.digest, RECORD)
    memory.remember("a" * 64, other)
    assert memory.find(KEY, NOW) == RECORD
    memory.remember("b" * 64, other)
    assert memory.find(KEY, NOW) == RECORD
    memory.use_pepper(PEPPER)
    assert len(memory) == 2
    memory.use_pepper(PEPPER[::-1])
    assert len(memory) == 0


# --- revocations


def revoked(**changes: object) -> Revocation:
    return Revocation.model_validate({"id": "a", "issuer": ISSUER, "expires_at": NOW, **changes})


@pytest.mark.parametrize(
    ("record", "claimed", "is_revoked"),
    [
        (revoked(jti="x"), {"jti": "x"}, True),
        (revoked(jti="x"), {"jti": "y"}, False),
        (revoked(jti="x"), {}, False),
        (revoked(jti="x"), {"jti": ["x"]}, False),
        (revoked(jti="x", issuer="other"), {"jti": "x"}, False),
        (revoked(subject="rita", issued_before=NOW), {"iat": NOW - 1}, True),
        (revoked(subject="rita", issued_before=NOW), {"iat": NOW}, False),
        (revoked(subject="rita", issued_before=NOW), {"iat": None}, True),
        (revoked(subject="otto", issued_before=NOW), {"iat": NOW - 1}, False),
        (revoked(issued_before=NOW), {"iat": NOW - 1}, True),
        (revoked(issued_before=NOW), {"iat": NOW}, False),
    ],
)
def test_a_revocation_covers_the_tokens_that_it_names(record, claimed, is_revoked):
    """Also those that are remembered as verified."""
    asked = Authorizer(token_issuer(jwks(EC)), access_policy(ANY))
    token = EC.token(claims(**{"iat": NOW - 1, **claimed}))
    assert asked.ask(token=token).is_allowed
    asked.keys.revocations = Revocations([record])
    reason = Reason.REVOKED if is_revoked else Reason.ALLOWED
    assert asked.ask(token=token).reason is reason


def test_the_latest_of_several_revocations_of_a_subject_counts():
    records = [revoked(subject="rita", issued_before=at) for at in (5.0, 9.0, 7.0)]
    assert Revocations(records).revoke(ISSUER, {"sub": "rita", "iat": 8})
    assert not Revocations(records).revoke(ISSUER, {"sub": "rita", "iat": 9})


def test_a_file_of_revocations_that_is_none_is_told():
    for content in (b"{}", b'{"revocations": []}'):
        assert len(parse_revocation_file("r.json", content)) == 0
    with pytest.raises(InvalidInput, match=r"r\.json: revocations\.0"):
        parse_revocation_file("r.json", b'{"revocations": [{"id": "a", "issuer": "i"}]}')
