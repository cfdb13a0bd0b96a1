"""A counter beside the ledger, by which an older copy put in its place is recognised."""

from __future__ import annotations

import os
from pathlib import Path

_WIDTH = 20


class Mark:
    """The ledger's generation as a small file. Never ahead of the ledger it was written for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> int | None:
        """The generation marked, or None if there is no readable mark."""
        try:
            return int(self.path.read_bytes())
        except (OSError, ValueError):
            return None

    def write(self, number: int) -> None:
        """Mark a generation that has been committed. A mark that cannot be written is no error:
        the money is recorded, only a later rollback would go unnoticed."""
        try:
            descriptor = os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o600)
        except OSError:
            return
        try:
            os.pwrite(descriptor, f"{number:0{_WIDTH}d}".encode(), 0)
        except OSError:
            return
        finally:
            os.close(descriptor)
