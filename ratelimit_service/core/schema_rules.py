"""What limits must be, as a cluster's API server can check it.

Rules in CEL are out of its cost budget here: five levels of lists multiply. What plain schemas can
say of one limit is said; its messages are the API server's. The rest (duplicates, `replaces`,
`share_threshold`) is left to `tree`: the object is stored and refused, with its status.
"""

from __future__ import annotations

from meshwarden.core.schema_additions import Additions
from ratelimit_service.core.resource import (
    DescriptorRule,
    RateLimit,
    RateLimitSpecification,
    Replaces,
)
from ratelimit_service.core.window import Unit

_UNITS = "|".join(unit.name.lower() for unit in Unit if unit is not Unit.UNKNOWN)
_HAS_UNIT = {"properties": {"unit": {"pattern": f"^(?i:{_UNITS})$"}}, "required": ["unit"]}
_IS_UNLIMITED = {"properties": {"unlimited": {"enum": [True]}}, "required": ["unlimited"]}
_NOT_EMPTY = {"minLength": 1}

ADDITIONS: Additions = {
    RateLimit: {"anyOf": [_HAS_UNIT, _IS_UNLIMITED], "not": {"allOf": [_HAS_UNIT, _IS_UNLIMITED]}},
    Replaces: {"properties": {"name": _NOT_EMPTY}},
    DescriptorRule: {"properties": {"key": _NOT_EMPTY}},
    RateLimitSpecification: {"properties": {"domain": _NOT_EMPTY}},
}
