"""Folders in memory, where a write is durable at once: properties are about order, not about disks."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

MEMORY = Path("/dev/shm")


def folder_in_memory() -> TemporaryDirectory[str]:
    """A new one; on disk where the system has no such place."""
    return TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)
