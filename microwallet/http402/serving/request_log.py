"""One line a request: what was asked for, what became of it, and who paid how much. Nothing secret.

draft-httpauth-payment-00, section "Logging": no credential, and no receipt, is logged. Queries are not
either, as they carry keys, nor are fields, bodies and client addresses.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from microwallet.domain.money import format_units
from microwallet.domain.ports import Emit
from microwallet.http402.charging.asgi import WARNING, Application, Message, Receive, Scope, Send
from microwallet.http402.charging.bill import Bill
from microwallet.http402.charging.middleware import BILL
from microwallet.http402.serving.line_log import Details

PATH_LIMIT = 512
"""Characters of a path."""


class RequestLog:
    """An application whose requests are logged, and whose defects do not leave it."""

    def __init__(self, app: Application, log: Emit) -> None:
        self._app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, as ASGI 3 has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.monotonic()
        status: int | None = None
        warning: str | None = None
        has_receipt = False
        error: BaseException | None = None

        async def watched(message: Message) -> None:
            nonlocal status, warning, has_receipt
            if message["type"] == "http.response.start":
                status, warning = message["status"], message.get(WARNING)
                has_receipt = any(name == b"payment-receipt" for name, _ in message.get("headers", ()))
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except BaseException as raised:
            error = raised
            raise
        finally:
            details = _described(scope, status, error, time.monotonic() - begun)
            if has_receipt and BILL not in scope:
                details |= {"handedOver": True}
            self._log("request", details if warning is None else {**details, "warning": warning})


def _described(
    scope: Scope, status: int | None, error: BaseException | None, seconds: float
) -> dict[str, Any]:
    """`status` is None if nothing was answered; `error` names what cut the answer short."""
    details: dict[str, Any] = {
        "method": scope["method"],
        "path": scope["raw_path"][:PATH_LIMIT].decode("latin-1"),
        "status": status,
        "ms": round(seconds * 1000, 1),
    }
    bill: Bill | None = scope.get(BILL)
    if bill is not None:
        sold, asset = bill.sold, bill.channel.asset
        details |= {
            "channelId": bill.channel.channel_id,
            "cost": "0" if sold is None or sold.is_replay else str(sold.sale.cost),
            "asset": asset.symbol,
            "decimals": asset.decimals,
        }
        if sold is not None and sold.is_replay:
            details["paidBefore"] = True
        if bill.warning is not None:
            details["warning"] = bill.warning
    if error is not None:
        is_end = isinstance(error, asyncio.CancelledError)  # nothing else cancels a request
        details["error"] = "the server ends" if is_end else type(error).__name__
    return details


def request_line(event: str, details: Details) -> str:
    """A request for a person: printable characters of ASCII, whatever the path holds."""
    if event != "request":
        return f"{event}  {details}"
    path: str = details["path"]
    if not (path.isascii() and path.isprintable()):
        path = ascii(path)[1:-1]
    words = [details["method"], path, str(details["status"] or "-"), f"{details['ms']:.0f} ms"]
    if "cost" in details:
        cost = f"{format_units(int(details['cost']), details['decimals'])} {details['asset']}"
        words += [details["channelId"][:10], "paid before" if details.get("paidBefore") else cost]
    if details.get("handedOver"):
        words.append("handed over")
    if "warning" in details:
        words.append(f"warning: {details['warning']}")
    if "error" in details:
        words.append(details["error"])
    return "  ".join(words)
