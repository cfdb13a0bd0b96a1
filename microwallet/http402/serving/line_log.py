"""Lines of a log, written beside the work: whoever reads them slowly, or not at all, holds nothing up."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

KEPT_LINES = 10_000
"""Lines that wait for their reader; later ones are lost, and counted."""
WHOLE = 4096
"""Bytes that a pipe takes in one piece, so that no line of another process gets between."""
COLLECT_SECONDS = 0.05
CLOSE_SECONDS = 1.0

Details = Mapping[str, Any]
Text = Callable[[str, Details], str]
"""An event as a line for a person."""


def write_line(descriptor: int, event: str, details: Details, text: Text | None = None) -> None:
    """One line at once, for whoever has nothing else to do."""
    with suppress(OSError):  # nobody reads any more
        _write_all(descriptor, _encoded(_line(event, details, text)))


class LineLog:
    """Events as lines to a file descriptor: JSON objects, or what `text` makes of them.

    Any thread may write. Make it after a fork, never before.
    """

    def __init__(self, descriptor: int, text: Text | None = None) -> None:
        self._descriptor = descriptor
        self._text = text
        self._lines: deque[str] = deque()
        self._lost = 0
        self._some = threading.Event()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def __call__(self, event: str, details: Details) -> None:
        """Log what happened."""
        if len(self._lines) >= KEPT_LINES:
            self._lost += 1
            return
        self._lines.append(_line(event, details, self._text))
        if not self._some.is_set():
            self._some.set()

    def close(self) -> None:
        """Write what waits, if somebody reads it."""
        self._ending = True
        self._some.set()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while not (self._ending and not self._lines):
            self._some.wait()
            self._some.clear()
            if not self._ending:
                time.sleep(COLLECT_SECONDS)
            try:
                self._write()
            except OSError:  # nobody reads any more
                self._lines.clear()

    def _write(self) -> None:
        piece = b""
        while self._lines:
            line = _encoded(self._lines.popleft())
            if len(piece) + len(line) > WHOLE:
                _write_all(self._descriptor, piece)
                piece = b""
            piece += line
        if self._lost:
            lost, self._lost = self._lost, 0
            piece += _encoded(_line("lines-lost", {"lines": lost}, self._text))
        _write_all(self._descriptor, piece)


def _line(event: str, details: Details, text: Text | None) -> str:
    if text is not None:
        return text(event, details) + "\n"
    return json.dumps({"event": event, "time": int(time.time()), **details}) + "\n"


def _encoded(line: str) -> bytes:
    """A line as it is written; the bytes of a path that are no text, in other letters."""
    return line.encode(errors="backslashreplace")


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
