"""Envoy's message classes, from the descriptor set that the build wrote (see `hatch_build.py`).

They live in a `DescriptorPool` of their own: installing `xds-protos` beside the OTLP exporters
breaks both. Parsing is upb's (2-3 us a CheckRequest).
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from meshwarden.core.faults import Misconfigured


@cache
def pool() -> descriptor_pool.DescriptorPool:
    """The pool of all Envoy messages that we speak. Raises `Misconfigured` when the build left no
    descriptors.
    """
    try:
        content = files("meshwarden.adapters").joinpath("descriptors.binpb").read_bytes()
    except FileNotFoundError:
        raise Misconfigured(
            "meshwarden/adapters/descriptors.binpb is missing: install the package (`make install`)"
        ) from None
    result = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(content).file:
        _add_newer_fields(file)
        result.Add(file)
    return result


def _add_newer_fields(file: descriptor_pb2.FileDescriptorProto) -> None:
    """Fields that Envoy's API has and the packaged descriptors don't yet."""
    if file.name == "envoy/extensions/common/ratelimit/v3/ratelimit.proto":
        for message in file.message_type:
            if message.name == "RateLimitDescriptor" and all(f.number != 4 for f in message.field):
                # RateLimitDescriptor.is_negative_hits, envoyproxy/envoy#44059
                message.field.add(
                    name="is_negative_hits",
                    number=4,
                    type=descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
                    label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
                )


@cache
def message_class(full_name: str) -> Any:
    """The class of a message, such as `envoy.service.auth.v3.CheckRequest`."""
    return message_factory.GetMessageClass(pool().FindMessageTypeByName(full_name))
