"""What `serve` says: what is sold, that it listens, and what is still to be taken when it stops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from microwallet.cli.event_lines import event_line
from microwallet.cli.result import Result
from microwallet.cli.table import table
from microwallet.domain.money import format_units

if TYPE_CHECKING:
    from microwallet.assortment import Assortment
    from microwallet.http402.charging.routes import Route
    from microwallet.http402.serving.settings import Settings
    from microwallet.wallet import Wallet


def what_is_sold(wallet: Wallet, settings: Settings, assortment: Assortment) -> Result:
    """The result of --dry-run."""
    unreachable = dict(assortment.routes.unreachable())
    routes = [
        _route(route) | ({"unreachable": unreachable[number]} if number in unreachable else {})
        for number, route in enumerate(assortment.routes.routes, start=1)
    ]
    about = {
        "dryRun": True,
        "upstream": settings.upstream,
        "host": settings.host,
        "port": settings.port,
        "tls": settings.has_tls,
        "workers": settings.workers,
        "payee": assortment.policy.payee,
        "network": wallet.network.name,
        "chainId": wallet.network.chain_id,
        "settleAbove": {token: str(above) for token, above in assortment.policy.above.items()},
        "settleIdle": assortment.policy.idle_seconds,
    }

    def text() -> str:
        rows = [[route["method"], route["path"], _price(route), route.get("per", "")] for route in routes]
        paid = f"paid to {wallet.account.name} {assortment.policy.payee} on {wallet.network.name}"
        return "\n".join(
            [table(["METHOD", "PATH", "PRICE", "PER"], rows), f"\nfrom {settings.upstream}, {paid}"]
        )

    return Result(data={**about, "routes": routes}, text=text)


def _route(route: Route) -> dict[str, Any]:
    path = "/" + "/".join(route.pattern)
    if route.price is None:
        return {"method": route.method, "path": path, "free": True}
    price = route.price
    told: dict[str, Any] = {
        "method": route.method,
        "path": path,
        "free": False,
        "price": str(price.amount.base_units),
        "asset": price.amount.asset.symbol,
        "decimals": price.amount.asset.decimals,
        "per": str(price.unit),
        "minVoucherDelta": str(price.min_voucher_delta),
    }
    if price.header is not None:
        told |= {"unitsHeader": price.header, "maxUnits": price.max_units}
    if price.suggested_deposit is not None:
        told["suggestedDeposit"] = str(price.suggested_deposit)
    if price.description is not None:
        told["description"] = price.description
    return told


def _price(route: Mapping[str, Any]) -> str:
    if route["free"]:
        return "free"
    return f"{format_units(int(route['price']), route['decimals'])} {route['asset']}"


def unsettled(wallet: Wallet, payee: str) -> list[dict[str, Any]]:
    """By asset: what the channels of a payee on the network in use owe it, and how many they are."""
    sums: Counter[Any] = Counter()
    counts: Counter[Any] = Counter()
    for channel in wallet.ledger.vouchers.live(wallet.network.chain_id):
        if channel.descriptor.payee == payee and channel.unsettled:
            sums[channel.asset] += channel.unsettled
            counts[channel.asset] += 1
    return [
        {
            "asset": asset.symbol,
            "decimals": asset.decimals,
            "unsettled": str(total),
            "channels": counts[asset],
        }
        for asset, total in sums.items()
    ]


def serve_line(event: str, details: Mapping[str, Any]) -> str:
    """An event of a gateway for a person."""
    if event == "listening":
        what = f" for {details['upstream']}" if details["upstream"] else ""
        return f"listening on {details['url']}{what}, paid to {details['payee']} on {details['network']}"
    if event == "try":
        lines = [f"  {line}" for line in details["lines"]]
        return "\n".join(["in another terminal, as a payer with test money:", *lines, "Ctrl-C ends it all."])
    if event == "stopped":
        owed = ", ".join(
            f"{format_units(int(one['unsettled']), one['decimals'])} {one['asset']}"
            for one in details["unsettled"]
        )
        return f"stopped; unsettled: {owed} (microwallet payee settle --all)" if owed else "stopped"
    return event_line(event, details)
