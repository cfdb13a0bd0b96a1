"""A request's body, which may be read before it is decided whether the request is served."""

from __future__ import annotations

import asyncio

from microwallet.http402.charging.asgi import Message, Receive, Scope

BODY_SECONDS = 30.0
"""For how long a client may take to send a body that is read ahead."""


class RequestBody:
    """A request's body: read ahead where a decision needs it, and handed on all the same."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        names = dict(scope["headers"])
        self.is_announced = b"transfer-encoding" in names or names.get(b"content-length", b"0") != b"0"
        self._receive = receive
        self._read: list[Message] = []
        self._handed_on = asyncio.Event()
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
        if self._handed_on.is_set():
            await self.client_leaves()
            return {"type": "http.disconnect"}
        if self._read:
            message = self._read.pop(0)
        elif self.is_announced:
            message = await self._receive()
        else:
            message = {"type": "http.request", "body": b"", "more_body": False}
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._handed_on.set()
        return message

    async def client_leaves(self) -> None:
        """Wait until the client has gone away; never ends before the body was handed on."""
        await self._handed_on.wait()
        while (await self._receive())["type"] == "http.request":
            pass
