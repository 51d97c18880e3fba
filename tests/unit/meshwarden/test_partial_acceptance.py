"""What of a set of objects is taken when some have faults: laws, over a compiler of objects that
may be faulty and may need others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwarden.core.claims import Claim
from meshwarden.core.faults import InvalidInput, Problem
from meshwarden.core.object_verdicts import ACCEPTED, CONFLICT, NOT_YOURS, REFUSED
from meshwarden.core.offered_objects import (
    ObjectRules,
    OfferedObject,
    object_bundle,
    offered_object,
)
from meshwarden.core.ownership import OWNERSHIP
from meshwarden.core.partial_acceptance import PartialAcceptance
from meshwarden.core.snapshot import Bundle

PLATFORM = "system"
SPACES = (PLATFORM, "a", "b")
Taken = dict[str, Any]
"""Each file that was taken, with its spec."""


def compile_toys(bundle: Bundle) -> Taken:
    """A toy is faulty by itself, or needs one of its own namespace or the platform's that is not
    there. Raises `InvalidInput` with every problem.
    """
    specs = {name: json.loads(content) for name, content in bundle.files.items() if name[0] != "@"}
    there = {
        (value["metadata"].get("namespace", ""), value["metadata"]["name"])
        for value in specs.values()
    }
    problems = []
    for file, value in specs.items():
        space = value["metadata"].get("namespace", "")
        if value["spec"].get("is_faulty"):
            problems.append(Problem(file, 2, "is faulty"))
        for needed in value["spec"].get("needs", ()):
            if not {(space, needed), ("", needed)} & there:
                problems.append(Problem(file, 0, f"there is no '{needed}'"))
    if bundle.files.get("@keys") == b"bad":
        problems.append(Problem("keys", 0, "is bad"))
    if problems:
        raise InvalidInput(problems)
    return {file: value["spec"] for file, value in specs.items()}


def toy_claims(_kind: str, _namespace: str, spec: Any) -> list[Claim]:
    return [Claim("host", host, "spec.hosts") for host in spec.get("hosts", ())]


def toy_closed(_kind: str, _namespace: str, spec: Any) -> Any:
    return {"hosts": spec["hosts"], "is_closed": True} if "hosts" in spec else None


RULES = ObjectRules(("Toy",), toy_claims, closed=toy_closed)


def toy(space: str, name: str, spec: Any, *, created: str = "2026-01-01T00:00:00Z") -> Any:
    metadata = {
        "name": name,
        "namespace": space,
        "uid": f"{space}-{name}",
        "generation": 1,
        "creationTimestamp": created,
        "managedFields": [],
    }
    return {"apiVersion": "meshwarden.io/v1alpha1", "kind": "Toy", "metadata": metadata} | {
        "spec": spec,
        "status": {},
    }


def offered(*toys: Any) -> list[OfferedObject]:
    return [offered_object("Toy", one, rules=RULES, shared_namespace=PLATFORM) for one in toys]


class Taking:
    """A `PartialAcceptance` and what it said last."""

    def __init__(self) -> None:
        self.acceptance = PartialAcceptance(compile_toys, RULES, aliases={"keys": "@keys"})
        self.taken: Taken = {}

    def offer(
        self, *toys: Any, further: Mapping[str, bytes] | None = None, required: Any = None
    ) -> Taken:
        bundle = object_bundle(offered(*toys), further or {}, required or {})
        self.taken = self.acceptance.compiled(bundle)
        return self.taken

    def reason(self, space: str, name: str) -> str:
        found = [v for v in self.acceptance.verdicts if v.object.file == f"Toy/{space}/{name}.yaml"]
        return found[0].reason

    def told(self, space: str, name: str) -> str:
        found = [v for v in self.acceptance.verdicts if v.object.file == f"Toy/{space}/{name}.yaml"]
        return "; ".join(map(str, found[0].problems))


GOOD, FAULTY = {"is_faulty": False}, {"is_faulty": True}


def test_a_faulty_change_leaves_what_was_taken_and_takes_the_others():
    taking = Taking()
    taking.offer(toy("a", "x", GOOD), toy("b", "y", GOOD))
    changed = {"needs": []}
    taken = taking.offer(toy("a", "x", FAULTY), toy("b", "y", changed))
    assert taken == {"Toy/a/x.yaml": GOOD, "Toy/b/y.yaml": changed}
    assert taking.reason("a", "x") == REFUSED
    assert taking.reason("b", "y") == ACCEPTED


def test_a_faulty_new_one_is_left_out_or_closed():
    taking = Taking()
    taken = taking.offer(toy("a", "x", FAULTY), toy("a", "y", FAULTY | {"hosts": ["h.io"]}))
    assert taken == {"Toy/a/y.yaml": {"hosts": ["h.io"], "is_closed": True}}


def test_what_others_need_serves_on_after_its_deletion_until_they_let_go():
    taking = Taking()
    needing = toy("a", "y", {"needs": ["x"]})
    also = toy("a", "z", {"needs": ["x"]})
    taking.offer(toy("a", "x", GOOD), needing, also, toy("a", "w", GOOD))
    taken = taking.offer(needing, also)
    assert set(taken) == {"Toy/a/x.yaml", "Toy/a/y.yaml", "Toy/a/z.yaml"}
    assert taking.reason("a", "y") == REFUSED
    assert "Toy a/x was deleted; it serves on" in taking.told("a", "y")
    taken = taking.offer(toy("a", "y", GOOD), toy("a", "z", GOOD))
    assert set(taken) == {"Toy/a/y.yaml", "Toy/a/z.yaml"}
    assert taking.reason("a", "y") == ACCEPTED


def test_a_change_that_would_leave_others_with_a_fault_is_put_back_with_a_word():
    """The compiler blames the one that did not change."""

    def compile_pairs(bundle: Bundle) -> Taken:
        specs = {name: json.loads(content) for name, content in bundle.files.items()}
        for file, value in specs.items():
            if value["spec"].get("wants") not in (None, specs["Toy/a/x.yaml"]["spec"].get("has")):
                raise InvalidInput([Problem(file, 0, "nothing has what is wanted")])
        return {file: value["spec"] for file, value in specs.items()}

    taking = Taking()
    taking.acceptance = PartialAcceptance(compile_pairs, RULES)
    wanting = toy("a", "y", {"wants": 1})
    taking.offer(toy("a", "x", {"has": 1}), wanting)
    taken = taking.offer(toy("a", "x", {"has": 2}), wanting)
    assert taken["Toy/a/x.yaml"] == {"has": 1}
    assert "it would leave Toy a/y with a fault" in taking.told("a", "x")


def test_what_is_put_back_has_its_claims_as_before():
    """A tenant can't take a host between the deletion and its being put back."""
    taking = Taking()
    held, needing = toy(PLATFORM, "z", {"hosts": ["h.io"]}), toy(PLATFORM, "y", {"needs": ["z"]})
    taking.offer(held, needing, toy(PLATFORM, "x", {"needs": ["y"]}))
    taken = taking.offer(toy(PLATFORM, "x", FAULTY), toy("a", "x", {"hosts": ["h.io"]}))
    assert {file.split("/")[2] for file in taken} == {"x.yaml", "y.yaml", "z.yaml"}
    assert taking.reason("a", "x") == CONFLICT


