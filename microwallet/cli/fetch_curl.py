"""What was typed for curl, as a command line of `microwallet fetch`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urldefrag, urlsplit

from microwallet.cli.fetch_secrets import SecretWords

_METHOD, _URL, _USER = ("-X", "--request"), ("--url",), ("-u", "--user")
_HEAD, _NAMED = ("-I", "--head"), ("-O", "--remote-name")
_TRUSTED, _ANY_CERTIFICATE = ("--cacert",), ("-k", "--insecure")
_IN_QUERY, _ENCODED = ("-G", "--get"), ("--data-urlencode",)
_UPLOAD, _COOKIE, _FORM = ("-T", "--upload-file"), ("-b", "--cookie"), ("-F", "--form")
_GLOBAL = {"-s": "-q", "--silent": "-q", "-q": "-q", "--quiet": "-q", "--debug": "--debug"}
_SILENT = ("-S", "--show-error", "-#", "--progress-bar", "--no-progress-meter")
_UNNEEDED = (*_SILENT, "-N", "--no-buffer", "-g", "--globoff", "--compressed", "--http2")
_TEXT = {"--data-raw": "--data", "--data-binary": "--data"}
_OTHERWISE = {
    "-m": "--timeout",
    "--max-time": "--timeout",
    "--location": "--follow",
    "--fail-with-body": "--fail",
    **_TEXT,
}
"""How `fetch` calls these."""
_HEADERS = {
    **dict.fromkeys(("-A", "--user-agent"), "User-Agent: "),
    **dict.fromkeys(("-e", "--referer"), "Referer: "),
    **dict.fromkeys(("-r", "--range"), "Range: bytes="),
}
_TAKE_VALUE = frozenset({*_METHOD, *_URL, *_USER, *_TRUSTED, *_HEADERS, *_ENCODED, *_UPLOAD, *_COOKIE})
_ALONE = frozenset({*_HEAD, *_NAMED, *_ANY_CERTIFICATE, *_IN_QUERY, *_GLOBAL, *_UNNEEDED})
_ONCE = "--idempotency-key KEY  (with it the same command again pays once)"
_IN_DOCUMENT = "--json  (has status and headers beside the body)"
_NO_COOKIES = '-H "Cookie: NAME=VALUE"  (no file of cookies is read or kept)'
UNLIKE = {
    **dict.fromkeys((*_COOKIE, "-c", "--cookie-jar"), _NO_COOKIES),
    **dict.fromkeys(("-w", "--write-out", "-D", "--dump-header"), _IN_DOCUMENT),
    "--retry": _ONCE,
    "--resume": _ONCE,  # of `pay`, which has no request to repeat
    "--connect-timeout": "--timeout SECONDS  (for each wait)",
}
"""What `fetch` has in place of options that it cannot be told to do."""
BEHIND_URL = '-H "NAME: VALUE" sends a header, -d NAME=VALUE data'
"""What it has in place of the words of HTTPie."""
_BASIC = '"Authorization: Basic $(printf %s "$CREDENTIALS" | base64 | tr -d \'\\n\')"'


def of_curl(words: Sequence[str], parameters: Sequence[Any]) -> str | None:
    """The command line that does what curl would do for these words, quoted for a shell and without
    secrets; None where one of them is known neither to curl, as far as `fetch` can do it, nor to `fetch`.

    `words` are all that were typed, `parameters` those of `fetch`.
    """
    at = words.index("fetch")
    known = {name: one for one in parameters if one.param_type_name == "option" for name in one.opts}
    line = _Line(known)
    try:
        for name, value in _options(words[at + 1 :], known):
            line.take(name, value)
        return line.told(words[:at])
    except LookupError:
        return None


def _options(words: Sequence[str], known: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each option with its value, or "" where it has none; words that are no option as values of ""."""
    options = {**known, **{other: known[name] for other, name in _OTHERWISE.items()}}
    valued = {name for name, one in options.items() if not one.is_flag} | _TAKE_VALUE
    alone = {name for name, one in options.items() if one.is_flag} | _ALONE
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            yield from (("", one) for one in rest)
            return
        if word == "-" or not word.startswith("-"):
            yield "", word
            continue
        name, equals, value = word.partition("=")
        letters = ""
        if not word.startswith("--"):
            name, letters = word[:2], word[2:]
            equals, value = letters, letters
        if name in valued:
            yield name, value if equals else rest.pop(0)
            continue
        if name not in alone or (equals and not letters):
            raise LookupError(name)
        yield name, ""
        if letters:
            rest.insert(0, f"-{letters}")


