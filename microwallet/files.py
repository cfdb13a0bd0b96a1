"""Files for their owner alone, of which a reader sees all or nothing, whenever the power goes."""

from __future__ import annotations

import os
import shlex
from contextlib import suppress
from pathlib import Path


def replace_file(path: Path, content: str) -> None:
    """Write a file, mode 0600, in place of the one there; durable when it returns. OSError leaves the old."""
    temporary = write_temporary(path, content)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_temporary(path: Path, content: str) -> Path:
    """Write what is to be at `path`, to a file beside it; OSError leaves none."""
    temporary = path.with_name(f".new-{os.urandom(8).hex()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(descriptor, 0o600)  # whatever the umask took away from the owner
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    return temporary


def sync_folder(folder: Path) -> None:
    """Make durable which names a folder has."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def typed_path(text: str) -> Path:
    """A path as a person types it; ~ is a home folder, where there is such a user, as for a shell."""
    return Path(os.path.expanduser(text))  # noqa: PTH111  # that of pathlib raises where there is none


def shell_path(path: Path | str) -> str:
    """A path as a shell takes it, for hints: folders of people have spaces."""
    return shlex.quote(str(path))


def move_away(path: Path) -> str:
    """What takes a file out of the way, and keeps it."""
    return f"mv {shell_path(path)} {shell_path(path)}.old"


def look_at(folder: Path, *more: Path) -> str:
    """What shows why nothing can be written in a folder: whose it is, and how much room is left."""
    return f"ls -ld {shlex.join(map(str, (folder, *more)))}; df -h {shell_path(folder)}"
