"""Values of variables, as Go's strconv, time and envconfig take them."""

from __future__ import annotations

import pytest

from ratelimit_service.adapters.go_values import Kind, Value, parse


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("flag", "1", True),
        ("flag", "T", True),
        ("flag", "False", False),
        ("integer", "010", 8),
        ("integer", "0x10", 16),
        ("integer", "0o17", 15),
        ("integer", "1_000", 1000),
        ("integer", "-5", -5),
        ("integer", "0", 0),
        ("number", "1e3", 1000.0),
        ("number", ".5", 0.5),
        ("duration", "1m30s", 90.0),
        ("duration", "1.5h", 5400.0),
        ("duration", "-2s", -2.0),
        ("duration", "150\u00b5s", 0.00015),
        ("duration", "0", 0.0),
        ("list", "a, b", "a, b"),
        ("map", "a:b,c:", "a:b,c:"),
        ("map", " ", " "),
        ("text", " x ", " x "),
    ],
)
def test_what_go_takes_is_taken(kind: Kind, text: str, value: Value):
    found = parse(kind, text)
    assert type(found) is type(value)
    assert found == (pytest.approx(value) if kind == "duration" else value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("flag", "yes"),
        ("flag", "tRUE"),
        ("flag", " true"),
        ("integer", "08"),
        ("integer", "1.0"),
        ("integer", "\u0665"),
        ("integer", "1__0"),
        ("number", "0,8"),
        ("number", "nan"),
        ("duration", "5"),
        ("duration", "5 s"),
        ("duration", "1d"),
        ("duration", ""),
        ("map", "a"),
        ("map", "a:b:c"),
        ("map", "a:b,"),
    ],
)
def test_what_go_refuses_is_refused(kind: Kind, text: str):
    with pytest.raises(ValueError, match="must be"):
        parse(kind, text)
