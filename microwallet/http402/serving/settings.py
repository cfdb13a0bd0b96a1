"""What `serve` is told: a TOML file, and flags, which win over it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from microwallet.domain.duration import whole_seconds
from microwallet.errors import UsageError, did_you_mean
from microwallet.files import shell_path
from microwallet.http402.charging.routes import Unit
from microwallet.http402.charging.setting_names import GUIDE, SettingNames
from microwallet.http402.serving.behind_proxy import networks
from microwallet.http402.wire.auth_fields import quoted

DEFAULT_PORT = 8402
WORKERS_LIMIT = 64
ONE_LINE = ("price", "per", "free", "description", "suggested-deposit")
"""What describes the routes by flags alone; a file has [[routes]] for it."""

_PATHS = ("tls-cert", "tls-key")
_UNITS_BY_FLAG = (Unit.REQUEST, Unit.EVENT)
_BY_FLAG = {"upstream": "--upstream http://127.0.0.1:9000", "routes": '--price "0.001 USDC"'}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One gateway's settings, as they are written: amounts are texts still."""

    upstream: str | None = None
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    realm: str | None = None
    """What challenges call the gateway; None: the address it listens on."""
    account: str | None = None
    network: str | None = None
    workers: int = 1
    settle_above: Sequence[str] = ()
    """An amount for each asset; empty: 1 USDC."""
    settle_idle: str | None = None
    pay_fees_from: str | None = None
    """The least deposit by signature that is brought onto the chain for its payer; None: none is."""
    gas_budget: str | None = None
    relayer: str | None = None
    """The account that pays the gas for the payee, and for those payers."""
    tls_cert: str | None = None
    tls_key: str | None = None
    behind_tls_proxy: Sequence[str] = ()
    """Addresses and networks of proxies in front that do TLS."""
    requires_auth: bool = False
    """Whether what is sold uses Authorization itself: credentials come in a field of their own then."""
    routes: Sequence[Mapping[str, Any]] = ()
    """Tables as `routes.parse_routes` takes them."""
    names: SettingNames = field(default_factory=SettingNames)
    """What to call them where one is wrong."""

    @classmethod
    def read(cls, file: Path | None, flags: Mapping[str, Any]) -> Self:
        """The settings of a TOML file, if there is one, and of flags by their names without dashes.

        Flags that are None or empty are not given. UsageError names what is wrong, and where.
        """
        given = {name: value for name, value in flags.items() if value not in (None, [], ())}
        names = SettingNames(file=file, flags=frozenset(given))
        table = {} if file is None else _read(file)
        one_line = {name: given.pop(name) for name in ONE_LINE if name in given}
        if one_line:
            if "routes" in table:
                raise UsageError(
                    f"--{next(iter(one_line))} describes routes, and so do the [[routes]] of {file}",
                    hint=f"take one of them out of {file}, or out of the command",
                )
            table["routes"] = _routes_of(one_line)
        values = {name.replace("-", "_"): value for name, value in (table | given).items()}
        settings = cls(names=names, **values)
        settings.check()
        return settings

    @property
    def has_tls(self) -> bool:
        """Whether connections are encrypted by the gateway itself."""
        return self.tls_cert is not None

    @property
    def idle_seconds(self) -> int | None:
        """`settle_idle` in seconds; UsageError for what is no time to wait."""
        with self.names.naming("settle-idle"):
            return None if self.settle_idle is None else whole_seconds(self.settle_idle, least=1)

    def require(self, key: str, question: str) -> None:
        """UsageError if a setting that nothing is sold without is missing."""
        if getattr(self, key):
            return
        if self.names.file is None:
            raise UsageError(question, hint=_BY_FLAG[key])
        raise UsageError(f"{self.names.file}: there is no {key}: {question}", hint=self.names.example(key))

    def check(self) -> None:
        """UsageError for a value that cannot be, or two that do not go together."""
        names = self.names
        if not 0 <= self.port <= 65535:
            raise names.wrong("port", f"{self.port} is not between 0 and 65535")
        if not 1 <= self.workers <= WORKERS_LIMIT:
            raise names.wrong("workers", f"{self.workers} is not between 1 and {WORKERS_LIMIT}")
        if (self.tls_cert is None) != (self.tls_key is None):
            missing = "tls-cert" if self.tls_cert is None else "tls-key"
            raise UsageError(
                f"a certificate and its key go together, and there is no {missing}",
                hint="--tls-cert cert.pem --tls-key key.pem"
                if names.file is None or names.flags & {"tls-cert", "tls-key"}
                else 'tls-cert = "cert.pem", tls-key = "key.pem"',
            )
        if self.has_tls and self.behind_tls_proxy:
            raise UsageError(
                "either the gateway does TLS, or a proxy in front of it",
                hint="leave out tls-cert and tls-key, or behind-tls-proxy",
            )
        with names.naming("behind-tls-proxy"):
            networks(self.behind_tls_proxy)
        _ = self.idle_seconds
        with names.naming("realm"):
            quoted(self.realm or "")
        for number, route in enumerate(self.routes, start=1):
            with names.naming("description", number):
                quoted(str(route.get("description", "")))


_TYPES: Mapping[str, type] = {
    one.name.replace("_", "-"): {type(None): str, tuple: list}.get(type(one.default), type(one.default))
    for one in fields(Settings)
    if one.name != "names"
}
"""What a file has for each setting: a text where nothing is the default, a list where an empty one is."""


def _routes_of(one_line: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Free paths first, since the first route that fits counts; then everything else at one price."""
    if "price" not in one_line:
        raise UsageError("what does everything else cost?", hint=_BY_FLAG["routes"])
    unit, _, header = one_line.get("per", "").partition(":")
    if unit == "header":
        name = json.dumps(header or "X-Tokens-Used")
        raise UsageError(
            "--per header needs the header's name and the most units of a request, which only a file tells",
            hint=f'--config FILE, and there in [[routes]]: per = "header", units-header = {name},'
            " max-units = 4000",
        )
    if "per" in one_line and one_line["per"] not in _UNITS_BY_FLAG:
        known = f"there are: {', '.join(_UNITS_BY_FLAG)}; a file has header too"
        told = did_you_mean(one_line["per"], _UNITS_BY_FLAG, otherwise=known)
        raise SettingNames(flags=frozenset(one_line)).wrong("per", f"is {one_line['per']!r}; {told}")
    free = [{"path": path, "free": True} for path in one_line.get("free", ())]
    paid = {name: value for name, value in one_line.items() if name != "free"}
    return [*free, {"path": "/**", **paid}]


def _read(file: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"{file} cannot be read: {error.strerror}", hint=f"ls -l {shell_path(file)}"
        ) from error
    except (ValueError, RecursionError) as error:
        hint = f'{GUIDE}  (text is in quotes, as in price = "0.001 USDC")'
        raise UsageError(f"{file} is no TOML: {error}", hint=hint) from error
    for name, value in table.items():
        if name not in _TYPES:
            raise SettingNames(file=file).unknown(name, _TYPES)
        table[name] = _checked(file, name, value)
    return table


def _checked(file: Path, name: str, value: Any) -> Any:
    if name in _PATHS and isinstance(value, str):
        return str(file.parent / value)
    if name == "settle-above" and isinstance(value, str):
        value = [value]
    items = dict if name == "routes" else str
    if type(value) is not _TYPES[name] or (
        isinstance(value, list) and not all(isinstance(one, items) for one in value)
    ):
        raise SettingNames(file=file).mistyped(name, value, _TYPES[name])
    return value
