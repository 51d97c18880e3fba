"""Limits from a configuration stream: `RateLimitConfig` resources, as Envoy Gateway sends them.

    resources -> bundle_of -> Bundle -> compile_discovered -> Rules

A resource says what a file says (it has no `value_to_metric` and no `share_threshold`) and is
judged by the same code in the same words; where a file's name stands, its `name` does. Source:
`api/ratelimit/config/ratelimit/v3/rls_conf.proto` of envoyproxy/ratelimit; its descriptors are in
no package, so they are made here, for our own pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, json_format
from google.protobuf.message import DecodeError

from meshwarden.adapters.protobuf import message_class, pool
from meshwarden.core.faults import InvalidInput, Problem
from meshwarden.core.snapshot import Bundle
from ratelimit_service.core.compile import rules_from
from ratelimit_service.core.grammar import DescriptorSpec, DomainSpec, RateLimitSpec
from ratelimit_service.core.model import Options, Rules

PACKAGE = "ratelimit.config.ratelimit.v3"
MESSAGE = f"{PACKAGE}.RateLimitConfig"
TYPE_URL = f"type.googleapis.com/{MESSAGE}"

_NOT_WIRE_FORMAT = "cannot parse invalid wire-format data"
_FLAGS = ("shadow_mode", "quota_mode", "detailed_metric")
_UNITS = ("UNKNOWN", "SECOND", "MINUTE", "HOUR", "DAY", "MONTH", "YEAR", "WEEK")
_FIELDS = {
    "RateLimitConfig": ("name string", "domain string", "descriptors RateLimitDescriptor*"),
    "RateLimitDescriptor": (
        "key string",
        "value string",
        "rate_limit RateLimitPolicy",
        "descriptors RateLimitDescriptor*",
        "shadow_mode bool",
        "detailed_metric bool",
        "quota_mode bool",
        "metadata google.protobuf.Struct",
    ),
    "RateLimitPolicy": (
        "unit RateLimitUnit",
        "requests_per_unit uint32",
        "unlimited bool",
        "name string",
        "replaces RateLimitReplace*",
    ),
    "RateLimitReplace": ("name string",),
}
"""Name and type of each message's fields in the order of their numbers, from 1; `*`: repeated."""

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "string": _Field.TYPE_STRING,
    "bool": _Field.TYPE_BOOL,
    "uint32": _Field.TYPE_UINT32,
}


@cache
def rate_limit_config() -> Any:
    """The class of `RateLimitConfig`."""
    file = descriptor_pb2.FileDescriptorProto(
        name="ratelimit/config/ratelimit/v3/rls_conf.proto",
        package=PACKAGE,
        syntax="proto3",
        dependency=["google/protobuf/struct.proto"],
    )
    units = file.enum_type.add(name="RateLimitUnit")
    for number, unit in enumerate(_UNITS):
        units.value.add(name=unit, number=number)
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for number, field in enumerate(fields, start=1):
            _add_field(message, field, number=number)
    pool().Add(file)
    return message_class(MESSAGE)


def _add_field(message: Any, field: str, *, number: int) -> None:
    name, _, kind = field.partition(" ")
    is_repeated = kind.endswith("*")
    kind = kind.removesuffix("*")
    added = message.field.add(
        name=name,
        number=number,
        label=_Field.LABEL_REPEATED if is_repeated else _Field.LABEL_OPTIONAL,
    )
    if kind in _SCALARS:
        added.type = _SCALARS[kind]
        return
    added.type = _Field.TYPE_ENUM if kind == "RateLimitUnit" else _Field.TYPE_MESSAGE
    added.type_name = f".{kind}" if "." in kind else f".{PACKAGE}.{kind}"


def bundle_of(resources: Sequence[Any]) -> Bundle:
    """The resources of a response (`google.protobuf.Any`) as a bundle; what is no `RateLimitConfig`
    is listed as unreadable, in the words of Go's protobuf.

    They are ordered by their names, since a server may send the same ones in another order each
    time. Two may have one name, so a key is the place among them.
    """
    found: list[tuple[str, bytes]] = []
    problems: list[Problem] = []
    for resource in resources:
        given = resource.type_url.rpartition("/")[2]
        if given != MESSAGE:
            # Not a slip: Go calls the resource's type the wanted one.
            what = f'mismatched message type: got "{MESSAGE}", want "{given}"'
            problems.append(Problem("", 0, what))
            continue
        try:
            found.append((rate_limit_config().FromString(resource.value).name, resource.value))
        except DecodeError as error:
            is_text = "UTF-8" in str(error)
            what = "string field contains invalid UTF-8" if is_text else _NOT_WIRE_FORMAT
            problems.append(Problem("", 0, what))
    files = {f"{place:06}": content for place, (_, content) in enumerate(sorted(found))}
    return Bundle(files, tuple(problems))


def compile_discovered(
    bundle: Bundle, *, merges_domains: bool = False, options: Options | None = None
) -> Rules:
    """The rules that a bundle of `bundle_of` describes. Raises `InvalidInput` with all that is
    wrong in its files; for what is unreadable `SnapshotHolder` refuses it before.
    """
    problems: list[Problem] = []
    specs: list[DomainSpec] = []
    for content in bundle.files.values():
        try:
            specs.append(domain_spec(rate_limit_config().FromString(content)))
        except InvalidInput as error:
            problems.extend(error.problems)
    return rules_from(specs, problems, merges_domains=merges_domains, options=options)


def domain_spec(message: Any) -> DomainSpec:
    """A `RateLimitConfig` as its file would be read. Raises `InvalidInput` for metadata that is no
    JSON, such as a NaN.
    """
    descriptors = tuple(_descriptor(item, message.name) for item in message.descriptors)
    return DomainSpec(message.name, message.domain, descriptors, 0)


def _descriptor(message: Any, file: str) -> DescriptorSpec:
    return DescriptorSpec(
        key=message.key,
        value=message.value,
        rate_limit=_rate_limit(message.rate_limit) if message.HasField("rate_limit") else None,
        flags=frozenset(flag for flag in _FLAGS if getattr(message, flag)),
        metadata=_metadata(message.metadata, file) if message.HasField("metadata") else None,
        descriptors=tuple(_descriptor(item, file) for item in message.descriptors),
        line=0,
    )


def _rate_limit(message: Any) -> RateLimitSpec:
    unit = message.unit
    return RateLimitSpec(
        unit=_UNITS[unit] if 0 <= unit < len(_UNITS) else str(unit),
        requests_per_unit=message.requests_per_unit,
        unlimited=message.unlimited,
        name=message.name,
        replaces=tuple(replace.name for replace in message.replaces),
        line=0,
        atomic=False,
    )


def _metadata(message: Any, file: str) -> Any:
    try:
        return json_format.MessageToDict(message, descriptor_pool=pool())
    except ValueError as error:
        raise InvalidInput([Problem(file, 0, f"error parsing metadata: {error}")]) from None
