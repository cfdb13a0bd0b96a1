"""A command whose stdout takes nothing: a disk that is full, a reader that has gone."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Home

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no device that is full")


def into_full(home: Home, *words: object) -> tuple[int, list[str]]:
    """The exit code and the lines on stderr of a command whose stdout is full."""
    with FULL.open("wb") as full:
        return _into(full.fileno(), home, words)


def into_nowhere(home: Home, *words: object) -> tuple[int, list[str]]:
    """The same where nobody reads it."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        return _into(writing, home, words)
    finally:
        os.close(writing)


def _into(stdout: int, home: Home, words: tuple[object, ...]) -> tuple[int, list[str]]:
    process = home.start(*words, stdout=stdout, stderr=subprocess.PIPE)
    with process.stderr as stderr:
        said = stderr.read().decode()
    return process.wait(timeout=20), said.splitlines()
