"""How a setting of a gateway is named to whoever has to mend it: by its flag, or by its file and key."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from microwallet.errors import InvalidAmount, MalformedMessage, UsageError, did_you_mean

GUIDE = "microwallet help selling"

_EXAMPLES: Mapping[str, Any] = {
    "upstream": "http://127.0.0.1:9000",
    "host": "127.0.0.1",
    "port": 8402,
    "realm": "api.example.org",
    "account": "main",
    "network": "base-sepolia",
    "workers": 2,
    "settle-above": ["5 USDC"],
    "settle-idle": "1d",
    "pay-fees-from": "1 USDC",
    "gas-budget": "0.01 ETH",
    "relayer": "main",
    "tls-cert": "cert.pem",
    "tls-key": "key.pem",
    "behind-tls-proxy": ["127.0.0.1"],
    "requires-auth": True,
    "method": "GET",
    "path": "/articles/**",
    "free": True,
    "price": "0.001 USDC",
    "per": "event",
    "units-header": "X-Tokens-Used",
    "max-units": 4000,
    "min-voucher-delta": "0.001 USDC",
    "suggested-deposit": "0.5 USDC",
    "description": "An article",
}
_INSTEAD = {"price": ", or: free = true", "routes": '[[routes]], then path = "/**" and price = "0.001 USDC"'}
"""What else a file may have, or has instead of a line."""
_FLAGS = {"path": "free"}
"""Where a flag is not called as the key that it sets."""
_EXPECTED = {str: "a text", int: "a number", bool: "true or false", list: "a list of texts"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingNames:
    """Where settings were written: in a file, by flags, or by a program, which has neither."""

    file: Path | None = None
    flags: frozenset[str] = frozenset()
    """Names of the flags that were given, without dashes; each wins over the file."""

    def name(self, key: str, route: int | None = None) -> str:
        """What a setting is called where it was written; `route` is the number of its route, from 1."""
        if (flag := self._flag(key)) is not None:
            return f"--{flag}"
        file = "" if self.file is None else f"{self.file}: "
        return f"{file}{key}" if route is None else f"{file}route {route}: {key}"

    def place(self, route: int | None = None) -> str:
        """Where settings were written, to begin a message with: the file and the route, if there are any."""
        return self.name("", route).rstrip()

    def example(self, key: str) -> str:
        """A line to type for a setting, where it was written."""
        if (flag := self._flag(key)) is not None:
            value = _EXAMPLES[key][0] if isinstance(_EXAMPLES[key], list) else str(_EXAMPLES[key])
            return f"--{flag} {json.dumps(value) if ' ' in value or '*' in value else shlex.quote(value)}"
        if key not in _EXAMPLES:
            return _INSTEAD[key]
        return f"{key} = {json.dumps(_EXAMPLES[key])}{_INSTEAD.get(key, '')}"

    def wrong(self, key: str, message: str, route: int | None = None) -> UsageError:
        """The error of a setting that is not as it should be, with an example."""
        return UsageError(f"{self.name(key, route)} {message}", hint=self.example(key))

    def mistyped(self, key: str, value: object, expected: type, route: int | None = None) -> UsageError:
        """The error of a setting whose value is of another type than expected."""
        what = "a list of tables" if key == "routes" else _EXPECTED[expected]
        return self.wrong(key, f"is {value!r}; {what} is expected", route)

    def unknown(self, key: str, known: Mapping[str, Any], route: int | None = None) -> UsageError:
        """The error of a key that is none."""
        place = self.place(route)
        if route is not None and key in _EXAMPLES and key not in known:
            message = f"{place} {key} is no setting of a route"
            return UsageError(message, hint=f"write it above the first [[routes]]: {self.example(key)}")
        if route is None and key in _EXAMPLES:
            return UsageError(f"{place} {key} is a setting of a route", hint=self.example("routes"))
        close = get_close_matches(key, known, n=1)
        message = f"there is no setting {key!r}; {did_you_mean(key, known)}"
        return UsageError(f"{place} {message}".lstrip(), hint=self.example(close[0]) if close else GUIDE)

    @contextmanager
    def naming(self, key: str, route: int | None = None) -> Iterator[None]:
        """Name the setting in what is raised about it: UsageError, or one that is more exact."""
        try:
            yield
        except MalformedMessage as error:
            raise UsageError(f"{self.name(key, route)}: {error.message}", hint=self.example(key)) from error
        except UsageError as error:
            is_its_own = error.hint is not None and not isinstance(error, InvalidAmount)
            hint = self._as_written(key, error.hint or "") if is_its_own else self.example(key)
            raise type(error)(f"{self.name(key, route)}: {error.message}", hint=hint) from error

    def _as_written(self, key: str, hint: str) -> str:
        """A hint that sets the flag of a setting, for where that was written."""
        flag = f"--{_FLAGS.get(key, key)} "
        if self.file is None or self._flag(key) is not None or not hint.startswith(flag):
            return hint
        return f"{key} = {json.dumps(shlex.split(hint.removeprefix(flag))[0])}"

    def _flag(self, key: str) -> str | None:
        flag = _FLAGS.get(key, key)
        return flag if flag in self.flags else None
