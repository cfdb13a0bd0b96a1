"""Which asset a text names, and the tokens a user added."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from microwallet.config import Configuration
from microwallet.domain.identifiers import NATIVE_TOKEN, Address, ChainId, is_address, parse_address
from microwallet.domain.money import Asset, names_asset
from microwallet.errors import NotTrusted, UnknownReference, UsageError, did_you_mean
from microwallet.escrow.network import NATIVE_DECIMALS, Network
from microwallet.escrow.network_table import SYMBOL

if TYPE_CHECKING:
    from microwallet.escrow.reader import EscrowReader

USDC_DECIMALS = 6
_MOST_DECIMALS = 36
_RESERVED = frozenset({"wei", "gwei", "ether", "all"})
_LOOK_ALIKE = str.maketrans("0O1lI5S", "ooiiiss")


def native_asset(network: Network) -> Asset:
    """The chain's own coin."""
    return Asset(
        chain_id=network.chain_id,
        token=NATIVE_TOKEN,
        symbol=network.native_symbol,
        decimals=NATIVE_DECIMALS,
    )


def known_assets(configuration: Configuration, network: Network) -> list[Asset]:
    """The coin, the network's USDC, and the tokens the user added: all that has a symbol here."""
    assets = [native_asset(network)]
    if network.usdc is not None:
        assets.append(
            Asset(chain_id=network.chain_id, token=network.usdc, symbol="USDC", decimals=USDC_DECIMALS)
        )
    return assets + list(_added_tokens(configuration, network.chain_id))


def asset_of(configuration: Configuration, network: Network, token: Address) -> Asset | None:
    """The asset at an address, if it is known without asking the chain."""
    assets = known_assets(configuration, network)
    return next((asset for asset in assets if asset.token == token), None)


def resolve_asset(
    configuration: Configuration,
    network: Network,
    reader: EscrowReader,
    text: str | None = None,
    *,
    amount: str | None = None,
) -> Asset:
    """The asset that `text` names: a known symbol, a unit of the coin, or the address of any ERC-20.

    `amount` is what was typed with it, for the hint. Without a text it is the setting `token`, else
    the network's USDC, else its coin. An address that is not known is read from the chain.
    """
    wanted = text or configuration.get("token")
    if wanted is None:
        return known_assets(configuration, network)[1 if network.usdc is not None else 0]
    if is_address(wanted):
        token = parse_address(wanted)
        return asset_of(configuration, network, token) or read_asset(configuration, network, reader, token)
    assets = known_assets(configuration, network)
    for asset in assets:
        if names_asset(wanted, asset):
            return asset
    symbols = [asset.symbol for asset in assets]
    raise UnknownReference(
        f"there is no token {wanted[:40]!r} on {network.name}; {did_you_mean(wanted.upper(), symbols)}",
        hint=_meant(configuration, symbols, text, amount) or "microwallet network token add ADDRESS",
    )


def read_asset(
    configuration: Configuration,
    network: Network,
    reader: EscrowReader,
    token: Address,
    *,
    alias: str | None = None,
) -> Asset:
    """A token as the chain tells it, under its own symbol or the user's `alias`.

    Raises NotTrusted for a symbol that cannot be shown, or that another token has here already;
    UsageError for what is no ERC-20.
    """
    if token == network.usdc:
        if alias not in (None, "USDC"):
            raise UsageError(f"{token} is the USDC of {network.name}; it has its symbol")
        return known_assets(configuration, network)[1]
    metadata = reader.token_metadata(token)
    if metadata.decimals is None:
        what = "tells no decimals" if reader.has_code(token) else "has no code"
        raise UsageError(
            f"{token} is no ERC-20 token on {network.name}: it {what}",
            hint=f"microwallet network check {network.name}",
        )
    if metadata.decimals > _MOST_DECIMALS:
        raise UsageError(f"{token} claims {metadata.decimals} decimals; {_MOST_DECIMALS} is the most")
    symbol = alias or metadata.symbol or ""
    if SYMBOL.fullmatch(symbol) is None or symbol.lower() in _RESERVED:
        raise NotTrusted(
            f"{token} calls itself {_quoted(symbol)}, which is no symbol:"
            " a letter, then letters, digits, points and dashes are, 20 at most",
            hint=f"microwallet network token add {token} --alias NAME",
        )
    asset = Asset(chain_id=network.chain_id, token=token, symbol=symbol, decimals=metadata.decimals)
    _require_own_symbol(configuration, network, asset)
    return asset


