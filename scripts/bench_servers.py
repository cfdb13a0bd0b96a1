"""Servers for scripts/bench: an application in a process of its own, and where other SDKs are installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.client import HTTPConnection
from pathlib import Path

from bench_load import Unexpected

from microwallet.config import Paths

START_SECONDS = 60.0
NICE = 10
"""Servers wait for the load generator where they share its processor, not it for them."""
SCRIPTS = Path(__file__).parent
PEERS = SCRIPTS / "peers"
_LISTENING = re.compile(r"running on http://127\.0\.0\.1:(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """A factory of an application, and what runs it."""

    factory: str
    """module:function"""
    folder: Path
    """Where the module is."""
    python: Path = field(default_factory=lambda: Path(sys.executable))
    environment: Mapping[str, str] = field(default_factory=dict)


class Server:
    """An application served by uvicorn, on one processor where a system can see to it."""

    def __init__(self, application: Application, process: subprocess.Popen[bytes], port: int) -> None:
        self.application = application
        self.process = process
        self.port = port

    def field(self, name: str) -> str:
        """A header field of the answer to an unpaid request."""
        return self.fields(name, 1)[0]

    def fields(self, name: str, count: int) -> list[str]:
        """A header field of the answers to so many unpaid requests."""
        values: list[str] = []
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=START_SECONDS)) as connection:
            while len(values) < count:
                connection.request("GET", "/")
                answer = connection.getresponse()
                answer.read()
                values += answer.headers.get_all(name, [])
                if not values:
                    raise Unexpected(f"{self.application.factory} answers an unpaid request without {name}")
        return values

    def memory(self) -> float:
        """MiB that the process takes now."""
        told = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(self.process.pid)], stdout=subprocess.PIPE, check=True
        )
        return int(told.stdout) / 1024


@contextmanager
def serving(application: Application, log: Path, *, processor: int) -> Iterator[Server]:
    """Serve an application until the block ends."""

    def pin() -> None:
        os.nice(NICE)
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {processor % (os.cpu_count() or 1)})

    with log.open("wb") as out:
        process = subprocess.Popen(
            [application.python, SCRIPTS / "bench_uvicorn.py", application.factory],
            cwd=application.folder,
            env={**os.environ, **application.environment},
            stdout=out,
            stderr=out,
            preexec_fn=pin,  # noqa: PLW1509
        )
    try:
        yield Server(application, process, _port(process, application, log))
    finally:
        process.terminate()
        process.wait()


def _port(process: subprocess.Popen[bytes], application: Application, log: Path) -> int:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        if match := _LISTENING.search(log.read_text()):
            return int(match[1])
        time.sleep(0.02)
    raise Unexpected(f"{application.factory} does not listen:\n{log.read_text()[-2000:]}")


def environment_of(lock: Path) -> Path | None:
    """The Python of an environment with what a lock file names, made at first use; None if it cannot be."""
    name = f"{lock.stem}-{sha256(lock.read_bytes()).hexdigest()[:12]}"
    folder = Paths.from_environment(os.environ).cache / "bench" / name
    python, done = folder / "bin" / "python", folder / "complete"
    if done.exists():
        return python
    print(f"installing {lock.name} in {folder} (once)", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    venv.create(folder, with_pip=uv is None)
    install = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
    told = subprocess.run(
        [*install, "--quiet", "--require-hashes", "-r", lock], stderr=subprocess.PIPE, text=True, check=False
    )
    if told.returncode:
        print(f"{lock.name} could not be installed:\n{told.stderr[-2000:]}", file=sys.stderr)
        return None
    subprocess.run([python, "-m", "compileall", "-q", folder / "lib"], check=False)
    done.touch()
    return python
