"""Where in a configuration something stands that is being compiled, and what is visible there."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ext_authz.core.resources import Resources
from ext_authz.core.scopes import Scope
from meshwarden.core.documents import Document, Path


@dataclass(frozen=True, slots=True)
class Place:
    """A part of one document; what is wrong with it is noted in `resources`."""

    resources: Resources
    scope: Scope
    files: Mapping[str, bytes]
    document: Document
    path: Path = ("spec",)

    def at(self, *more: str | int) -> Place:
        """A part of this part."""
        return replace(self, path=(*self.path, *more))

    def refuse(self, what: str, hint: str = "") -> None:
        self.resources.refuse(self.document, what, self.path, hint)

    def content(self, name: str) -> bytes:
        """The content of a file that is named here; empty where it could not be read."""
        return self.files.get(posixpath.normpath(name), b"")
