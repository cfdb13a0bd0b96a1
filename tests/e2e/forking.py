"""Runs `microwallet` in processes forked from one that has imported it: imports are most of a command's time.

Each command is a process of its own all the same, with its own environment, folder, streams, locks and exit.
What a command imports and how it starts is for tests that start the installed program, as the long run always
does.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

IMPORTED_LATE = (
    "eth_abi.abi",
    "http.client",
    "json",
    "platformdirs",
    "rich.console",
    "rlp",
    "tomllib",
    "uuid",
)
"""What commands import where they need it. Not keyring, which reads the environment when it is imported."""
LARGEST_COMMAND = 200_000
NUMBER_WIDTH = 20
"""Of a process's id and its exit code, as a pipe carries them."""


class ForkServer:
    """The process that forks; it ends when the one that made it does, if not before."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(theirs.fileno())],
                env=self._environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    def close(self) -> None:
        """End the process; a command that runs goes on."""
        self._control.close()
        self._process.wait()

    def can_run(self, environment: Mapping[str, str]) -> bool:
        """Whether a command with this environment can be forked: not if Python would start otherwise."""
        return _for_python(environment) == _for_python(self._environment)

    def run(
        self, words: Sequence[str], environment: Mapping[str, str], folder: Path, input: bytes, timeout: float
    ) -> subprocess.CompletedProcess[bytes]:
        """As subprocess.run with captured output; in files, since a command may leave a child behind."""
        with (
            tempfile.TemporaryFile() as stdin,
            tempfile.TemporaryFile() as stdout,
            tempfile.TemporaryFile() as stderr,
        ):
            stdin.write(input)
            stdin.seek(0)
            command = json.dumps([list(words), dict(environment), str(folder)]).encode()
            code = self._exit_code(command, [stdin, stdout, stderr], timeout)
            output, said = (stream.seek(0) or stream.read() for stream in (stdout, stderr))
        return subprocess.CompletedProcess(words, code, output, said)

    def start(self, words: Sequence[str], environment: Mapping[str, str], folder: Path) -> ForkedCommand:
        """As subprocess.Popen without input and with pipes for its output."""
        command = json.dumps([list(words), dict(environment), str(folder)]).encode()
        with Path(os.devnull).open("rb") as stdin:
            (out, write_out), (err, write_err) = os.pipe(), os.pipe()
            with os.fdopen(write_out, "wb") as stdout, os.fdopen(write_err, "wb") as stderr:
                process, ended = self._fork(command, [stdin, stdout, stderr])
        return ForkedCommand(process, ended, os.fdopen(out, "rb"), os.fdopen(err, "rb"))

    def _exit_code(self, command: bytes, streams: list[IO[bytes]], timeout: float) -> int:
        process, ended = self._fork(command, streams)
        try:
            if not select.select([ended], [], [], timeout)[0]:
                os.kill(process, signal.SIGKILL)
                raise subprocess.TimeoutExpired(command, timeout)
            return int(os.read(ended, NUMBER_WIDTH))
        finally:
            os.close(ended)

    def _fork(self, command: bytes, streams: list[IO[bytes]]) -> tuple[int, int]:
        """The id of a command's process, and a pipe that carries its exit code in the end."""
        ended, tell = os.pipe()
        try:
            socket.send_fds(self._control, [command], [*(stream.fileno() for stream in streams), tell])
        finally:
            os.close(tell)
        return int(os.read(ended, NUMBER_WIDTH)), ended


class ForkedCommand:
    """A command that runs: as much of subprocess.Popen as tests need."""

    def __init__(self, pid: int, ended: int, stdout: IO[bytes], stderr: IO[bytes]) -> None:
        self.pid = pid
        self.stdout = stdout
        self.stderr = stderr
        self.returncode: int | None = None
        self._ended = ended

    def poll(self) -> int | None:
        """The exit code, once it has ended."""
        if self.returncode is None and select.select([self._ended], [], [], 0)[0]:
            self.returncode = int(os.read(self._ended, NUMBER_WIDTH))
            os.close(self._ended)
        return self.returncode

    def wait(self, timeout: float = 60) -> int:
        """The exit code; TimeoutExpired if there is none in time."""
        if self.returncode is None and not select.select([self._ended], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("microwallet", timeout)
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


def _for_python(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that Python reads when it starts."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(("PYTHON", "LC_", "LANG")) and name != "PYTHON_KEYRING_BACKEND"
    }


def _serve(control: socket.socket) -> None:
    """Fork a command for each message; returns in the process that is to become one, or exits."""
    import microwallet

    for module in pkgutil.walk_packages(microwallet.__path__, "microwallet."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in IMPORTED_LATE:
        importlib.import_module(name)
    assert "keyring" not in sys.modules
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        command, descriptors, *_ = socket.recv_fds(control, LARGEST_COMMAND, 4)
        if not command:
            os._exit(0)
        if os.fork() == 0:
            control.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _watch(command, descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)


def _watch(command: bytes, descriptors: list[int]) -> None:
    """Tell the id of a command's process and, at its end, its exit code; returns in that process."""
    *streams, tell = descriptors
    process = os.fork()
    if process == 0:
        os.close(tell)
        words, environment, folder = json.loads(command)
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.environ.clear()
        os.environ.update(environment)
        time.tzset()
        os.chdir(folder)
        sys.argv = ["microwallet", *words]
        return
    for descriptor in streams:
        os.close(descriptor)
    os.write(tell, b"%*d" % (NUMBER_WIDTH, process))
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    os.write(tell, b"%*d" % (NUMBER_WIDTH, code))
    os._exit(0)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as listening:
        _serve(listening)
    from microwallet.cli.main import run

    run()
