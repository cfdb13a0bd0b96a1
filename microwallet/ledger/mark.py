"""A counter beside the ledger, by which an older copy put in its place is recognised."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

_WIDTH = 20
_LIMIT = 2**62
"""No ledger ever gets so far: what is beyond is no mark."""


class Mark:
    """The highest generation a ledger ever had, as a small file. Never ahead of that ledger."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> int | None:
        """The generation marked, or None if there is no readable mark."""
        try:
            return _number(self.path.read_bytes())
        except OSError:
            return None

    def write(self, number: int) -> None:
        """Mark a generation that has been committed; the mark never falls, whoever writes last.

        A mark that cannot be written is no error: the money is recorded, only a later rollback
        would go unnoticed.
        """
        try:
            descriptor = os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600)
        except OSError:
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # of this descriptor: threads queue for it too
            marked = _number(os.pread(descriptor, _WIDTH + 1, 0))
            if marked is None or marked < number:
                os.pwrite(descriptor, f"{number:0{_WIDTH}d}".encode(), 0)
                os.ftruncate(descriptor, _WIDTH)
        except OSError:
            return
        finally:
            os.close(descriptor)


def _number(content: bytes) -> int | None:
    if len(content) > _WIDTH or not content.isdigit() or int(content) > _LIMIT:
        return None
    return int(content)
