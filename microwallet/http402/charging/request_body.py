"""A request's body, which may be read before it is decided whether the request is served."""

from __future__ import annotations

import asyncio

from microwallet.http402.charging.asgi import Message, Receive, Scope

BODY_SECONDS = 30.0
"""For how long a client may take to send a body that is read ahead."""


class RequestBody:
    """A request's body: read ahead where a decision needs it, and handed on all the same."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.is_announced = any(
            name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
            for name, value in scope["headers"]
        )
        self._receive = receive
        self._read: list[Message] = []
        self._is_handed_on = False
        self._handed_on: asyncio.Event | None = None
        self._whole: bytes | None = None

    async def read(self, limit: int) -> bytes | None:
        """The whole body, or None if it has more than `limit` bytes, or does not come in time."""
        if self._whole is not None:
            return self._whole
        size = 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while size <= limit:
                    message = await self._receive()
                    self._read.append(message)
                    if message["type"] != "http.request":
                        return None
                    size += len(message.get("body", b""))
                    if not message.get("more_body", False):
                        self._whole = b"".join(one.get("body", b"") for one in self._read)
                        return self._whole if size <= limit else None
        except TimeoutError:
            return None
        return None

    async def receive(self) -> Message:
        """The next message: what was read ahead first; after the body only that the client has left."""
        if self._is_handed_on:
            await self.client_leaves()
            return {"type": "http.disconnect"}
        if self._read:
            message = self._read.pop(0)
        elif self.is_announced:
            message = await self._receive()
        else:
            message = {"type": "http.request", "body": b"", "more_body": False}
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._is_handed_on = True
            if self._handed_on is not None:
                self._handed_on.set()
        return message

    async def client_leaves(self) -> None:
        """Wait until the client has gone away; never ends before the body was handed on."""
        if not self._is_handed_on:
            self._handed_on = asyncio.Event()
            await self._handed_on.wait()
        while (await self._receive())["type"] == "http.request":
            pass
