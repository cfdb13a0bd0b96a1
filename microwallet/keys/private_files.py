"""Files that only their owner may read: never half written, never overwritten by accident."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from microwallet.errors import KeyUnavailable
from microwallet.files import look_at, replace_file, sync_folder, write_temporary


def make_private_folder(folder: Path) -> None:
    """Create `folder` and what is missing above it, each for its owner alone."""
    if folder.is_dir():
        return
    make_private_folder(folder.parent)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        sync_folder(folder.parent)
    except OSError as error:
        raise KeyUnavailable(
            f"the folder {folder} cannot be made: {error.strerror}", hint=look_at(folder.parent, folder)
        ) from error


def create_private_file(path: Path, content: str) -> None:
    """Write a new file, mode 0600, durable when it returns; FileExistsError if there is one.

    The name appears with the whole content or not at all: a crash leaves no half of a key.
    """
    with _writing(path):
        temporary = write_temporary(path, content)
        try:
            os.link(temporary, path)
        finally:
            temporary.unlink()
        sync_folder(path.parent)


def replace_private_file(path: Path, content: str) -> None:
    """Write a file, mode 0600, in place of the one there; readers see the old or the new one."""
    with _writing(path):
        replace_file(path, content)


def remove_private_file(path: Path) -> None:
    """Remove a file for good; no error if it is gone already."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise KeyUnavailable(f"{path} cannot be removed: {error.strerror}") from error
    sync_folder(path.parent)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn what the file system raises into KeyUnavailable, but that there is such a file."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise KeyUnavailable(
            f"{path} cannot be written: {error.strerror}", hint=look_at(path.parent)
        ) from error
