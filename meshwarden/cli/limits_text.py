"""What `meshwarden limits explain` prints for people, from the plain values that it explains by."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from meshwarden.cli.output import print_line

NAMES_SHOWN = 3
LABEL_CHARACTERS_AT_MOST = 40

Row = tuple[str, str]


def print_explanation(result: dict[str, Any]) -> None:
    """The answer first, then each descriptor: its levels, its limit, its counter."""
    shadowed = " (over the limit, let through by the service-wide shadow mode)"
    shadowed = shadowed if result["is_shadowed"] else ""
    print_line(f"{result['answer']} in domain {result['domain']}{shadowed}")
    if "hint" in result:
        print_line(f"   the domain is not configured; {result['hint']}")
    for name, value in result["headers"].items():
        print_line(f"   sends {name}: {value}")
    for number, descriptor in enumerate(result["descriptors"], 1):
        entries = " ".join(f"{entry['key']}={entry['value']}" for entry in descriptor["entries"])
        print_line(f"{number}. {entries}")
        rows = list(_rows(descriptor))
        width = min(max(len(label) for label, _ in rows), LABEL_CHARACTERS_AT_MOST)
        for label, text in rows:
            print_line(f"   {label:<{width}}  {text}")


def _rows(descriptor: dict[str, Any]) -> Iterator[Row]:
    for level in descriptor["levels"]:
        yield level["entry"], _level(level)
    yield descriptor["outcome"].replace("_", " "), descriptor["why"]
    if "limit" in descriptor:
        yield "limit", _limit(descriptor["limit"])
    if "counter" in descriptor:
        yield from _counter(descriptor["counter"])
        for shared in descriptor["shared"]:
            told = f"entry {shared['entry'] + 1} counts as {shared['pattern']}, whatever its value"
            yield "shared", told
        yield "statistics", descriptor["statistics"]
    yield "answer", _answer(descriptor["answer"])


def _level(level: dict[str, Any]) -> str:
    """What is taken, what was tried before it, and what stands back because of it."""
    tried = level["tried"]
    place = next((number for number, way in enumerate(tried) if way["is_taken"]), len(tried))
    before, after = _names(tried[:place]), tried[place + 1 :]
    if place == len(tried):
        told = [f"nothing matches: {before}"]
    else:
        told = [f"{_names(tried[place : place + 1])} is taken"]
        told += [f"not there: {before}"] if before else []
    if beaten := [way for way in after if way["matches"]]:
        told.append(f"would match, too: {_names(beaten)}")
    if "passed_over" in level:
        told.append(f"limit passed over, as the descriptor goes on: {_limit(level['passed_over'])}")
    if "hint" in level:
        told.append(level["hint"])
    return "; ".join(told)


def _names(ways: list[dict[str, Any]]) -> str:
    told = ", ".join(f"{way['name']} ({way['by']})" for way in ways[:NAMES_SHOWN])
    more = len(ways) - NAMES_SHOWN
    return f"{told} and {more} more" if more > 0 else told


def _limit(limit: dict[str, Any]) -> str:
    number = (
        "unlimited" if limit["unlimited"] else f"{limit['requests_per_unit']} a {limit['unit']}"
    )
    told = [f"{limit['rule']}: {number}"]
    if limit["name"]:
        told.append(f"name {limit['name']}")
    if limit["replaces"]:
        told.append(f"replaces {' '.join(limit['replaces'])}")
    told += [flag for flag in ("shadow_mode", "quota_mode", "atomic") if limit[flag]]
    return ", ".join(told)


def _counter(counter: dict[str, Any]) -> Iterator[Row]:
    window = counter["window"]
    yield "hits", str(counter["hits"])
    for name, key in counter["keys"].items():
        mark = " (in use)" if key == counter["key"] else ""
        stands = f" stands at {counter['counts'][name]}" if "counts" in counter else ""
        yield f"{name} key", f"{key}{stands}{mark}"
    start, end = (
        f"{datetime.fromtimestamp(window[edge], UTC):%F %TZ}" for edge in ("start", "end")
    )
    left = window["seconds_until_reset"]
    yield "window", f"one {window['unit']}, {start} to {end}; begins anew in {left} s"


def _answer(answer: dict[str, Any]) -> str:
    if answer.get("unlimited"):
        return f"{answer['code']}, unlimited"
    if "rule" not in answer:
        return f"{answer['code']}, not limited"
    shadowed = ", over and let through by shadow_mode" if answer.get("is_shadowed") else ""
    return f"{answer['code']}, {answer['remaining']} of {answer['limit']} left{shadowed}"
