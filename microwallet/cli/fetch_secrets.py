"""What of a request is secret: it is sent, and shown nowhere."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable

from microwallet.domain.secret_fields import ENDING, FIELDS

_HEADER = re.compile(rf"^([^:]*{ENDING}) *:.*", re.IGNORECASE | re.DOTALL)
_FORM_FIELD = re.compile(rf"^([^=]*{ENDING}\]?)=(?![@<]).+", re.IGNORECASE | re.DOTALL)
_USER = re.compile(r"^([^:/@]*://)?.*@", re.DOTALL)

_PLACE = re.compile("\0([^\0]*)\0")
"""Where a secret was: no word of a command has the character that is around its variable."""
_OF_THE_SHELL = re.compile(r'[\\"$`]')
"""What means something else within double quotes."""


def is_secret(name: str) -> bool:
    """Whether a header with this name has a secret value."""
    return _HEADER.fullmatch(f"{name}:") is not None


class SecretWords:
    """The words of a `fetch` for a shell, with variables in place of what is secret."""

    def __init__(self) -> None:
        self.variables: dict[str, None] = {}
        """Those that are to be set, in order."""

    def quoted(self, parameter: str, text: str) -> str:
        """A word that was given for a parameter of the command."""
        hide = _HIDING.get(parameter)
        shown = text if hide is None else hide(text)
        self.variables |= dict.fromkeys(_PLACE.findall(shown))
        if shown == text:
            return shlex.quote(text)
        return '"' + _PLACE.sub(r"$\1", _OF_THE_SHELL.sub(r"\\\g<0>", shown)) + '"'


def _place(name: str) -> str:
    variable = re.sub(r"\W+", "_", name.strip(), flags=re.ASCII).strip("_").upper()
    return f"\0{variable if variable[:1].isalpha() else 'SECRET'}\0"


def _header(text: str) -> str:
    return _HEADER.sub(lambda found: f"{found[1]}: {_place(found[1])}", text)


def _form_field(text: str) -> str:
    return _FORM_FIELD.sub(lambda found: f"{found[1]}={_place(found[1])}", text)


def _fields(text: str) -> str:
    return FIELDS.sub(lambda found: f"{found[1]}={_place(found[1])}", text)


def _proxy(text: str) -> str:
    return _USER.sub(lambda found: f"{found[1] or ''}{_place('proxy_user')}@", text)


def _rpc_url(text: str) -> str:
    """Its path may be the key of an account with whoever runs the chain's server."""
    from microwallet.escrow.transport import redacted

    return text if redacted(text) == text else _place("MICROWALLET_RPC_URL")


_HIDING: dict[str, Callable[[str], str]] = {
    "header": _header,
    "form": _form_field,
    "data": _fields,
    "first": _fields,
    "second": _fields,
    "proxy": _proxy,
    "rpc_url": _rpc_url,
}
