"""The grammar of `WWW-Authenticate`: challenges of any scheme, with their auth-params.

RFC 9110, sections 5.6 and 11.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from microwallet.errors import MalformedMessage

FIELD_LIMIT = 64 * 1024
"""Characters of all fields together; a challenge should have less than 8 KB, a server may offer several."""

TCHARS = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
"""What the name of a field, scheme, parameter or directive is made of. RFC 9110, section 5.6.2."""

_TOKEN = re.compile(TCHARS)
_SPACE = re.compile(r"[ \t]*")
_COMMAS = re.compile(r"(?:[ \t]*,)*[ \t]*")
_EQUALS = re.compile(r"[ \t]*=[ \t]*")
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*(?=[ \t]*(?:,|$))")
_QUOTED = re.compile(r'"((?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\U0010ffff]|\\[\t \x21-\x7e\x80-\U0010ffff])*)"')
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthChallenge:
    """One challenge as written: a scheme, in lowercase, with parameters or with a token68."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Names in lowercase; values without quotes."""
    token68: str | None = None


def parse_auth_fields(values: Iterable[str]) -> list[AuthChallenge]:
    """The challenges of all fields of a response, in order; MalformedMessage if one breaks the grammar."""
    fields = list(values)
    check_size(fields)
    return [challenge for value in fields for challenge in _Parser(value).challenges()]


def check_size(fields: Iterable[str]) -> None:
    """MalformedMessage for fields that are too long together."""
    if sum(map(len, fields)) > FIELD_LIMIT:
        raise MalformedMessage(f"the WWW-Authenticate fields have more than {FIELD_LIMIT} characters")


def quoted(value: str) -> str:
    """A value as a quoted-string; MalformedMessage for a control character, which no quoting can carry."""
    if value.isascii() and value.isprintable() and not ('"' in value or "\\" in value):
        return f'"{value}"'  # as nearly all are
    text = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if _QUOTED.fullmatch(text) is None:
        raise MalformedMessage(f"{value!r} holds a control character")
    return text


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def challenges(self) -> list[AuthChallenge]:
        found = []
        self._take(_COMMAS)
        while self._at < len(self._text):
            found.append(self._challenge())
        return found

    def _challenge(self) -> AuthChallenge:
        scheme = self._expect(_TOKEN, "scheme").lower()
        if self._at < len(self._text) and self._text[self._at] not in " \t,":
            raise self._error("space after the scheme")
        if self._text[self._at : self._at + 1] in ("", ","):
            self._take(_COMMAS)
            return AuthChallenge(scheme=scheme)
        self._take(_SPACE)
        if token68 := self._take(_TOKEN68):
            self._take(_COMMAS)
            return AuthChallenge(scheme=scheme, token68=token68)
        parameters: dict[str, str] = {}
        if "," not in self._take(_COMMAS) and not self._is_parameter():
            raise self._error("parameter")
        while self._is_parameter():
            name = self._expect(_TOKEN, "parameter").lower()
            if name in parameters:
                raise MalformedMessage(f"a challenge has the parameter {name} twice")
            self._take(_EQUALS)
            parameters[name] = self._value()
            self._end_of_item()
        return AuthChallenge(scheme=scheme, parameters=parameters)

    def _is_parameter(self) -> bool:
        name = _TOKEN.match(self._text, self._at)
        return name is not None and _EQUALS.match(self._text, name.end()) is not None

    def _value(self) -> str:
        if (match := _QUOTED.match(self._text, self._at)) is not None:
            self._at = match.end()
            return _QUOTED_PAIR.sub(r"\1", match[1])
        return self._expect(_TOKEN, "value")

    def _end_of_item(self) -> None:
        if "," not in self._take(_COMMAS) and self._at < len(self._text):
            raise self._error("comma")

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            return ""
        self._at = match.end()
        return match[0]

    def _expect(self, pattern: re.Pattern[str], what: str) -> str:
        return self._take(pattern) or self._fail(what)

    def _fail(self, what: str) -> str:
        raise self._error(what)

    def _error(self, what: str) -> MalformedMessage:
        return MalformedMessage(f"WWW-Authenticate has no {what} at {self._text[self._at :][:40]!r}")
