"""A configuration is taken whole or refused whole, and the last good one stays."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshwarden.core.faults import InvalidInput, Problem
from meshwarden.core.snapshot import Accepted, Bundle, Refused, SnapshotHolder, Unchanged

GONE = Problem("gone.yaml", 0, "can't be read")


def compile_numbers(bundle: Bundle) -> dict[str, int]:
    """The compiler of these tests: each file holds a number."""
    problems = [
        Problem(name, 1, "not a number")
        for name, content in bundle.files.items()
        if not content.isdigit()
    ]
    if problems:
        raise InvalidInput(problems)
    return {name: int(content) for name, content in bundle.files.items()}


def test_a_valid_bundle_is_taken_and_the_same_again_changes_nothing():
    holder = SnapshotHolder(compile_numbers)
    bundle = Bundle({"a": b"1"})
    assert holder.offer(bundle) == Accepted(bundle.version)
    first = holder.current
    assert holder.offer(Bundle({"a": b"1"})) == Unchanged(bundle.version)
    assert holder.current is first
    assert first == {"a": 1}


def test_a_refused_bundle_leaves_the_last_good_one_and_is_kept_to_be_shown():
    holder = SnapshotHolder(compile_numbers)
    good, bad = Bundle({"a": b"1", "b": b"2"}), Bundle({"a": b"3", "b": b"x"})
    holder.offer(good)
    refused = holder.offer(bad)
    assert refused == Refused(bad.version, (Problem("b", 1, "not a number"),))
    assert (holder.current, holder.version) == ({"a": 1, "b": 2}, good.version)
    assert holder.refusal == refused
    holder.offer(good)
    assert holder.refusal is None


def test_an_unreadable_file_refuses_the_bundle_though_the_rest_is_as_before():
    holder = SnapshotHolder(compile_numbers)
    holder.offer(Bundle({"a": b"1"}))
    assert isinstance(holder.offer(Bundle({"a": b"1"}, (GONE,))), Refused)
    assert holder.current == {"a": 1}


def test_a_refused_version_is_compiled_once_however_often_it_is_offered():
    """A folder is read every few seconds; what is refused may take seconds to refuse."""
    compiled: list[str] = []

    def counting(bundle: Bundle) -> dict[str, int]:
        compiled.append(bundle.version)
        return compile_numbers(bundle)

    holder = SnapshotHolder(counting)
    bad = Bundle({"a": b"x"})
    assert holder.offer(bad) == holder.offer(bad) == holder.refusal
    assert compiled == [bad.version]


def test_the_version_says_names_contents_and_what_could_not_be_read():
    bundles = [
        Bundle({}),
        Bundle({"a": b"1"}),
        Bundle({"a": b"", "1": b""}),
        Bundle({"a1": b""}),
        Bundle({"a": b"1"}, (GONE,)),
        Bundle({"\udcff.yaml": b"1"}),
    ]
    assert len({bundle.version for bundle in bundles}) == len(bundles)
    assert Bundle({"a": b"1", "b": b"2"}).version == Bundle({"b": b"2", "a": b"1"}).version


@given(
    st.lists(
        st.builds(
            Bundle,
            st.dictionaries(
                st.sampled_from("abc"), st.sampled_from([b"1", b"2", b"x"]), max_size=3
            ),
            st.sampled_from([(), (GONE,)]),
        )
    )
)
def test_after_any_offers_the_current_snapshot_is_the_last_valid_one(offers: list[Bundle]):
    """The law; and a refusal is shown exactly while the newest offer is one."""
    holder = SnapshotHolder(compile_numbers)
    expected: dict[str, int] | None = None
    for bundle in offers:
        is_valid = not bundle.unreadable and b"x" not in bundle.files.values()
        if is_valid:
            expected = compile_numbers(bundle)
        outcome = holder.offer(bundle)
        assert isinstance(outcome, Accepted | Unchanged) == is_valid
        assert holder.current == expected
        assert (holder.refusal is None) == is_valid
