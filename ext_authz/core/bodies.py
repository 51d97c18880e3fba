"""A request's body as rules read it: JSON, a form, or a form in parts.

Only what every reader would take in one way is read: an object whose member stands twice, a body
that was cut or never sent, text that is no UTF-8, or parts that don't end, are no body, so that a
condition over one fails. Source: RFC 8259, RFC 7578, the URL standard's forms.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from ext_authz.core.jose import DEPTH_AT_MOST, is_shallow
from meshwarden.core.documents import parse_json
from meshwarden.core.faults import InvalidInput

FIELDS_AT_MOST = 1000
NAME_CHARACTERS_AT_MOST = 256
BOUNDARY_CHARACTERS_AT_MOST = 70
"""RFC 2046 section 5.1.1."""

_WORD = r"[A-Za-z0-9!#$&^_.+-]++"
_WORDS = re.compile(rf"[ \t]*+({_WORD}(?:/{_WORD})?)[ \t]*+")
_PARAMETER = re.compile(rf';[ \t]*+({_WORD})=("[^"\\]*+"|[^\s",;=\\]++)[ \t]*+')

Form = dict[str, list[str]]


class NoBody(ValueError):
    """The body is not there whole, or is not of the form that was asked for."""


@dataclass(frozen=True, slots=True)
class Body:
    """`content` is None where the proxy sent none, or only its beginning."""

    content: bytes | None = field(repr=False)
    content_type: str = ""

    def text(self) -> str:
        """The body as text. Raises `NoBody`."""
        try:
            return self._whole().decode()
        except UnicodeDecodeError:
            raise NoBody("the body is not UTF-8") from None

    def json(self) -> Any:
        """The value of a JSON body. Raises `NoBody`."""
        kind = self._kind()
        if kind != "application/json" and not kind.endswith("+json"):
            raise NoBody("the body is not JSON")
        try:
            value = parse_json("body", self._whole())
        except InvalidInput as error:
            raise NoBody(str(error)) from None
        if not is_shallow(value, DEPTH_AT_MOST):
            raise NoBody("the body is nested too deeply")
        return value

    def form(self) -> tuple[Form, Form]:
        """The fields of a form, and the file names of its files; each by name, in their order.
        Raises `NoBody`.
        """
        kind = self._kind()
        if kind == "application/x-www-form-urlencoded":
            return self._url_encoded(), {}
        if kind == "multipart/form-data":
            return _Parts(self._boundary()).read(self._whole())
        raise NoBody("the body is no form")

    def _whole(self) -> bytes:
        if self.content is None:
            raise NoBody("the body was not sent whole")
        return self.content

    def _kind(self) -> str:
        return self.content_type.partition(";")[0].strip().lower()

    def _url_encoded(self) -> Form:
        try:
            return parse_qs(
                self._whole().decode(),
                keep_blank_values=True,
                strict_parsing=bool(self.content),
                max_num_fields=FIELDS_AT_MOST,
                errors="strict",
            )
        except ValueError:
            raise NoBody("the body is no form") from None

    def _boundary(self) -> bytes:
        boundary = parameters(self.content_type)[1].get("boundary")
        if not boundary or len(boundary) > BOUNDARY_CHARACTERS_AT_MOST:
            raise NoBody("the body's content type names no boundary")
        return boundary.encode("latin-1", "replace")


def parameters(header: str) -> tuple[str, dict[str, str]]:
    """Value and parameters of a Content-Type or Content-Disposition, names in lower case. Raises
    `NoBody` for one that readers take in different ways: a parameter that stands twice, `name*`
    (RFC 8187: some readers prefer it, others don't know it), a backslash.
    """
    found = _WORDS.match(header)
    if found is None:
        raise NoBody("a header of the body can't be read")
    result: dict[str, str] = {}
    position = found.end()
    while position < len(header):
        parameter = _PARAMETER.match(header, position)
        if parameter is None:
            raise NoBody("a header of the body can't be read in one way only")
        name = parameter[1].lower()
        if name in result:
            raise NoBody("a header of the body has a parameter twice")
        result[name] = parameter[2].strip('"')
        position = parameter.end()
    return found[1].lower(), result


class _Parts:
    """Reads a multipart form: fields whole, of files the names alone."""

    def __init__(self, boundary: bytes) -> None:
        self._fields: Form = {}
        self._files: Form = {}
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        self._content = bytearray()
        self._count = 0
        self._has_ended = False
        self._parser = MultipartParser(
            boundary,
            callbacks={
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                "on_header_end": self._take_header,
                "on_part_data": lambda data, start, end: self._content.extend(data[start:end]),
                "on_part_end": self._take_part,
                "on_end": self._end,
            },
        )

    def read(self, content: bytes) -> tuple[Form, Form]:
        try:
            self._parser.write(content)
            self._parser.finalize()
        except (FormParserError, ValueError) as error:
            raise NoBody(f"the body is no form in parts: {error}") from None
        if not self._has_ended:
            raise NoBody("the body's last part does not end")
        return self._fields, self._files

    def _begin(self) -> None:
        self._count += 1
        if self._count > FIELDS_AT_MOST:
            raise NoBody(f"the body has more than {FIELDS_AT_MOST} parts")
        self._disposition = b""
        self._content.clear()

    def _take_header(self) -> None:
        name, value = (bytes(part) for part in self._header)
        for part in self._header:
            part.clear()
        if name.lower() == b"content-disposition":
            if self._disposition:
                raise NoBody("a part of the body has two dispositions")
            self._disposition = value

    def _take_part(self) -> None:
        disposition, options = parameters(self._disposition.decode())
        name, file = options.get("name"), options.get("filename")
        if disposition != "form-data" or name is None or len(name) > NAME_CHARACTERS_AT_MOST:
            raise NoBody("a part of the body has no name")
        if file is None:
            self._fields.setdefault(name, []).append(self._content.decode())
        else:
            self._files.setdefault(name, []).append(file)

    def _end(self) -> None:
        self._has_ended = True


def body_of(headers: Mapping[str, str], content: bytes) -> Body:
    """The body in a request that Envoy sent with `with_request_body`: it then says whether that is
    all of it.
    """
    is_whole = headers.get("x-envoy-auth-partial-body") == "false"
    return Body(content if is_whole else None, headers.get("content-type", ""))
