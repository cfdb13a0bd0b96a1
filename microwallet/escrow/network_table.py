"""Reading a network out of its table in a user's configuration, [networks.NAME]."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from microwallet.domain.identifiers import ChainId, parse_address
from microwallet.errors import UsageError
from microwallet.escrow.network import MAINNETS, Network

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
SYMBOL = re.compile(r"[A-Za-z][A-Za-z0-9.\-]{0,19}", re.ASCII)


def network_of_table(name: str, base: Network | None, table: Any) -> Network:
    """A network of the user file; where the name is built in, its table changes single fields.

    Raises UsageError for fields that cannot be.
    """
    fields = _Fields(name, table)
    chain_id = fields.number("chain-id", low=1, high=2**53)
    rpc_urls = fields.texts("rpc-urls")
    base = _added(fields, chain_id, rpc_urls) if base is None else _changed(base, fields, chain_id)
    usdc = fields.text("usdc")
    confirmations = fields.number("confirmations", low=1, high=1000)
    return replace(
        base,
        rpc_urls=rpc_urls or base.rpc_urls,
        explorer=fields.text("explorer") or base.explorer,
        native_symbol=fields.symbol("native-symbol") or base.native_symbol,
        usdc=base.usdc if usdc is None else parse_address(usdc),
        confirmations=base.confirmations if confirmations is None else confirmations,
    )


def _changed(base: Network, fields: _Fields, chain_id: int | None) -> Network:
    """A built-in network, which stays the same chain; whoever says that it is no testnet has to allow it."""
    if chain_id not in (None, base.chain_id):
        raise UsageError(
            f"[networks.{base.name}] has chain-id {chain_id}; {base.name} is built in as chain"
            f" {base.chain_id}",
            hint="give the network another name",
        )
    if fields.flag("testnet") is False:
        return replace(base, testnet=False, allowed=fields.flag("allow-mainnet") is True)
    return base


def _added(fields: _Fields, chain_id: int | None, rpc_urls: tuple[str, ...]) -> Network:
    """A network that only the user file has; off until it is allowed, unless it can be a testnet."""
    if chain_id is None or not rpc_urls:
        missing = {"chain-id": chain_id is None, "rpc-urls": not rpc_urls}
        needed = " and ".join(key for key in missing if missing[key])
        hint = f"microwallet network add {fields.name} --chain-id N --rpc-url URL"
        raise UsageError(f"[networks.{fields.name}] needs {needed}", hint=hint)
    testnet = fields.flag("testnet") is True and chain_id not in MAINNETS
    return Network(
        name=fields.name,
        chain_id=ChainId(chain_id),
        rpc_urls=rpc_urls,
        explorer=None,
        native_symbol="ETH",
        usdc=None,
        confirmations=1 if testnet else 5,
        testnet=testnet,
        allowed=testnet or fields.flag("allow-mainnet") is True,
    )


class _Fields:
    """Typed reading of one [networks.NAME] table."""

    def __init__(self, name: str, entry: Any) -> None:
        self.name = name
        self._where = f"[networks.{name}]"
        if NAME.fullmatch(name) is None:
            raise UsageError(f"{self._where} is no name for a network: a-z, 0-9 and - are expected")
        if not isinstance(entry, dict):
            raise UsageError(f"{self._where} is not a table")
        self._entry = entry

    def text(self, key: str) -> str | None:
        value: str | None = self._read(key, str)
        return value

    def flag(self, key: str) -> bool | None:
        value: bool | None = self._read(key, bool)
        return value

    def number(self, key: str, *, low: int, high: int) -> int | None:
        value: int | None = self._read(key, int)
        if value is not None and (isinstance(value, bool) or not low <= value <= high):
            raise UsageError(f"{self._where} {key} is {value!r}; {low} to {high} is expected")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        values = self._read(key, list) or []
        if not all(isinstance(value, str) for value in values):
            raise UsageError(f"{self._where} {key} is not a list of texts")
        return tuple(values)

    def symbol(self, key: str) -> str | None:
        value = self.text(key)
        if value is not None and SYMBOL.fullmatch(value) is None:
            raise UsageError(f"{self._where} {key} is {value[:40]!r}; a symbol like ETH is expected")
        return value

    def _read(self, key: str, kind: type[Any]) -> Any:
        value = self._entry.get(key)
        if value is not None and not isinstance(value, kind):
            raise UsageError(f"{self._where} {key} is {value!r}, not a {kind.__name__}")
        return value
