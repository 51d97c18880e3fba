"""Build hook: writes the protobuf descriptors of the services we speak into one small file.

`xds-protos` overwrites files of other packages when it is installed beside them, so it is needed
here, in the isolated build environment, and nowhere else (architecture.md, Hazards). The written
`FileDescriptorSet` holds the listed files and all that they import, in an order in which they can
be added to a `DescriptorPool`.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

TARGET = "meshwarden/adapters/descriptors.binpb"
MODULES = [
    "envoy.service.auth.v3.external_auth_pb2",
    "envoy.service.discovery.v3.ads_pb2",
    "envoy.service.ratelimit.v3.rls_pb2",
]


class DescriptorHook(BuildHookInterface):  # type: ignore[type-arg]
    """Runs for wheels and for editable installs alike."""

    def initialize(self, _version: str, build_data: dict[str, Any]) -> None:
        from google.protobuf.descriptor_pb2 import FileDescriptorSet

        written = FileDescriptorSet()
        seen: set[str] = set()

        def add(descriptor: Any) -> None:
            if descriptor.name in seen:
                return
            seen.add(descriptor.name)
            for dependency in descriptor.dependencies:
                add(dependency)
            descriptor.CopyToProto(written.file.add())

        for module in MODULES:
            add(importlib.import_module(module).DESCRIPTOR)
        Path(self.root, TARGET).write_bytes(written.SerializeToString(deterministic=True))
        build_data.setdefault("artifacts", []).append(TARGET)
