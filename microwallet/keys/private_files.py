"""Files that only their owner may read: never half written, never overwritten by accident."""

from __future__ import annotations

import os
import shlex
from contextlib import suppress
from pathlib import Path

from microwallet.errors import KeyUnavailable


def make_private_folder(folder: Path) -> None:
    """Create `folder` and what is missing above it, each for its owner alone."""
    if folder.is_dir():
        return
    make_private_folder(folder.parent)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        _sync_folder(folder.parent)
    except OSError as error:
        raise KeyUnavailable(
            f"the folder {folder} cannot be made: {error.strerror}", hint=_look_at(folder.parent, folder)
        ) from error


def create_private_file(path: Path, content: str) -> None:
    """Write a new file, mode 0600, durable when it returns; FileExistsError if there is one.

    The name appears with the whole content or not at all: a crash leaves no half of a key.
    """
    temporary = _write_temporary(path, content)
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink()
    _sync_folder(path.parent)


def replace_private_file(path: Path, content: str) -> None:
    """Write a file, mode 0600, in place of the one there; readers see the old or the new one."""
    temporary = _write_temporary(path, content)
    try:
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _unwritable(path, error) from error
    _sync_folder(path.parent)


def remove_private_file(path: Path) -> None:
    """Remove a file for good; no error if it is gone already."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise KeyUnavailable(f"{path} cannot be removed: {error.strerror}") from error
    _sync_folder(path.parent)


def _write_temporary(path: Path, content: str) -> Path:
    temporary = path.with_name(f".new-{os.urandom(8).hex()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(descriptor, 0o600)  # whatever the umask took away from the owner
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise _unwritable(path, error) from error
    return temporary


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(path: Path, error: OSError) -> KeyUnavailable:
    return KeyUnavailable(f"{path} cannot be written: {error.strerror}", hint=_look_at(path.parent))


def _look_at(folder: Path, *more: Path) -> str:
    """What shows why nothing can be written there: whose it is, and how much room is left."""
    return f"ls -ld {shlex.join(map(str, (folder, *more)))}; df -h {shlex.quote(str(folder))}"
