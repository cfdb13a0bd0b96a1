"""Starts and ends Anvil processes: tied to this process, or left running behind it."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from microwallet.errors import NetworkError, PortTaken
from microwallet.escrow.devnet_notes import process_identity
from microwallet.polling import polls

START_SECONDS = 20
STOP_SECONDS = 10

_LISTENING = re.compile(rb"Listening on [0-9.]+:([0-9]+)")
_TAKEN = "Address already in use"

_TIED_TO_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
"""Linux ends the process when the thread that started it ends, SIGKILL included; the rest of the
program is Anvil's own. The check closes the gap in which the parent may have died already."""

_WHEN_TOLD = 'read -r told && exec "$0" "$@" </dev/null'


class AttachedAnvil:
    """An Anvil that ends with this process; call `stop`. On Linux it dies even when we are killed.

    Start it from a thread that lives as long as the chain is needed.
    """

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self._process = process
        self.port = port

    @property
    def pid(self) -> int:
        return self._process.pid

    @classmethod
    def start(cls, anvil: Path, arguments: Sequence[str], *, port: int = 0) -> AttachedAnvil:
        """Start Anvil and wait until it listens. Port 0 means any free one."""
        command = [str(anvil), "--host", "127.0.0.1", "--port", str(port), *arguments]
        if sys.platform == "linux":
            command = [sys.executable, "-I", "-S", "-c", _TIED_TO_PARENT, str(os.getpid()), *command]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,  # Ctrl-C reaches us alone; we end Anvil in order
        )
        assert process.stdout is not None  # noqa: S101
        try:
            return cls(process, _listening_port(process.stdout, port))
        except BaseException:
            _end_child(process)
            raise

    def stop(self) -> None:
        """End it. Does nothing the second time."""
        _end_child(self._process)


@contextmanager
def start_detached(
    anvil: Path, arguments: Sequence[str], *, port: int, log: Path
) -> Iterator[tuple[int, str]]:
    """Start Anvil so that it outlives this process and its terminal; its pid and identity.

    It begins when the block is left in order, so what the block writes down is never too late. When
    the block fails, or this process is killed in it, Anvil never runs.
    """
    command = [str(anvil), "--host", "127.0.0.1", "--port", str(port), "--silent", *arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["/bin/sh", "-c", _WHEN_TOLD, *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
        )
    assert process.stdin is not None  # noqa: S101
    try:
        with process.stdin as line:
            identity = process_identity(process.pid)
            if identity is None:
                raise start_failure(log, port)
            yield process.pid, identity
            line.write(b"go\n")
    except BaseException:
        process.wait()
        raise
    process.returncode = 0  # from here on it is nobody's child


def start_failure(log: Path, port: int) -> NetworkError:
    """Why a detached Anvil ended right after its start."""
    try:
        said = log.read_text(errors="replace").splitlines()
    except OSError:
        said = []
    return _failure([line for line in said if line.strip()], port)


def end_process(pid: int, identity: str) -> bool:
    """End a detached Anvil and wait until it is gone; False if it was gone already.

    A process that is another one by now, under the same number, is left alone.
    """
    for ending in (signal.SIGTERM, signal.SIGKILL):
        if process_identity(pid) != identity:
            return ending is not signal.SIGTERM
        try:
            os.kill(pid, ending)
        except ProcessLookupError:
            continue
        for _ in polls(within=STOP_SECONDS, every=0.01):
            if process_identity(pid) != identity:
                return True
    return True


def _listening_port(output: IO[bytes], port: int) -> int:
    """Read until Anvil says where it listens, and keep the pipe drained from then on."""
    found: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    recent: deque[str] = deque(maxlen=20)

    def drain() -> None:
        listening = False
        with output:
            for line in output:
                if listening:
                    continue
                match = _LISTENING.search(line)
                if match:
                    listening = True
                    found.put(int(match[1]))
                elif line.strip():
                    recent.append(line.decode(errors="replace").strip())
        found.put(None)

    threading.Thread(target=drain, name="anvil output", daemon=True).start()
    try:
        actual = found.get(timeout=START_SECONDS)
    except queue.Empty:
        raise NetworkError(
            f"Anvil did not start within {START_SECONDS} s", hint="microwallet doctor"
        ) from None
    if actual is None:
        raise _failure(list(recent), port)
    return actual


def _failure(said: list[str], port: int) -> NetworkError:
    if any(_TAKEN in line for line in said):
        return port_taken(port, "another program")
    reason = said[-1].removeprefix("Error: ") if said else "it gave no reason"
    return NetworkError(f"Anvil ended while it started: {reason}", hint="microwallet doctor")


def port_taken(port: int, by: str) -> PortTaken:
    """The error for a port that is in use."""
    free = port + 1 if port < 65535 else port - 1
    return PortTaken(f"port {port} is taken by {by}", hint=f"microwallet devnet up --port {free}")


def _end_child(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
