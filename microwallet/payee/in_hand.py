"""Requests in hand, which are being served: what each channel's have reserved, and may yet be given back.

Whoever settles or closes a channel must know of those in every process. So each gateway keeps a file of sums
in the home, and a lock on it, by which others see whether the gateway is alive.
"""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
from hashlib import blake2b
from pathlib import Path

from microwallet.domain.identifiers import ChannelId
from microwallet.errors import LedgerUnwritable
from microwallet.files import shell_path

SLOTS = 2**16
"""Sums in a file, each for many channels: a hash chooses the slot. For channels that share one, what is
reserved on either is left to the payer of each. The hash is keyed by the file's random name, so that no payer
can choose a channel id for its slot."""
_WORDS = 3
"""64-bit words in a sum, the lowest first: enough for whatever vouchers can authorize."""
_WIDTH = 8 * _WORDS
_WORD_LIMIT = 2**64
_PREFIX = "payee-in-hand-"
_LOOK_SECONDS = 0.02
"""Between two looks at what others have in hand."""


class InHand:
    """What all gateways of a home have in hand."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def reserved(self, channel_ids: Iterable[ChannelId]) -> Mapping[ChannelId, int]:
        """Base units reserved on each channel; more, if another channel shares its slot.

        LedgerUnwritable if the files cannot be read, as by a process with too many files open.
        """
        found = dict.fromkeys(channel_ids, 0)
        try:
            for path in self._home.iterdir():  # later Pythons' glob leaves out what they cannot read
                if path.name.startswith(_PREFIX):
                    _add_up(path, found)
        except OSError as error:
            raise _uncounted(self._home, error) from error
        return found

    def has(self, *channel_ids: ChannelId) -> bool:
        """Whether anything is reserved through channels."""
        return any(self.reserved(channel_ids).values())

    async def until_none(self, channel_id: ChannelId, *, within: float) -> None:
        """Wait until no request of a channel is in hand, `within` seconds at most."""
        for _ in self._looks([channel_id], within):
            await asyncio.sleep(_LOOK_SECONDS)

    def wait(self, channel_ids: Iterable[ChannelId], *, within: float) -> None:
        """As `until_none`, for a thread that closes several channels."""
        for _ in self._looks(channel_ids, within):
            time.sleep(_LOOK_SECONDS)

    def _looks(self, channel_ids: Iterable[ChannelId], within: float) -> Iterator[None]:
        """Each look that still finds a request in hand. It is polled, as they may be in other processes."""
        end = time.monotonic() + within
        for channel_id in channel_ids:
            while self.has(channel_id) and time.monotonic() < end:
                yield


class Reservation:
    """What requests under one idempotency key have reserved together, in one process: all of it until one of
    them is answered, which makes it certain, or the last one has failed."""

    __slots__ = ("__weakref__", "_amount", "_requests")

    def __init__(self, amount: int) -> None:
        self._amount, self._requests = amount, 0

    def join(self) -> None:
        """One request more."""
        self._requests += 1

    def leave(self, *, is_answered: bool) -> int:
        """One request less; the base units that are reserved no more."""
        self._requests -= 1
        if self._requests and not is_answered:
            return 0
        freed, self._amount = self._amount, 0
        return freed


class InHandHere(InHand):
    """What this process has in hand, in a file for all to see. LedgerUnwritable if the disk has no room."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.reserved(())  # removes files of the dead: where nothing is settled, nobody else does
        try:
            self._descriptor, self._path = _make(home)
        except OSError as error:
            raise _uncounted(home, error) from error
        self._sums = mmap.mmap(self._descriptor, SLOTS * _WIDTH)
        self._words = memoryview(self._sums).cast("Q")
        self._offset = lru_cache(SLOTS)(partial(_offset, self._path))
        self._counts: dict[ChannelId, int] = {}
        """How many requests are in hand here, also before anything is reserved for them. Other processes need
        not know of the latter: once one of them begins to close a channel, nothing is sold on it any more."""

    def has(self, *channel_ids: ChannelId) -> bool:
        """Whether there are any here, or anything is reserved elsewhere."""
        return not self._counts.keys().isdisjoint(channel_ids) or super().has(*channel_ids)

    def begin(self, channel_id: ChannelId) -> None:
        """One more request, which is not sold yet."""
        self._counts[channel_id] = self._counts.get(channel_id, 0) + 1

    def reserve(self, channel_id: ChannelId, amount: int) -> None:
        """Add what one has reserved, base units; to be called inside the transaction that records it."""
        self._add(channel_id, amount)

    def end(self, channel_id: ChannelId, amount: int) -> None:
        """One request less, and what is reserved no more: what it costs is certain now, and recorded."""
        count = self._counts.pop(channel_id) - 1
        if count:
            self._counts[channel_id] = count
        if amount:
            self._add(channel_id, -amount)

    def close(self) -> None:
        """Nothing is served here any more."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def _add(self, channel_id: ChannelId, amount: int) -> None:
        start = self._offset(channel_id)
        lowest = self._words[start >> 3] + amount
        if 0 <= lowest < _WORD_LIMIT:  # nearly always, and several times as fast
            self._words[start >> 3] = lowest
        else:
            end = start + _WIDTH
            total = int.from_bytes(self._sums[start:end], "little") + amount
            self._sums[start:end] = total.to_bytes(_WIDTH, "little")


def _add_up(path: Path, found: dict[ChannelId, int]) -> None:
    """Add what is reserved in one file."""
    with _opened(path) as descriptor:
        if descriptor is not None:
            for channel_id in found:
                kept = os.pread(descriptor, _WIDTH, _offset(path, channel_id))
                found[channel_id] += int.from_bytes(kept, "little")


def _uncounted(home: Path, error: OSError) -> LedgerUnwritable:
    return LedgerUnwritable(
        f"what is being served cannot be counted in {home}: {error.strerror}",
        hint=f"df -h {shell_path(home)}",
    )


def _offset(path: Path, channel_id: ChannelId) -> int:
    """Where a channel's sum is in a file."""
    digest = blake2b(channel_id.encode(), digest_size=2, key=path.name.encode()).digest()
    return int.from_bytes(digest, "little") * _WIDTH


def _make(home: Path) -> tuple[int, Path]:
    """A new file of sums, its room on the disk taken. It gets its name once it is locked, as a file without a
    lock is one of a dead process."""
    descriptor, name = tempfile.mkstemp(prefix=f".{_PREFIX}", dir=home)
    unnamed = Path(name)
    try:
        unnamed.write_bytes(bytes(SLOTS * _WIDTH))
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor, unnamed.rename(home / unnamed.name[1:])
    except OSError:
        os.close(descriptor)
        unnamed.unlink()
        raise


@contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    """A file of sums, to be read; None if whoever kept it has ended, and it is removed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
        yield None
    except BlockingIOError:
        yield descriptor
    finally:
        os.close(descriptor)
