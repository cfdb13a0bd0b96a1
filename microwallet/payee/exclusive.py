"""Locks between processes of one home; the system gives them back when their holder dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from microwallet.domain.identifiers import Address, ChainId
from microwallet.errors import LedgerUnwritable
from microwallet.files import look_at
from microwallet.polling import polls

_LOOK_SECONDS = 0.02
"""Between two looks whether a lock is free."""
_SETTLING = "payee-settling-{chain_id}-{payee}.lock"


def claims_lock(home: Path, chain_id: ChainId) -> Path:
    """The file whose lock is held while channels of a chain are settled or closed."""
    return home / f"payee-claims-{chain_id}.lock"


def watch_lock(home: Path, chain_id: ChainId) -> Path:
    """The file whose lock a running `payee watch` of a chain holds."""
    return home / f"payee-watch-{chain_id}.lock"


def settling_lock(home: Path, chain_id: ChainId, payee: Address) -> Path:
    """The file whose lock that worker of a gateway holds which settles for all of them, and watches."""
    return home / _SETTLING.format(chain_id=chain_id, payee=payee)


def is_watched(home: Path, chain_id: ChainId) -> bool:
    """Whether a process runs that answers the closes which payers request on a chain."""
    gateways = home.glob(_SETTLING.format(chain_id=chain_id, payee="*"))
    return any(is_held(path) for path in (watch_lock(home, chain_id), *gateways))


def is_sold_for(home: Path, payee: Address) -> bool:
    """Whether a gateway runs that is paid to an account, on whatever chain."""
    return any(is_held(path) for path in home.glob(_SETTLING.format(chain_id="*", payee=payee)))


@contextmanager
def exclusive(path: Path, *, within: float = 0.0) -> Iterator[bool]:
    """Hold the lock of `path` for the block; yields False, without the lock, if it is taken for all of
    `within` seconds."""
    descriptor = _open(path)
    try:
        yield any(_took(descriptor) for _ in polls(within=within, every=_LOOK_SECONDS))
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of `path` now; nothing is written."""
    if not path.exists():
        return False
    descriptor = _open(path, os.O_RDONLY)
    try:
        return not _took(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _took(descriptor: int, how: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open(path: Path, how: int = os.O_CREAT | os.O_RDWR) -> int:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(path, how | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LedgerUnwritable(
            f"{path} cannot be opened: {error.strerror}", hint=look_at(path.parent)
        ) from error
