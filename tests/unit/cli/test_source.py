"""Files and stdin, as commands read them."""

from __future__ import annotations

import sys

import pytest

from microwallet.cli.source import read_all
from microwallet.errors import UsageError


def test_a_file_is_read_whole(tmp_path, monkeypatch):
    """Also one that is named from the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "words").write_bytes(b"x" * 100_000)
    for name in (str(tmp_path / "words"), "~/words"):
        assert read_all(name, limit=100_000, what="a key") == b"x" * 100_000


def test_what_is_too_long_or_missing_is_a_usage_error(tmp_path, monkeypatch):
    """A limit of bytes, a folder, no such file, a stdin that is closed: exit 2, not a defect."""
    (tmp_path / "words").write_bytes(b"x" * 100_000)
    with pytest.raises(UsageError, match="too long for a key: over 99999 bytes"):
        read_all(str(tmp_path / "words"), limit=99_999, what="a key")
    for name in (str(tmp_path), str(tmp_path / "nothing")):
        with pytest.raises(UsageError, match="cannot be read"):
            read_all(name, limit=9, what="a key")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="no stdin"):
        read_all("-", limit=9, what="a key")