def test_a_long_chain_holds_up_nobody_else():
    """Each round finds one more that is dangling; then whole namespaces go at once."""
    taking = Taking()
    chain = [toy("a", f"x{i:02}", {"needs": [f"x{i + 1:02}"]}) for i in range(40)]
    taken = taking.offer(*chain, toy("b", "y", GOOD))
    assert taken == {"Toy/b/y.yaml": GOOD}
    assert taking.acceptance.rounds < 10


def test_an_older_claim_holds_and_the_platforms_before_all():
    taking = Taking()
    host = {"hosts": ["h.io"]}
    first, second = (
        toy("b", "first", host),
        toy("a", "second", host, created="2026-01-02T00:00:00Z"),
    )
    assert set(taking.offer(second, first)) == {"Toy/b/first.yaml"}
    assert taking.reason("a", "second") == CONFLICT
    assert "another namespace" in taking.told("a", "second")
    assert "first" not in taking.told("a", "second")
    platforms = toy(PLATFORM, "last", host, created="2026-01-03T00:00:00Z")
    assert set(taking.offer(second, first, platforms)) == {f"Toy/{PLATFORM}/last.yaml"}
    assert f"Toy {PLATFORM}/last" in taking.told("b", "first")


def test_a_tenants_wildcard_and_anothers_name_below_it_are_claims_of_one_thing():
    below, wildcard = {"hosts": ["x.h.io"]}, {"hosts": ["*.h.io"]}
    later = "2026-01-02T00:00:00Z"
    for older, newer in ((below, wildcard), (wildcard, below)):
        taking = Taking()
        taken = taking.offer(toy("a", "o", older), toy("b", "n", newer, created=later))
        assert set(taken) == {"Toy/a/o.yaml"}
        assert taking.reason("b", "n") == CONFLICT
    assert len(Taking().offer(toy("a", "o", wildcard), toy("a", "n", below))) == 2
    assert len(Taking().offer(toy(PLATFORM, "o", wildcard), toy("a", "n", below))) == 2


