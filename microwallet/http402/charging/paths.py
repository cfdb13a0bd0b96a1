"""The path of a request in one spelling: the one that is matched is the one that is forwarded. RFC 3986."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from microwallet.errors import MalformedMessage

PATH_LIMIT = 8 * 1024
"""Characters."""

_ALLOWED = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_TREACHEROUS = ("%2F", "%5C", "%00")
"""A slash, a backslash and a zero byte in disguise: what stands behind us may take them for the real ones."""
_PARAMETERS = re.compile(r";[^/]*")


def canonical_path(raw: str) -> str:
    """The canonical spelling of a raw path, as it stood in the request line, without its query.

    Escapes that are not needed are undone, others get capital letters. MalformedMessage for a path
    that another program might read as a different one: segments that are empty or dotted, with their
    parameters or without, disguised slashes, characters that must be escaped and are not.
    """
    if not raw.startswith("/") or len(raw) > PATH_LIMIT or _ALLOWED.fullmatch(raw) is None:
        raise MalformedMessage(f"{raw[:80]!r} is no path that can be forwarded")
    path = _ESCAPE.sub(_unescaped, raw)
    segments = without_parameters(path)[1:].split("/")
    is_last_lost = not segments[-1] and not path.endswith("/")
    if any(segment in (".", "..") for segment in segments) or "" in segments[:-1] or is_last_lost:
        raise MalformedMessage(f"{raw[:80]!r} has empty or dotted segments")
    if any(escape in path for escape in _TREACHEROUS):
        raise MalformedMessage(f"{raw[:80]!r} has a slash, a backslash or a zero byte in disguise")
    return path


def without_parameters(path: str) -> str:
    """A path as those read it who take what follows a semicolon for no part of its segment, as Java's servers
    do. RFC 3986, section 3.3."""
    return _PARAMETERS.sub("", path)


def raw_path(path: str) -> bytes:
    """The raw path that a path without escapes may have had, for servers that do not tell it."""
    return quote(path, safe="/!$&'()*+,;=:@").encode()


def path_below(root: str, path: str) -> str:
    """What of a canonical path an application finds its own routes by: all but the root path, without
    escapes, under which it is mounted. A path that is not below it is taken as it is, as Starlette does.
    """
    if not f"{unquote(path)}/".startswith(f"{root}/"):
        return path
    return "/" + "/".join(path[1:].split("/")[root.count("/") :])


def _unescaped(escape: re.Match[str]) -> str:
    character = chr(int(escape[1], 16))
    return character if character in _UNRESERVED else escape[0].upper()
