"""Fields that Envoy 1.40 knows and envoy-data-plane does not yet, added to the rendered document.

The only place where a field is a string; each with its source. It empties as the package
catches up.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

NEWER_FIELDS = {("RateLimit", "enable_retry_after_header")}
"""Message and field, for who checks what others wrote."""

RATELIMIT_TYPE = "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit"


def add_newer_fields(document: dict[str, Any]) -> None:
    """Complete `document` in place."""
    for config in _typed_configs(document, RATELIMIT_TYPE):
        # envoyproxy/envoy `rate_limit.proto`: `Retry-After` from the descriptor's time to reset.
        config["enable_retry_after_header"] = True


def _typed_configs(value: Any, type_url: str) -> Iterator[dict[str, Any]]:
    """Every mapping anywhere in `value` whose `@type` is `type_url`."""
    if isinstance(value, dict):
        if value.get("@type") == type_url:
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for child in value:
            yield from _typed_configs(child, type_url)