class _Line:
    """A command line of `fetch` as it grows."""

    def __init__(self, known: Mapping[str, Any]) -> None:
        self._known = known
        self._secret = SecretWords()
        self._words: list[str] = []
        self._globals: list[str] = []
        self._data: list[tuple[str, str]] = []
        """Options for the body, each with what it says."""
        self._flags: list[str] = []
        self._trusted: str | None = None
        self._method: str | None = None
        self._is_named = self._is_any = self._is_query = self._is_upload = False
        self._needs: list[str] = []

    def take(self, name: str, value: str) -> None:
        """One option or word of curl; LookupError for what has no counterpart."""
        if name == "" or name in _URL:
            self._words.append(value)
        elif name in _METHOD:
            self._method = value
        elif name in _HEAD:
            self._method = self._method or "HEAD"
            self._flags.append("--include")
        elif name in _NAMED:
            self._is_named = True
        elif name in _TRUSTED:
            self._trusted = shlex.quote(value)
        elif name in _ANY_CERTIFICATE:
            self._is_any = True
        elif name in _USER:
            self._flags += ["-H", _BASIC]
            self._needs.append("user:password in $CREDENTIALS")
        elif name in _GLOBAL:
            self._globals.append(_GLOBAL[name])
        elif name not in _UNNEEDED:
            self._take_content(name, value)

    def _take_content(self, name: str, value: str) -> None:
        """One that says what is sent, or that `fetch` knows."""
        if name in _IN_QUERY:
            self._is_query = True
        elif name in _UPLOAD:
            self._method = self._method or "PUT"
            self._data.append(("--data", "-" if value == "-" else f"@{value}"))
            self._is_upload = True
        elif name in _ENCODED:
            self._data.append(("--data", _encoded(value)))
        elif name in _COOKIE:
            if "=" not in value:
                raise LookupError(name)  # a file
            self._own("-H", f"Cookie: {value}")
        else:
            self._own(name, value)

    def told(self, before: Sequence[str]) -> str:
        """The line, after the flags that stood before `fetch`; LookupError for too many words."""
        *methods, url = self._words or ["URL"]
        if len(methods) > 1:
            raise LookupError
        method = self._method or next(iter(methods), None)
        if self._is_upload and (len(self._data) > 1 or url.endswith("/")):
            raise LookupError  # curl sends a file alone, and adds its name to a folder's URL
        data: list[str] = []
        if self._is_query:
            url = self._with_query(url)
        else:
            for name, value in self._data:
                data += [name, self._secret.quoted("data", value)]
        if self._is_named:
            self._flags += ["--output", shlex.quote(urlsplit(url).path.rpartition("/")[2] or "index.html")]
        if self._is_any and not url.startswith("http:"):
            self._trusted = self._trusted or "FILE"
        line = [] if self._trusted is None else [f"SSL_CERT_FILE={self._trusted}"]
        line += ["microwallet", *dict.fromkeys((*before, *self._globals)), "fetch"]
        line += [] if method is None else [shlex.quote(method)]
        line += [self._secret.quoted("second", url), *data, *self._flags]
        needs = [*self._needs, *(f"the same ${name}" for name in self._secret.variables)]
        return " ".join(line) + (f"  # with {' and '.join(dict.fromkeys(needs))}" if needs else "")

    def _with_query(self, url: str) -> str:
        """The URL with all data in its query; LookupError for what is in files, or in a form."""
        texts = [text for _, text in self._data]
        if any(text == "-" or text.startswith("@") for text in texts) or set(self._flags) & {*_FORM}:
            raise LookupError
        url = urldefrag(url).url
        return url + ("&" if urlsplit(url).query else "?") + "&".join(texts) if texts else url

    def _own(self, name: str, value: str) -> None:
        if name in _TEXT and (value == "-" or (name == "--data-raw" and value.startswith("@"))):
            raise LookupError(name)  # a text to curl, a file to `fetch`
        if name in _HEADERS:
            name, value = "-H", f"{_HEADERS[name]}{value}"
        own = _OTHERWISE.get(name, name)
        if self._known[own].name == "data":
            self._data.append((own, value))
            return
        self._flags.append(own)
        if not self._known[own].is_flag:
            self._flags.append(self._secret.quoted(self._known[own].name, value))


def _encoded(text: str) -> str:
    """What `--data-urlencode` makes of a text; LookupError for one in a file, or that `fetch` would look for
    in one."""
    name, equals, value = text.partition("=")
    if not equals:
        name, value = "", text
        if "@" in text:
            raise LookupError(text)
    encoded = f"{name}{'=' if name else ''}{quote(value, safe='')}"
    if encoded == "-" or encoded.startswith("@"):
        raise LookupError(text)
    return encoded
