"""What a proxy in front says of the connections it takes: believed from the addresses named, from no other.

draft-httpauth-payment-00, section "Transport Security": nothing of payments goes in the clear.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

from microwallet.errors import UsageError
from microwallet.http402.charging.answers import plain_answer
from microwallet.http402.charging.asgi import Application, Receive, Scope, Send, send_answer
from microwallet.http402.loopback import is_loopback, parse_ip

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class BehindProxy:
    """An application that is reached over TLS, which proxies at `addresses` do, or from this machine.

    A proxy tells with X-Forwarded-Proto that a client came over https, and with X-Forwarded-For its
    address; of one that does not tell it, nothing is answered: it may listen on port 80 too. What comes from
    no proxy and not from this machine is refused.
    """

    def __init__(self, app: Application, addresses: Sequence[str]) -> None:
        """See `networks` for what is raised."""
        self._app = app
        self._networks = networks(addresses)
        self._is_proxy = lru_cache(maxsize=1024)(self._is_named)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, as ASGI 3 has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        peer = scope["client"][0] if scope.get("client") else ""
        if self._is_proxy(peer):
            if _words(scope, b"x-forwarded-proto")[-1:] != ["https"]:
                await _refuse("the proxy in front does not say that this came over https", send)
                return
            # In place: what the application notes there, such as the bill, is read in front.
            scope.update(scheme="https", client=(self._client(scope) or peer, 0))
        elif not is_loopback(peer):
            await _refuse("only the proxy in front is answered here", send)
            return
        await self._app(scope, receive, send)

    def _client(self, scope: Scope) -> str | None:
        """The last address in X-Forwarded-For that is none of the proxies'."""
        for one in reversed(_words(scope, b"x-forwarded-for")):
            if parse_ip(one) is None:
                return None
            if not self._is_proxy(one):
                return one
        return None

    def _is_named(self, peer: str) -> bool:
        address = parse_ip(peer)
        return address is not None and any(address in network for network in self._networks)


async def _refuse(detail: str, send: Send) -> None:
    await send_answer(plain_answer(403, "Forbidden", detail), send)


def networks(addresses: Sequence[str]) -> list[Network]:
    """Addresses of proxies, and networks of such; UsageError for what is neither."""
    return [_network(address) for address in addresses]


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise UsageError(
            f"{text[:60]!r} is no address of a proxy, and no network of such as 10.0.0.0/24"
        ) from error


def _words(scope: Scope, field: bytes) -> list[str]:
    """The words of a field, between commas; the proxy next to us added the last one."""
    values = [value.decode("latin-1") for name, value in scope["headers"] if name == field]
    return [word.strip() for value in values for word in value.split(",")]
