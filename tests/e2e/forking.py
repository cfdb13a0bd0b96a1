"""Runs `microwallet` in processes forked from one that has imported it: imports are most of a command's time.

Programs of the tests' own that import it are run the same way. Each is a process of its own all the same,
with its own environment, folder, streams, locks and exit. What a command imports and how it starts is for
tests that start the installed program, as the long run always does.
"""

from __future__ import annotations

import functools
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any, Self

IMPORTED_LATE = (
    "cryptography.hazmat.primitives.ciphers.algorithms",
    "cryptography.hazmat.primitives.ciphers.base",
    "cryptography.hazmat.primitives.ciphers.modes",
    "encodings.idna",
    "eth_abi.abi",
    "http.client",
    "json",
    "platformdirs",
    "pydantic.type_adapter",
    "rich.console",
    "rlp",
    "tomli_w",
    "tomllib",
    "typer._adapters",
    "typer._click.decorators",
    "uuid",
)
"""What commands import where they need it. Not keyring, which reads the environment when it is imported."""
CHEAP = 2
"""Scrypt's n for new key files: the real one takes a second at each use, and is for the long run."""
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
            streams = [stream.fileno() for stream in (stdin, stdout, stderr)]
            code = self._exit_code(command, streams, timeout)
            output, said = (stream.seek(0) or stream.read() for stream in (stdout, stderr))
        return subprocess.CompletedProcess(words, code, output, said)

    def start(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        *,
        text: bool = False,
        **streams: int | IO[Any] | None,
    ) -> ForkedCommand:
        """As subprocess.Popen with `stdin`, `stdout` and `stderr` as it takes them."""
        command = json.dumps([list(words), dict(environment), str(folder)]).encode()
        theirs: list[int] = []
        ours: list[IO[Any] | None] = []
        with ExitStack() as passed:
            for number, name in enumerate(("stdin", "stdout", "stderr")):
                stream, end = streams.get(name), None
                if stream is None:
                    theirs.append(number)
                elif stream == subprocess.PIPE:
                    reading, writing = os.pipe()
                    theirs.append(reading if number == 0 else writing)
                    passed.callback(os.close, theirs[-1])
                    mode = ("w" if number == 0 else "r") + ("" if text else "b")
                    end = os.fdopen(writing if number == 0 else reading, mode)
                elif stream == subprocess.DEVNULL:
                    theirs.append(os.open(os.devnull, os.O_RDWR))
                    passed.callback(os.close, theirs[-1])
                elif stream == subprocess.STDOUT:
                    theirs.append(theirs[1])
                else:
                    theirs.append(stream if isinstance(stream, int) else stream.fileno())
                ours.append(end)
            process, ended = self._fork(command, theirs)
        return ForkedCommand(process, ended, *ours)

    def install(self, program: Path) -> int:
        """Make `microwallet` a program for shells that inherit a descriptor: that one."""
        control = self._control.fileno()
        words = [sys.executable, "-I", "-S", str(Path(__file__).with_name("forked_command.py")), str(control)]
        program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        program.chmod(0o755)
        return control

    def _exit_code(self, command: bytes, streams: list[int], timeout: float) -> int:
        process, ended = self._fork(command, streams)
        try:
            if not select.select([ended], [], [], timeout)[0]:
                os.kill(process, signal.SIGKILL)
                raise subprocess.TimeoutExpired(command, timeout)
            return int(os.read(ended, NUMBER_WIDTH))
        finally:
            os.close(ended)

    def _fork(self, command: bytes, streams: list[int]) -> tuple[int, int]:
        """The id of a command's process, and a pipe that carries its exit code in the end."""
        ended, tell = os.pipe()
        try:
            socket.send_fds(self._control, [command], [*streams, tell])
        finally:
            os.close(tell)
        return int(os.read(ended, NUMBER_WIDTH)), ended


class ForkedCommand:
    """A command that runs: as much of subprocess.Popen as tests need."""

    def __init__(
        self,
        pid: int,
        ended: int,
        stdin: IO[Any] | None,
        stdout: IO[Any] | None,
        stderr: IO[Any] | None,
    ) -> None:
        self.pid = pid
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.returncode: int | None = None
        self._ended = ended

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        self.wait()

    def communicate(self, input: Any = None, timeout: float = 60) -> tuple[Any, Any]:
        """Give it its last input, and take what it still writes; ended if that takes too long."""
        with ThreadPoolExecutor(3) as pool:
            if self.stdin is not None:
                pool.submit(self._feed, input)
            reading = [stream and pool.submit(stream.read) for stream in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
            said, chatter = (one and one.result() for one in reading)
        for stream in (self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        return said, chatter

    def _feed(self, input: Any) -> None:
        with suppress(BrokenPipeError), self.stdin:
            if input is not None:
                self.stdin.write(input)

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
            with suppress(ProcessLookupError):  # it has ended just now
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

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


def _import_all() -> None:
    """Import what commands do; their collector leaves that alone."""
    import microwallet

    for module in pkgutil.walk_packages(microwallet.__path__, "microwallet."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in IMPORTED_LATE:
        importlib.import_module(name)
    assert "keyring" not in sys.modules
    keystore = importlib.import_module("microwallet.keys.keystore")
    keystore.STANDARD_COST = keystore.LIGHT_COST = CHEAP
    _build_commands()
    gc.freeze()


def _build_commands() -> None:
    """Make the parsers of all commands, which depend on nothing: a half of what a small command does."""
    import typer

    from microwallet.cli.main import app

    typer.main.get_command = functools.cache(typer.main.get_command)
    commands = typer.main.get_command(app).commands
    for name in commands:
        commands[name]  # made when it is asked for


def _serve(control: socket.socket) -> None:
    """Fork a command for each message, and tell how it ends; returns in the process that is to become one."""
    running: dict[int, tuple[int, int]] = {}
    """Commands by the descriptor that tells of their end: the process, and where its exit code goes."""
    waiting = select.poll()
    waiting.register(control, select.POLLIN)
    while True:
        for descriptor, _ in waiting.poll():
            if descriptor in running:
                waiting.unregister(descriptor)
                _tell_end(descriptor, *running.pop(descriptor))
                continue
            command, descriptors, *_ = socket.recv_fds(control, LARGEST_COMMAND, 4)
            if not command:
                os._exit(0)
            *streams, tell = descriptors
            process = os.fork()
            if process == 0:
                control.close()
                for other, (_process, told) in running.items():
                    os.close(other)
                    os.close(told)
                os.close(tell)
                _become(command, streams)
                return
            for stream in streams:
                os.close(stream)
            os.write(tell, b"%*d" % (NUMBER_WIDTH, process))
            ended = os.pidfd_open(process)
            running[ended] = process, tell
            waiting.register(ended, select.POLLIN)


def _tell_end(ended: int, process: int, tell: int) -> None:
    """A command has ended: its exit code is told, to whoever still wants it."""
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    with suppress(BrokenPipeError):
        os.write(tell, b"%*d" % (NUMBER_WIDTH, code))
    os.close(ended)
    os.close(tell)


def _become(command: bytes, streams: Sequence[int]) -> None:
    """Take a command's streams, environment, folder and words."""
    words, environment, folder = json.loads(command)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.chdir(folder)
    sys.argv = words


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as listening:
        _import_all()
        _serve(listening)
    if sys.argv[0].endswith(".py"):
        sys.path.insert(0, str(Path(sys.argv[0]).parent))
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        from microwallet.cli.main import run

        run()
