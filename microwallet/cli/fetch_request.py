"""The request that `microwallet fetch` was told to make, as curl's flags say it."""

from __future__ import annotations

import difflib
import hashlib
import mimetypes
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microwallet import __version__
from microwallet.cli.fetch_curl import BEHIND_URL
from microwallet.cli.fetch_secrets import SecretWords
from microwallet.cli.source import read_all
from microwallet.cli.usage import NUMBER
from microwallet.errors import UsageError
from microwallet.http402.paying.origins import Origin
from microwallet.http402.wire.auth_fields import TCHARS

if TYPE_CHECKING:
    import httpx

_BODY_LIMIT = 256 * 1024 * 1024
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY")
_ALIKE = 0.65
_FORM = "application/x-www-form-urlencoded"
_OWN = ("payment-receipt", "payment-authorization", "accept-payment", "idempotency-key", "transfer-encoding")
_NEEDED = ("host", "content-length")

_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"(?=$|;(?:type|filename)=)', re.DOTALL)
"""A text of a form's field that would else mean something: curl's quoting."""
_OPTION = re.compile(";(?=type=|filename=)")
_TYPE = re.compile(r"[^/\s]+/[^;,\s]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What was typed: words, headers, data and form fields."""

    method: str
    url: str
    headers: Sequence[tuple[str, str | None]]
    """None for one that is not to be sent."""
    content: bytes | None
    files: Sequence[tuple[str, tuple[str | None, bytes, str | None]]]

    @property
    def size(self) -> int:
        """Bytes of its body, in a form without what stands between them."""
        return len(self.content or b"") + sum(len(content) for _, (_, content, _) in self.files)

    @property
    def cookies(self) -> str:
        """Those that were typed, as they are sent."""
        return "; ".join(value for name, value in self.headers if value and name.lower() == "cookie")

    def build(self, client: httpx.Client, extensions: dict[str, Any]) -> httpx.Request:
        """The request; UsageError if the URL cannot be one."""
        import httpx

        headers = [("User-Agent", f"microwallet/{__version__}"), ("Accept", "*/*")]
        headers.append(("Accept-Encoding", "identity"))
        typed = [(name, value) for name, value in self.headers if value is not None]
        own = {name.lower() for name, _ in typed}
        if self.content is not None and "content-type" not in own:
            headers.append(("Content-Type", _FORM))
        elif self.files and "content-type" not in own:
            headers.append(("Content-Type", f"multipart/form-data; boundary={self._boundary()}"))
        shown = [pair for pair in headers if pair[0].lower() not in own] + typed
        try:
            request = client.build_request(
                self.method,
                self.url,
                headers=shown,
                content=self.content,
                files=list(self.files) or None,
                extensions=extensions,
            )
        except (httpx.InvalidURL, ValueError, TypeError) as error:
            raise UsageError(f"the request cannot be made: {error}") from error
        for name in {name.lower() for name, _ in self.headers} - own:
            request.headers.pop(name, None)
        said, size = request.headers.get("Content-Length"), len(request.read())
        if said not in (None, str(size)):
            raise UsageError(
                f"Content-Length is {said!r}, and the body has {size} bytes", hint="leave it out"
            )
        return request

    def _boundary(self) -> str:
        """Between the parts of a form: the same for the same form, which is then the same request."""
        return hashlib.sha256(repr(self.files).encode()).hexdigest()[:32]


def wanted(words: Sequence[str], headers: Sequence[str], data: Sequence[str], form: Sequence[str]) -> Wanted:
    """The request that words and flags describe; UsageError for what is no request."""
    if not 1 <= len(words) <= 2:
        raise UsageError(
            "fetch needs a URL, after at most a method", hint="microwallet fetch GET https://..."
        )
    if len(words) == 1 and (method := words[0].upper()) in _METHODS:
        raise UsageError("the URL is missing", hint=f"microwallet fetch {method} URL")
    if data and form:
        raise UsageError("-d and -F do not go together", hint="send fields with one of them")
    if len(words) == 2:
        _check_order(*words)
    url = words[-1].partition("#")[0]
    Origin.of(url)
    method = words[0].upper() if len(words) == 2 else "POST" if data or form else "GET"
    if not (method.isascii() and method.isalpha()):
        raise UsageError(f"{words[0][:40]!r} is no method", hint="microwallet fetch POST https://...")
    if (meant := _mistyped(method)) is not None:
        raise UsageError(
            f"{words[0][:40]!r} is no method: did you mean {meant}?",
            hint=f"microwallet fetch {meant} {SecretWords().quoted('second', url)}",
        )
    return Wanted(
        method=method,
        url=url,
        headers=[_header(text) for text in headers],
        content=b"&".join(_data(text) for text in data) if data else None,
        files=[_field(text) for text in form],
    )


def check_units(words: Sequence[str], amounts: Mapping[str, str | None]) -> None:
    """UsageError for an amount in two words, whose unit would be taken for the method. `amounts` are the
    values of flags."""
    bare = {flag: amount for flag, amount in amounts.items() if amount and NUMBER.fullmatch(amount)}
    for word in words:
        if bare and word.isalpha() and word.upper() not in _METHODS:
            flag, amount = next(iter(bare.items()))
            raise UsageError(
                f"{word!r} may be a method, or the unit of {flag} {amount}", hint=f'{flag} "{amount} {word}"'
            )


def _check_order(first: str, second: str) -> None:
    """UsageError for two words that are not a method and a URL, in this order."""
    if "://" in first and second.isalpha():
        raise UsageError(
            f"{second!r} is no URL: the method comes first",
            hint=f"microwallet fetch {second} {SecretWords().quoted('first', first)}",
        )
    for text, url in ((first, second), (second, first)):
        if text.startswith(("{", "[")):
            raise _json_of_curl(url, text)
    if "://" in first and "://" not in second:
        raise UsageError(
            f"{second[:40]!r} stands behind the URL, where nothing is expected",
            hint=BEHIND_URL,
        )


def _json_of_curl(url: str, text: str) -> UsageError:
    """For curl it is what `--json` sends."""
    quoted = SecretWords().quoted
    return UsageError(
        "--json takes no value, it prints one document: data is sent by -d",
        hint=f"microwallet fetch {quoted('second', url)} -H 'Content-Type: application/json'"
        f" -d {quoted('data', text)}",
    )


def _mistyped(method: str) -> str | None:
    """The method that was meant, where it is as good as certain: servers may know others than the usual."""
    near = [usual for usual in _METHODS if abs(len(usual) - len(method)) < 2]
    return None if method in near else next(iter(difflib.get_close_matches(method, near, 1, _ALIKE)), None)


def _header(text: str) -> tuple[str, str | None]:
    """`NAME: VALUE`; as curl and HTTPie have it, `NAME:` leaves one out, and `NAME;` sends it empty."""
    name, colon, value = text.partition(":")
    is_empty = not colon and text.endswith(";")
    name, value = (text[:-1] if is_empty else name).strip(), value.strip()
    is_named = re.fullmatch(TCHARS, name) and (colon or is_empty)
    if not is_named or not text.isprintable() or not text.isascii():
        raise UsageError(f"{text[:80]!r} is no header", hint='-H "Accept: application/json"')
    if name.lower() in (_OWN if value else (*_OWN, *_NEEDED)):
        hint = "--idempotency-key KEY" if name.lower() == "idempotency-key" else "leave it out"
        raise UsageError(f"{name} is set by microwallet", hint=hint)
    return name, value if value or is_empty else None


def _data(text: str) -> bytes:
    """The bytes themselves, of a file `@FILE` or of stdin `-`, as they are."""
    if text == "-":
        return read_all("-", limit=_BODY_LIMIT, what="a request")
    if text.startswith("@"):
        return read_all(text[1:], limit=_BODY_LIMIT, what="a request")
    return text.encode()


def _field(text: str) -> tuple[str, tuple[str | None, bytes, str | None]]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"{text[:80]!r} is no form field", hint="-F name=value, or -F name=@FILE")
    quoted = _QUOTED.match(value)
    start, *options = re.split(_OPTION, value[quoted.end() :] if quoted else value)
    given = dict(option.split("=", 1) for option in options)
    shown, kind = given.get("filename", "").strip('"') or None, given.get("type")
    if kind is not None and not (_TYPE.match(kind) and kind.isprintable()):
        again = SecretWords().quoted("form", f"{_OPTION.split(text)[0]};type=text/plain")
        raise UsageError(f"{kind!r} of the form's field {name} is no content type", hint=f"-F {again}")
    if quoted:
        return name, (shown, re.sub(r"\\(.)", r"\1", quoted[1]).encode(), kind)
    if not start.startswith(("@", "<")):
        return name, (shown, start.encode(), kind)
    content = _content(name, start)
    if start.startswith("<"):
        return name, (shown, content, kind)
    shown = shown or Path(start[1:]).name
    return name, (shown, content, kind or mimetypes.guess_type(shown)[0] or "application/octet-stream")


def _content(name: str, start: str) -> bytes:
    """Of the file that a field names by @ or <."""
    try:
        return read_all(start[1:], limit=_BODY_LIMIT, what="a request")
    except UsageError as error:
        if start.startswith("<") and isinstance(error.__cause__, FileNotFoundError):
            text = shlex.quote(f'{name}="{start}"')
            raise UsageError(error.message, hint=f"-F {text}  (the text itself)") from error
        raise
