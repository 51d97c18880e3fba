"""A file that one of the two refuses, the other refuses, with the same words for the first fault.

The reference is asked through its own config check; ours lists more than the first fault.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from meshwarden.core.faults import InvalidInput
from meshwarden.core.snapshot import Bundle
from ratelimit_service.core.compile import compile_limits, reference_message
from tests.support.random_limits import RandomLimits, random_seeds
from tests.support.reference_ratelimit import reference_refusal

MUTATIONS = 250

ODD_SCALARS = (
    *("''", "~", "5", "-1", "010", "0x1F", "1_000", "1.5", ".inf", "1e3", "y", "off", "TRUE"),
    *("2001-02-03", "12:30:00", "'7'", "4294967296", "18446744073709551616", "+5", "0o17", "Grüße"),
    *("[]", "[a]", "[[1, ~], {b: c}]", "{}", "{a: 1}", "{key: x}", "[{}]", "[{key: x}]", "a*", "*"),
)
ODD_KEYS = ("unit", "key", "value", "Key", "domain", "5", "true", "~", "limit")
REWORDED = (
    ("wildcard values (ending with '*')", "wildcard values (containing '*')"),
    ("yaml: invalid map key: ", "config error, key is not of type string: "),
    ("yaml: unknown anchor ", "error loading config file: yaml: "),
    ("cannot unmarshal !!timestamp", "cannot unmarshal !!str"),
)
"""Words of the reference's, and ours for the same fault (docs/explanation)."""


def test_a_random_mutation_is_refused_by_both_or_by_none(tmp_path: Path):
    file = tmp_path / "limits.yaml"
    refused = 0
    for seed in random_seeds("mutations", MUTATIONS):
        text = _mutated(RandomLimits(seed).file("d"), Random(seed))  # noqa: S311 - no secret
        file.write_text(text)
        _same_refusal(tmp_path, {file.name: text})
        refused += bool(_our_messages({file.name: text}))
    assert MUTATIONS / 4 < refused < MUTATIONS


@pytest.mark.parametrize("merges_domains", [False, True])
def test_several_files_are_refused_by_both_or_by_none(merges_domains: bool, tmp_path: Path):
    seeds = iter(random_seeds(f"files-{merges_domains}", 60))
    for _ in range(20):
        files = {}
        for name in ("a.yaml", "b.yaml", "c.yaml"):
            seed = next(seeds)
            files[name] = RandomLimits(seed).file("de"[seed % 2])
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        _same_refusal(tmp_path, files, merges_domains=merges_domains)


def _same_refusal(folder: Path, files: dict[str, str], *, merges_domains: bool = False) -> None:
    """What the reference says first is among what we say, in its words or in those of ours."""
    theirs = reference_refusal(folder, merges_domains=merges_domains)
    ours = _our_messages(files, merges_domains=merges_domains)
    if theirs is None or theirs in ours:
        assert (theirs is None) == (not ours), f"theirs: {theirs}, ours: {ours}, {files}"
        return
    said = "\n".join(ours)
    reworded = [mine for other, mine in REWORDED if other in theirs and mine in said]
    several = theirs.partition("unmarshal errors:\n")[2].splitlines()
    assert reworded or (several and all(line in said for line in several)), (theirs, ours, files)


def _mutated(text: str, random: Random) -> str:
    """`text` with one line, key or value changed."""
    lines = text.splitlines()
    # The first line stays: indented, it is a document of its own to the reference (see
    # test_differences), which reads no further.
    number = random.randrange(1, len(lines))
    line = lines[number]
    stem, colon, _value = line.partition(":")
    key = stem.split()[-1] if stem.split() else ""
    change = random.randrange(7)
    if change == 0:
        del lines[number]
    elif change == 1:
        lines.insert(number, line)
    elif change == 2:
        lines[number] = " " * random.choice((1, 2, 3)) + line
    elif change == 3 and key:
        lines[number] = line.replace(key, random.choice(ODD_KEYS), 1)
    elif change == 4 and line:
        place = random.randrange(len(line))
        lines[number] = line[:place] + random.choice("-:#'\"[{&*!%@`\t|>? ,}]") + line[place + 1 :]
    elif colon:
        lines[number] = f"{stem}: {random.choice(ODD_SCALARS)}"
    return "\n".join(lines) + "\n"


def _our_messages(files: dict[str, str], *, merges_domains: bool = False) -> list[str]:
    bundle = Bundle({name: text.encode() for name, text in files.items()})
    try:
        compile_limits(bundle, merges_domains=merges_domains)
    except InvalidInput as error:
        return [reference_message(problem) for problem in error.problems]
    return []