def add_token(configuration: Configuration, network: Network, asset: Asset) -> None:
    """Write a token into the user file, as [tokens.CHAINID.SYMBOL]; the network's USDC is known.

    NotTrusted if another process has given its symbol to another token meanwhile.
    """
    if asset.token == network.usdc:
        return
    with configuration.editing() as content:
        _require_own_symbol(configuration, network, asset)
        chain = content.setdefault("tokens", {}).setdefault(str(asset.chain_id), {})
        for symbol in [symbol for symbol, entry in chain.items() if entry.get("address") == asset.token]:
            del chain[symbol]
        chain[asset.symbol] = {"address": asset.token, "decimals": asset.decimals}


def _require_own_symbol(configuration: Configuration, network: Network, asset: Asset) -> None:
    for known in known_assets(configuration, network):
        if known.token != asset.token and looks_like(known.symbol, asset.symbol):
            raise NotTrusted(
                f"{asset.token} calls itself {asset.symbol}, but on {network.name} {known.symbol} is"
                f" {known.token}",
                hint=f"if it is another token: microwallet network token add {asset.token} --alias NAME",
            )


def looks_like(known: str, other: str) -> bool:
    """Whether a person could take one symbol for the other: case, and digits that resemble letters."""
    return _skeleton(known) == _skeleton(other)


def _skeleton(symbol: str) -> str:
    return re.sub(r"[.\-]", "", symbol.translate(_LOOK_ALIKE)).lower()


def _meant(
    configuration: Configuration, symbols: Sequence[str], text: str | None, amount: str | None
) -> str | None:
    """What to type with the symbol that was meant, where one is near enough."""
    wanted = text or configuration.get("token")
    symbol = next(iter(get_close_matches(wanted.upper(), symbols, n=1)), None)
    if symbol is None:
        return None
    if text is None:
        return configuration.instead("token", symbol)
    if amount is not None and (number := amount.strip()).endswith(text):
        return f'"{number.removesuffix(text)}{symbol}"'
    return f"--token {symbol}"


def _added_tokens(configuration: Configuration, chain_id: ChainId) -> Iterator[Asset]:
    chain = configuration.section("tokens").get(str(chain_id), {})
    where = f"[tokens.{chain_id}]"
    if not isinstance(chain, dict):
        raise UsageError(f"{where} is not a table")
    for symbol, entry in chain.items():
        yield _added_token(f"{where}.{symbol}"[:80], chain_id, symbol, entry)


def _added_token(where: str, chain_id: ChainId, symbol: str, entry: Any) -> Asset:
    decimals = entry.get("decimals") if isinstance(entry, dict) else None
    if SYMBOL.fullmatch(symbol) is None or type(decimals) is not int or not 0 <= decimals <= _MOST_DECIMALS:
        raise UsageError(f"{where} needs a plain symbol, an address and decimals up to {_MOST_DECIMALS}")
    return Asset(
        chain_id=chain_id,
        token=parse_address(str(entry.get("address"))),
        symbol=symbol,
        decimals=decimals,
    )


def _quoted(symbol: str) -> str:
    """A hostile symbol made safe to print, and short."""
    shown = ascii(symbol[:24])
    return shown if len(symbol) <= 24 else f"{shown}... ({len(symbol)} characters)"
