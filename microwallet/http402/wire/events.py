"""Server-sent events, and the two of them that speak of payment.

HTML standard, section "Server-sent events"; draft-evm-session-00, sections "Insufficient Balance During
Streaming" and "Receipt Generation".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

from microwallet.domain.identifiers import ChannelId
from microwallet.errors import MalformedMessage
from microwallet.http402.wire.encoding import json_object
from microwallet.http402.wire.wire_object import WireObject

EVENT_STREAM = "text/event-stream"
NEED_VOUCHER = "payment-need-voucher"
RECEIPT = "payment-receipt"
EVENT_LIMIT = 16 * 1024 * 1024
"""Bytes of one event, which may bring a picture."""

BODILESS = frozenset({204, 304})
"""Statuses of answers that have no body, whatever they say of it. RFC 9110, section 6.4.1."""
BOM = b"\xef\xbb\xbf"
"""What a stream may begin with: no client takes it for a part of the first line."""
_LINE_END_LIMIT = 2
_END_OF_EVENT = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)+")
_TYPE = re.compile(rb"(?:^|[\r\n])(?:%b)?event(?:: ?([^\r\n]*))?(?=[\r\n]|\Z)" % BOM)
_OF_PAYMENT = frozenset({NEED_VOUCHER.encode(), RECEIPT.encode()})


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSentEvent:
    """One event: its type, `message` unless told, and its data."""

    type: str
    data: str

    def json(self) -> dict[str, Any]:
        """The JSON object in the data; MalformedMessage if there is none."""
        return json_object(self.data, what=f"data of a {self.type} event")


class EventReader:
    """Finds the events in a stream of bytes, however it is cut. Line ends are LF, CR LF or CR."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._type = ""
        self._data: list[str] = []
        self._size = 0
        self._after_cr = False
        self._is_first_line = True

    def feed(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        """The events that a chunk completes; MalformedMessage for one above EVENT_LIMIT."""
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        self._after_cr = chunk.endswith(b"\r")
        *lines, rest = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            self._line += line
            self._grow(len(line))
            whole = bytes(self._line)
            self._line.clear()
            if (event := self._take(whole)) is not None:
                yield event
        self._line += rest
        self._grow(len(rest))

    def _grow(self, by: int) -> None:
        self._size += by
        if self._size > EVENT_LIMIT:
            raise MalformedMessage(f"an event has more than {EVENT_LIMIT} bytes")

    def _take(self, raw: bytes) -> ServerSentEvent | None:
        if self._is_first_line:
            raw = raw.removeprefix(BOM)
            self._is_first_line = False
        line = raw.decode(errors="replace")
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._type = value
        return None

    def _dispatch(self) -> ServerSentEvent | None:
        kind, data = self._type or "message", self._data
        self._type, self._data, self._size = "", [], 0
        return ServerSentEvent(type=kind, data="\n".join(data)) if data else None


class EventSplitter:
    """Cuts a stream of bytes into whole events, however it comes in. No byte is changed."""

    def __init__(self) -> None:
        self._rest = bytearray()

    @property
    def rest(self) -> bytes:
        """What is no whole event yet."""
        return bytes(self._rest)

    def feed(self, chunk: bytes) -> list[bytes]:
        """The events that a chunk completes, each with its blank line; MalformedMessage for one above
        EVENT_LIMIT."""
        rest, known = self._rest, len(self._rest)
        rest += chunk
        ends = [end.end() for end in _END_OF_EVENT.finditer(rest, max(0, known - _LINE_END_LIMIT))]
        events = [bytes(rest[start:end]) for start, end in pairwise([0, *ends])]
        if ends:
            del rest[: ends[-1]]
        if len(rest) > EVENT_LIMIT:
            raise MalformedMessage(f"an event has more than {EVENT_LIMIT} bytes")
        return events


def may_bring_events(status: int) -> bool:
    """Whether events are sold by an answer of this status, if its type is theirs: not by an error."""
    return status < 400 and status not in BODILESS


def without_payment(event: bytes) -> bytes:
    """A whole event as it is; of one that speaks of payment no more than line ends of the one before it."""
    types = _TYPE.findall(event)
    if not types or types[-1] not in _OF_PAYMENT:
        return event
    return event[: len(event) - len(event.lstrip(b"\r\n"))]


def encode_event(type: str, document: Mapping[str, Any]) -> bytes:
    """An event whose data is a JSON object."""
    return f"event: {type}\ndata: {json.dumps(document, separators=(',', ':'))}\n\n".encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedVoucher:
    """The stream waits until this much is authorized. All of it is the server's word."""

    channel_id: ChannelId
    required_cumulative: int
    accepted_cumulative: int
    deposit: int

    @classmethod
    def parse(cls, event: ServerSentEvent) -> Self:
        """What a `payment-need-voucher` event asks for; MalformedMessage if it cannot be read."""
        asked = WireObject(event.json(), NEED_VOUCHER)
        return cls(
            channel_id=ChannelId(asked.bytes32("channelId")),
            required_cumulative=asked.amount("requiredCumulative"),
            accepted_cumulative=asked.amount("acceptedCumulative"),
            deposit=asked.amount("deposit"),
        )

    def to_event(self) -> bytes:
        """The event to send."""
        return encode_event(
            NEED_VOUCHER,
            {
                "channelId": self.channel_id,
                "requiredCumulative": str(self.required_cumulative),
                "acceptedCumulative": str(self.accepted_cumulative),
                "deposit": str(self.deposit),
            },
        )
