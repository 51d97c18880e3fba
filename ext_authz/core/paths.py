"""One reading of a request's path, and patterns that match it.

`normalized` reads a path as Envoy's `normalize_path` and `merge_slashes` do and refuses what
servers are known to read in different ways, so that a rule can't be walked around: escaped slashes
and backslashes, NUL and control characters, dot segments above the root, `;parameters`, segments
that end in a dot or a space, broken percent-escapes, escapes that are not UTF-8 (an overlong
slash), bytes outside ASCII that are not escaped. Every character that may stand unescaped in a
segment is decoded, also those that RFC 3986 keeps apart (`%3A` and `:`): most upstreams read both
as one, and a rule must hold for what they read.
Source: RFC 3986 sections 5.2.4 and 6.2.2; Envoy `HttpConnectionManager.normalize_path`.
Known weakness: letter case is significant here, and so are `%3F`, `%23` and letters outside ASCII:
an upstream that ignores case, decodes twice or takes a full-width letter for a plain one must be
protected by rules that allow, and not by ones that deny.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, unquote_to_bytes

PATH_CHARACTERS_AT_MOST = 8192

_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_PLAIN = re.compile(r"(?:/[A-Za-z0-9_~-]+(?:\.[A-Za-z0-9_~-]+)*)*/?\Z")
_ALLOWED = re.compile(r"[!$&'()*+,:=@A-Za-z0-9._~/%-]*\Z")
_DECODED = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,=:@"
)
"""`pchar` of RFC 3986 section 3.3 without the semicolon, which is refused."""
_SLASHES = re.compile(r"/{2,}")


@dataclass(frozen=True, slots=True)
class InvalidPath:
    """The path can't be read in one way only; a value, because it is an ordinary reason to deny."""

    why: str


def split_target(target: str) -> tuple[str, str]:
    """Path and query of a request target; a fragment is cut off."""
    path, _, query = target.partition("?")
    return path.partition("#")[0], query.partition("#")[0]


def normalized(path: str) -> str | InvalidPath:
    """The path in its one form: escapes of what needs none decoded, others in upper case, dot
    segments resolved, slashes merged. `normalized` of its own result is that result."""
    if len(path) > PATH_CHARACTERS_AT_MOST:
        return InvalidPath(f"is longer than {PATH_CHARACTERS_AT_MOST} characters")
    if path and _PLAIN.match(path):
        return path
    if not path.startswith("/"):
        return InvalidPath("does not begin with a slash")
    if _ALLOWED.match(path) is None:
        return InvalidPath("has a character that is not allowed")
    if path.count("%") != len(_ESCAPE.findall(path)):
        return InvalidPath("has a broken percent-escape")
    try:
        decoded = _ESCAPE.sub(_decode_needless, path)
    except ValueError as error:
        return InvalidPath(str(error))
    if not _is_utf8(decoded):
        return InvalidPath("has escaped bytes that are not UTF-8")
    return _resolved(_SLASHES.sub("/", decoded))


def _is_utf8(path: str) -> bool:
    try:
        unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        return False
    return True


def _decode_needless(match: re.Match[str]) -> str:
    code = int(match.group(1), 16)
    if code in _DECODED:
        return chr(code)
    if code < 0x20 or code == 0x7F:
        raise ValueError("has an escaped control character")
    if code in b"/\\;%":
        raise ValueError("has an escaped slash, backslash, semicolon or percent sign")
    return match.group(0).upper()


def _resolved(path: str) -> str | InvalidPath:
    """`path` without dot segments. Raises nothing; above the root is refused and not clamped."""
    result: list[str] = []
    segments = path.split("/")[1:]
    for index, segment in enumerate(segments):
        is_last = index == len(segments) - 1
        if segment == "..":
            if not result:
                return InvalidPath("climbs above the root")
            result.pop()
        elif segment != ".":
            if segment.endswith((".", "%20")):
                return InvalidPath("has a segment that ends in a dot or a space")
            if segment or is_last:
                result.append(segment)
            continue
        if is_last:
            result.append("")
    return "/" + "/".join(result)


@dataclass(frozen=True, slots=True)
class PathPattern:
    """A pattern over whole segments: a literal, `*` or `{name}` for one segment, `**` at the end
    for any depth.

    `/admin/**` matches `/admin`, `/admin/` and everything below. A slash at the end of a path makes
    no difference, so that neither an allow nor a deny can be walked around with one.
    """

    text: str
    segments: tuple[str | None, ...]
    is_tree: bool
    names: tuple[tuple[int, str], ...] = ()
    """The named segments: position and name."""

    def variables(self, path: str) -> dict[str, str]:
        """The named segments of a normalised `path` that matches, unescaped."""
        parts = path.rstrip("/").split("/")[1:]
        return {name: unquote(parts[position]) for position, name in self.names}

    def matches(self, path: str) -> bool:
        """Whether the normalised `path` matches."""
        parts = path.rstrip("/").split("/")[1:]
        wanted = self.segments
        if len(parts) < len(wanted) or (len(parts) > len(wanted) and not self.is_tree):
            return False
        return all(
            literal is None or literal == part
            for literal, part in zip(wanted, parts[: len(wanted)], strict=True)
        )


def parse_pattern(text: str) -> PathPattern:
    """The pattern that `text` writes. Raises `ValueError`, saying what is wrong with it."""
    if not text.startswith("/"):
        raise ValueError(f"the path '{text}' must begin with a slash")
    segments: list[str | None] = []
    names: list[tuple[int, str]] = []
    parts = text.rstrip("/").split("/")[1:]
    for index, part in enumerate(parts):
        if part == "**":
            if index != len(parts) - 1:
                raise ValueError(f"'**' may stand only at the end of the path '{text}'")
            return PathPattern(text, tuple(segments), is_tree=True, names=tuple(names))
        if part == "*" or re.fullmatch(r"\{[A-Za-z_][A-Za-z0-9_]*\}", part):
            segments.append(None)
            if part != "*":
                if any(name == part[1:-1] for _, name in names):
                    raise ValueError(f"'{part}' stands twice in the path '{text}'")
                names.append((index, part[1:-1]))
        elif "*" in part or "{" in part or "}" in part:
            raise ValueError(f"'*' and '{{name}}' must be whole segments of the path '{text}'")
        elif normalized(f"/{part}") != f"/{part}" or not part:
            raise ValueError(
                f"the path '{text}' is not in its normal form, so nothing can match it"
            )
        else:
            segments.append(part)
    return PathPattern(text, tuple(segments), is_tree=False, names=tuple(names))
