"""Private files: for the owner alone, whole or not there, never overwritten."""

import errno
import os
import resource
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from microwallet.errors import KeyUnavailable
from microwallet.keys.private_files import (
    create_private_file,
    make_private_folder,
    remove_private_file,
    replace_private_file,
)


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o777])
def any_umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("write", [create_private_file, replace_private_file])
@pytest.mark.usefixtures("any_umask")
def test_files_are_private_under_any_umask(tmp_path: Path, write) -> None:
    """Mode 0600 from the first moment, and no temporary file stays."""
    write(tmp_path / "key", "content")
    assert mode(tmp_path / "key") == 0o600
    assert list(tmp_path.iterdir()) == [tmp_path / "key"]


def test_every_new_folder_is_private(tmp_path: Path) -> None:
    """Not only the last one of the path."""
    make_private_folder(tmp_path / "home" / "keys" / "accounts")
    assert {mode(tmp_path / one) for one in ("home", "home/keys", "home/keys/accounts")} == {0o700}
    make_private_folder(tmp_path / "home" / "keys")


def test_creating_never_overwrites(tmp_path: Path) -> None:
    """The file that is there stays as it is."""
    create_private_file(tmp_path / "key", "first")
    with pytest.raises(FileExistsError):
        create_private_file(tmp_path / "key", "second")
    assert (tmp_path / "key").read_text() == "first"
    assert list(tmp_path.iterdir()) == [tmp_path / "key"]


def test_replacing_overwrites(tmp_path: Path) -> None:
    """Readers that opened the old file still see the whole old file."""
    create_private_file(tmp_path / "key", "first")
    with (tmp_path / "key").open() as reader:
        replace_private_file(tmp_path / "key", "second")
        assert reader.read() == "first"
    assert (tmp_path / "key").read_text() == "second"


def test_removing_twice_is_fine(tmp_path: Path) -> None:
    """An interrupted removal is repeated."""
    create_private_file(tmp_path / "key", "content")
    remove_private_file(tmp_path / "key")
    remove_private_file(tmp_path / "key")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [create_private_file, replace_private_file])
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, write) -> None:
    """An error with the file's name, and no file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(KeyUnavailable, match="key cannot be written"):
            write(tmp_path / "key", "more than ten bytes")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither can a file be made on it, nor what was not made be removed."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(KeyUnavailable, match="Read-only file system") as refused:
        create_private_file(tmp_path / "key", "content")
    assert refused.value.hint == f"ls -ld {tmp_path}; df -h {tmp_path}"


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """With its name, the reason and what shows more."""
    (tmp_path / "file").touch()
    with pytest.raises(KeyUnavailable, match="file cannot be made: File exists") as refused:
        make_private_folder(tmp_path / "file" / "keys")
    assert refused.value.hint == f"ls -ld {tmp_path} {tmp_path / 'file'}; df -h {tmp_path}"
