"""What the handshake asks to be sent, and what comes back: HTTP without a client."""

from __future__ import annotations

import hashlib
import secrets
import shlex
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Self, TypeVar

from microwallet.http402.wire.challenge import AUTHORIZATION, Challenge
from microwallet.http402.wire.problems import ToldProblem

Result = TypeVar("Result")
Steps = Generator["Sending | Pause", "ServerAnswer", Result]
"""Yields what to send, is sent the answer; NotSent or NoAnswer is thrown in where there is none."""

_KEPT = 90
"""Characters of a key that are kept in those of redirects: 128 are the most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The request that a program makes, as far as paying for it cares."""

    method: str
    url: str
    """Absolute, without a fragment."""
    body: bytes = b""
    idempotency_key: str | None = None
    """The user's; None for a new one."""
    new_key: str = field(default_factory=lambda: f"fetch-{secrets.token_hex(12)}")
    hop: int = 0
    """How many redirects led to it."""
    repeats: Callable[[str], str] | None = None
    """The program's own command that makes the whole request again under a key."""
    is_stream: bool = False
    """Whether server-sent events are asked for."""
    has_authorization: bool = False
    """Whether it has an Authorization of its own."""

    @property
    def key(self) -> str:
        """What the user names to have it again, and the requests that led to it."""
        return self.idempotency_key or self.new_key

    @property
    def own_key(self) -> str:
        """Of this request alone: each redirect has another, the same whenever the first one is repeated."""
        if not self.hop:
            return self.key
        digest = hashlib.sha256(self.key.encode()).hexdigest()
        return f"{self.key[:_KEPT]}-redirect-{self.hop}-{digest[:16]}"

    @property
    def again(self) -> str:
        """The command that goes on with it."""
        if self.repeats is not None:
            return self.repeats(self.key)
        comment = "  # with the same data" if self.body else ""
        return f"microwallet fetch {self.words} --idempotency-key {shlex.quote(self.own_key)}{comment}"

    @property
    def words(self) -> str:
        """It, as `microwallet fetch` takes it in a shell."""
        return f"{'' if self.method == 'GET' else self.method + ' '}{shlex.quote(self.url)}"

    @property
    def fingerprint(self) -> bytes:
        """Tells requests apart: 32 bytes over method, URL and body."""
        digest = hashlib.sha256(self.body).hexdigest()
        return hashlib.sha256(f"{self.method} {self.url} {digest}".encode()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """The same request, or with `is_head` no more than its URL, and the credential that goes with it."""

    authorization: str | None = field(default=None, repr=False)
    credential_field: str = AUTHORIZATION
    """Where that goes."""
    idempotency_key: str | None = None
    is_head: bool = False
    may_be_stream: bool = False
    """Whether the answer may be server-sent events that are paid for while they are read."""

    @classmethod
    def answering(
        cls,
        challenge: Challenge,
        credential: str,
        *,
        idempotency_key: str | None = None,
        is_head: bool = False,
        may_be_stream: bool = False,
    ) -> Self:
        """With the credential for a challenge, in the field that it names."""
        return cls(
            authorization=credential,
            credential_field=challenge.credential_field,
            idempotency_key=idempotency_key,
            is_head=is_head,
            may_be_stream=may_be_stream,
        )


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing is sent: others may go on meanwhile. What comes back says nothing."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAnswer:
    """What a server said, as far as it concerns payment."""

    status: int
    challenges: Sequence[str] = ()
    """The `WWW-Authenticate` fields."""
    receipt: str | None = None
    is_stream: bool = False
    """Whether server-sent events follow that can be read."""
    problem: ToldProblem = field(default_factory=ToldProblem)
    """What its problem document says, if it has one."""
    retry_after: int | None = None
    """Seconds to wait before the same is sent again, if it says so."""


NO_WORD = ServerAnswer(status=0)
"""What comes back after a pause."""


class NotSent(Exception):
    """Nothing reached the server: it could not be connected to, or a proxy before it could not."""

    def __init__(self, why: str, *, at_proxy: bool = False) -> None:
        super().__init__(why)
        self.at_proxy = at_proxy
        """Whether `why` tells of a proxy, by name."""


class NoAnswer(Exception):
    """The request may have reached the server; its answer did not come back."""
