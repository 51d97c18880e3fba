"""`/json` takes and refuses the same bodies, and answers every method that a client would send."""

from __future__ import annotations

import pytest

from tests.support.documented_differences import shown
from tests.support.side_by_side import Pair

ONE = '"descriptors": [{"entries": [{"key": "unknown"}]}]'


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        "\ufeff{}",
        "// comment\n{}",
        '{"domain": "d"}',
        '{"domain": "d", "domain": "e"}',
        '{"domain": 5}',
        '{"domain": "d", "descriptors": null}',
        '{"domain": "d", "descriptors": [{}]}',
        '{"domain": "d", "descriptors": [{"entries": [{}]}]}',
        '{"domain": "d", "descriptors": [{"entries": [{"key": "a\\ud800"}]}]}',
        '{"domain": "d", "descriptors": [{"entries": [{"key": NaN}]}]}',
        '{"domain": "d", "descriptors": [{"entries": [{"key": "a",}]}]}',
        f'{{"domain": "d", {ONE}}}',
        f'{{"domain": "d", {ONE}}} more',
        f'{{"domain": "d", {ONE}, "unknown": 1}}',
        f'{{"domain": "d", {ONE}, "hitsAddend": 1}}',
        f'{{"domain": "d", {ONE}, "hits_addend": 1}}',
        f'{{"domain": "d", {ONE}, "hitsAddend": "1"}}',
        f'{{"domain": "d", {ONE}, "hitsAddend": 1.0}}',
        f'{{"domain": "d", {ONE}, "hitsAddend": 1.5}}',
        f'{{"domain": "d", {ONE}, "hitsAddend": -1}}',
        f'{{"domain": "d", {ONE}, "hitsAddend": 4294967296}}',
        f'{{"domain": "d", {ONE}, "hitsAddend": null}}',
        '{"domain": "d", "descriptors": [{"limit": {"unit": "WEEK", "requestsPerUnit": 1}}]}',
        '{"domain": "other", "descriptors": [{"limit": {"unit": 2, "requestsPerUnit": 1}}]}',
        '{"domain": "d", "descriptors": [{"hitsAddend": "3"}]}',
        '{"domain": "d", "descriptors": [{"hitsAddend": {"value": 3}}]}',
    ],
)
def test_a_body_is_taken_by_both_or_refused_by_both(pair: Pair, body: str):
    assert shown(pair.ours.post(body)) == shown(pair.theirs.post(body))


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_every_method_asks(pair: Pair, method: str):
    answers = [
        side.http.request(method, "/json", content=f'{{"domain": "d", {ONE}}}')
        for side in (pair.theirs, pair.ours)
    ]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert method == "HEAD" or answers[0].json() == answers[1].json()
