"""Kind `RateLimit`: the envoyproxy/ratelimit grammar under `spec`, every field in its place.

The shape alone, published as JSON Schema so that editors complete it. What the values must be to
each other is judged by `tree`, in the same words as for a plain file.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_STRICT = ConfigDict(
    extra="forbid",
    strict=True,
    frozen=True,
    use_attribute_docstrings=True,
    defer_build=True,  # plain files are read without
)
_UNITS = ["second", "minute", "hour", "day", "week", "month", "year"]

RequestsPerUnit = Annotated[int, Field(ge=0, le=2**32 - 1)]


class Replaces(BaseModel):
    model_config = _STRICT

    name: str
    """The `name` of a limit that doesn't count when this one applies to the same request."""


class RateLimit(BaseModel):
    model_config = _STRICT

    unit: Annotated[str, Field(json_schema_extra={"examples": _UNITS})] = ""
    """second, minute, hour, day, week, month or year, in any case; left out when unlimited."""
    requests_per_unit: RequestsPerUnit = 0
    """Requests in one window; 0 refuses all."""
    unlimited: bool = False
    """Never over the limit, and not counted."""
    name: str = ""
    """Shown in the answer, and the target of `replaces`."""
    replaces: list[Replaces] | None = None
    atomic: bool = False
    """A request that this limit applies to counts at all its limits or, where it is denied, at
    none."""


class DescriptorRule(BaseModel):
    model_config = _STRICT

    key: str
    value: str = ""
    """`*` stands for any characters; left out, every value has a counter of its own."""
    rate_limit: RateLimit | None = None
    shadow_mode: bool = False
    """Count, but never answer over the limit."""
    quota_mode: bool = False
    """Over the limit only when every quota of the request is."""
    detailed_metric: bool = False
    value_to_metric: bool = False
    share_threshold: bool = False
    """All values that the wildcard matches share one counter."""
    metadata: dict[str, Any] | None = None
    """Handed to Envoy as dynamic metadata while the limit is not over."""
    descriptors: list[DescriptorRule] | None = None


class RateLimitSpecification(BaseModel):
    model_config = _STRICT

    domain: str
    """The rate limit filter's `domain`."""
    descriptors: list[DescriptorRule] | None = None


class ResourceMetadata(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, frozen=True, defer_build=True)

    name: str = Field(min_length=1)


class RateLimitResource(BaseModel):
    """A document of kind RateLimit."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)

    api_version: Literal["meshwarden.io/v1alpha1"] = Field(alias="apiVersion")
    kind: Literal["RateLimit"]
    metadata: ResourceMetadata
    spec: RateLimitSpecification
