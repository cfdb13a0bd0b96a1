"""A proxy between a client and a gateway that does to each request what networks do, chosen by a seed."""

from __future__ import annotations

import asyncio
import random
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

FAULTS = (
    "refused",  # the next connections are refused
    "reset before",  # the gateway never hears of it
    "reset after",  # the gateway has answered, the answer is lost
    "reset in body",
    "late",  # the answer comes when nobody waits any more
    "twice",  # delivered twice, the first answer is given
    "second of two",  # the second one
    "502 after",  # the gateway has answered
    "502 instead",  # the gateway never hears of it
    "truncated",  # ended in mid-field
    "no receipt",
    "garbled receipt",
    "402 again",  # the credential is lost on the way
    "stale 402",  # an earlier answer is given again
    "chunk cut",
)
LONGEST = 2**20


@dataclass(slots=True)
class _Answer:
    head: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def is_stream(self) -> bool:
        return b"text/event-stream" in self.head.lower()


class FaultProxy:
    """One port before some gateways; each connection carries one request, to any of them.

    `share` of the requests meet a fault; an answer that is late comes after `patience` seconds.
    """

    def __init__(self, targets: Sequence[int], *, seed: int, share: float, patience: float) -> None:
        self.targets = targets
        self.share = share
        self.done: Counter[str] = Counter()
        """How often each fault was done."""
        self._patience = patience
        self._random = random.Random(seed)
        self._stale: dict[bytes, bytes] = {}
        self._server: asyncio.Server | None = None
        self.port = 0
        self._is_open = True
        self._serving: set[asyncio.Task | None] = set()
        """The loop itself keeps no task."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def listen(self) -> None:
        """Listen; again on the same port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=LONGEST)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop_listening(self) -> None:
        """Take no connection, until it listens again."""
        if self._server is None:
            return
        server, self._server = self._server, None
        for listening in server.sockets:
            asyncio.get_running_loop().remove_reader(listening.fileno())
        await asyncio.sleep(0)  # asyncio loses a connection that it has just taken when a server closes
        server.close()

    async def stop(self) -> None:
        """Never listen again."""
        self._is_open = False
        await self.stop_listening()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._serving.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
                body = await reader.readexactly(int(length[1])) if length else b""
                fault = self._random.choice(FAULTS) if self._random.random() < self.share else "none"
                self.done[fault] += 1
                await self._answer(fault, head, body, writer)
        finally:
            writer.close()
            self._serving.discard(task)

    async def _answer(self, fault: str, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        target = head.split(b" ", 2)[1]
        if fault == "reset before":
            _reset(writer)
            return
        if fault == "502 instead":
            writer.write(_BAD_GATEWAY)
            return
        if fault == "stale 402" and target in self._stale:
            writer.write(self._stale[target])
            return
        if fault == "402 again":
            head = re.sub(rb"(?i)\r\nauthorization:[^\r]*", b"", head)
        try:
            answer = await self._ask(head, body)
        except OSError:
            writer.write(_BAD_GATEWAY)
            return
        try:
            if fault in ("twice", "second of two"):
                second = await self._ask(head, body)
                answer, other = (answer, second) if fault == "twice" else (second, answer)
                other.writer.close()
            await (self._stream if answer.is_stream else self._whole)(fault, target, answer, writer)
        finally:
            answer.writer.close()
        if fault == "refused" and self._server is not None:
            await self.stop_listening()
            await asyncio.sleep(0.02)
            if self._is_open:
                await self.listen()

    async def _ask(self, head: bytes, body: bytes) -> _Answer:
        port = self._random.choice(self.targets)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=LONGEST)
        head = re.sub(rb"(?i)\r\nconnection:[^\r]*", b"", head)
        writer.write(head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1) + body)
        try:
            return _Answer(await reader.readuntil(b"\r\n\r\n"), reader, writer)
        except BaseException as error:
            writer.close()
            if isinstance(error, asyncio.IncompleteReadError):
                raise ConnectionResetError from error
            raise

    async def _whole(self, fault: str, target: bytes, answer: _Answer, writer: asyncio.StreamWriter) -> None:
        head, body = answer.head, await answer.reader.read()
        if head.startswith(b"HTTP/1.1 402"):
            self._stale[target] = head + body
        if fault == "reset after":
            _reset(writer)
        elif fault == "reset in body":
            writer.write(head + body[: len(body) // 2])
            await writer.drain()
            await asyncio.sleep(0.01)
            _reset(writer)
        elif fault == "late":
            await asyncio.sleep(self._patience)
        elif fault == "502 after":
            writer.write(_BAD_GATEWAY)
        elif fault == "truncated":
            writer.write(head[: len(head) // 2])
        elif fault == "chunk cut":
            head = re.sub(rb"(?i)\r\n(content-length|transfer-encoding):[^\r]*", b"", head)
            head = head.replace(b"\r\n", b"\r\nTransfer-Encoding: chunked\r\n", 1)
            writer.write(head + b"%x\r\n" % (len(body) + 1) + body)
        else:
            writer.write(_twisted(fault, head) + body)

    async def _stream(self, fault: str, _: bytes, answer: _Answer, writer: asyncio.StreamWriter) -> None:
        """Passed on as it comes: the client pays for what follows by what it has read."""
        if fault == "reset after":
            _reset(writer)
            return
        if fault == "502 after":
            writer.write(_BAD_GATEWAY)
            return
        if fault == "late":
            await asyncio.sleep(self._patience)
            return
        left = 150 if fault in ("reset in body", "truncated", "chunk cut") else LONGEST
        writer.write(_twisted(fault, answer.head))
        while left > 0 and (chunk := await answer.reader.read(min(left, 4096))):
            left -= len(chunk)
            writer.write(chunk)
            await writer.drain()
        if fault == "reset in body":
            _reset(writer)


_BAD_GATEWAY = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\nConnection: close\r\n\r\noops"


def _twisted(fault: str, head: bytes) -> bytes:
    if fault == "no receipt":
        return re.sub(rb"(?i)\r\npayment-receipt:[^\r]*", b"", head)
    if fault == "garbled receipt":
        return re.sub(rb"(?i)(\r\npayment-receipt: *)[^\r]*", rb"\1eyJub3Blx", head)
    return head


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextmanager
def fault_proxy(targets: Sequence[int], **options: float) -> Iterator[FaultProxy]:
    """A proxy on a free port, in a thread of its own."""
    loop = asyncio.new_event_loop()
    proxy = FaultProxy(targets, **options)
    loop.run_until_complete(proxy.listen())
    thread = threading.Thread(target=loop.run_forever, name="fault proxy")
    thread.start()
    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(_stop(proxy), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _stop(proxy: FaultProxy) -> None:
    await proxy.stop()
    await asyncio.sleep(0.1)  # where it just begins to listen again
    await proxy.stop()
    tasks: set[asyncio.Task] = {asyncio.current_task()}
    while tasks:
        await asyncio.sleep(0.05)  # for connections that were just made
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0.05)  # for connections to close