def test_what_a_namespace_may_not_speak_for_is_not_taken_and_lost_when_taken_away():
    taking = Taking()
    ownership = {OWNERSHIP: b"hosts: {a: [h.io]}"}
    mine = toy("a", "x", {"hosts": ["h.io"]})
    assert taking.offer(mine, toy("b", "y", {"hosts": ["i.io"]}), further=ownership).keys() == {
        "Toy/a/x.yaml"
    }
    assert taking.reason("b", "y") == NOT_YOURS
    greedy = toy("a", "x", {"hosts": ["h.io", "i.io"]})
    taken = taking.offer(greedy, further=ownership)
    assert taken == {"Toy/a/x.yaml": {"hosts": ["h.io"]}}
    assert taking.reason("a", "x") == NOT_YOURS
    taken = taking.offer(mine, further={OWNERSHIP: b"hosts: {}"})
    assert taken == {}
    assert taking.offer(mine, further={OWNERSHIP: b"hosts: 7"}) == {}
    assert "hosts" in str(taking.acceptance.problems[0])


def test_a_named_file_that_is_faulty_or_gone_stays_as_it_was():
    taking = Taking()
    required = {"@keys": Problem("@keys", 0, "is missing")}
    with pytest.raises(InvalidInput, match="is missing"):
        taking.offer(toy("a", "x", GOOD), required=required)
    assert taking.reason("a", "x") == REFUSED
    with pytest.raises(InvalidInput, match="is bad"):
        taking.offer(further={"@keys": b"bad"}, required=required)
    taking.offer(further={"@keys": b"good"}, required=required)
    assert taking.offer(toy("a", "x", GOOD), further={"@keys": b"bad"}, required=required)
    assert "is bad" in str(taking.acceptance.problems)
    assert taking.offer(toy("a", "x", GOOD), required=required)
    assert "is missing" in str(taking.acceptance.problems)


def test_a_version_changes_when_an_object_is_made_anew_and_not_with_its_status():
    one = toy("a", "x", GOOD)
    version = object_bundle(offered(one), {}, {}).version
    touched = one | {"status": {"x": 1}}
    touched["metadata"] = one["metadata"] | {"resourceVersion": "7", "labels": {"a": "b"}}
    assert object_bundle(offered(touched), {}, {}).version == version
    again = toy("a", "x", GOOD, created="2026-02-01T00:00:00Z")
    assert object_bundle(offered(again), {}, {}).version != version


# --- laws

specs = st.fixed_dictionaries(
    {"is_faulty": st.sampled_from([False, False, False, True])},
    optional={
        "needs": st.lists(st.sampled_from("xyz"), max_size=2),
        "hosts": st.lists(st.sampled_from(["h.io", "*.h.io", "i.h.io"]), max_size=2),
    },
)
ages = st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"])
toys = st.builds(
    lambda space, name, spec, created: toy(space, name, spec, created=created),
    st.sampled_from(SPACES),
    st.sampled_from("xyz"),
    specs,
    ages,
)
offers = st.lists(
    st.lists(toys, max_size=6, unique_by=lambda one: one["metadata"]["uid"]),
    min_size=1,
    max_size=4,
)


@given(offers, st.randoms())
@settings(max_examples=20, deadline=None)
def test_laws_of_what_is_taken(sequence: list[list[Any]], random: Any) -> None:
    """What is taken compiles; without a fault, and apart from whoever has one, an object is taken
    as it is; what is not taken as it is has a reason; what was taken and did not change stays,
    unless another has what it claims; the order of arrival doesn't matter.
    """
    one, other = Taking(), Taking()
    before: Taken = {}
    for offer in sequence:
        taken = one.offer(*offer)
        assert other.offer(*random.sample(offer, len(offer))) == taken
        assert {v.object: v.reason for v in one.acceptance.verdicts} == {
            v.object: v.reason for v in other.acceptance.verdicts
        }
        verdicts = {v.object.file: v for v in one.acceptance.verdicts}
        now = {f"Toy/{t['metadata']['namespace']}/{t['metadata']['name']}.yaml": t for t in offer}
        assert verdicts.keys() == now.keys()
        has_claims = any(whole["spec"].get("hosts") for whole in now.values())
        for file, whole in now.items():
            if verdicts[file].reason == ACCEPTED:
                assert taken[file] == whole["spec"]
            elif before.get(file) == whole["spec"] and not has_claims:
                assert taken.get(file) == before[file]
            assert (verdicts[file].reason == ACCEPTED) == (not verdicts[file].problems)
        for space in ("a", "b"):
            if is_untouched(space, now, before):
                assert all(
                    verdicts[file].reason == ACCEPTED for file in now if f"/{space}/" in file
                )
        before = taken


def is_untouched(space: str, now: Mapping[str, Any], before: Taken) -> bool:
    """Whether what a namespace sees has no fault, claims nothing, and lost nothing."""
    seen = {file: one["spec"] for file, one in now.items() if is_seen(file, space)}
    return not any(
        spec["is_faulty"]
        or spec.get("hosts")
        or any(f"{file[:-6]}{name}.yaml" not in seen for name in spec.get("needs", ()))
        for file, spec in seen.items()
    ) and not any(is_seen(file, space) for file in before.keys() - now.keys())


def is_seen(file: str, space: str) -> bool:
    return file.split("/")[1] in (space, PLATFORM)
