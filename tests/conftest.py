"""Homes driven by the real command, and one Anvil a worker that every test gets back as it was."""

from __future__ import annotations

import fcntl
import functools
import gc
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from forking import ForkServer

    from microwallet.devnet.local_chain import LocalChain

REPOSITORY = Path(__file__).parent.parent
PASSWORD = "correct horse battery staple"
IN_CI = os.environ.get("CI") == "true"
EXAMPLES = {"short": 60, "long": 1000}
"""How many each property is tried with; tests whose examples are large take a part of the default's."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the long forms of tests too")


def pytest_configure(config: pytest.Config) -> None:
    """The long run starts every command as users do, and tries each property with more examples."""
    for name, examples in EXAMPLES.items():
        settings.register_profile(name, max_examples=examples, deadline=None)
    settings.load_profile("long" if config.getoption("--long") else "short")
    # What a shell runs in the background is started deaf to interrupts, and so would be what tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # The same for hangups under `nohup`: with a handler this process lives on, and what it starts has none.
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda _number, _frame: None)
    Home.forks = sys.platform.startswith("linux") and not config.getoption("--long")


def pytest_unconfigure() -> None:
    """Leave no process behind."""
    if _fork_server.cache_info().currsize:
        fork_server().close()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported and collected stays to the end: the garbage collector need not look at it, nor at the
    syntax trees on the way there."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Under continuous integration nothing may be missing, so a skipped test has failed."""
    report = yield
    return _skipped_means_failed(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    """The same for a module that skips itself."""
    report = yield
    return _skipped_means_failed(report)


def _skipped_means_failed(report: Any) -> Any:
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which is a failure under CI: {report.longrepr}"
    return report


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """What a command that has ended left behind."""

    arguments: tuple[str, ...]
    exit_code: int
    stdout: str
    stderr: str

    def succeeded(self) -> Self:
        """This, if the command exited with 0."""
        assert self.exit_code == 0, self
        return self

    @property
    def json(self) -> dict[str, Any]:
        """The envelope of a command run with --json; stdout must hold that one document."""
        return json.loads(self.stdout)

    @property
    def data(self) -> dict[str, Any]:
        """What a successful command run with --json tells."""
        assert self.succeeded().json["ok"] is True
        return self.json["data"]

    @property
    def error(self) -> dict[str, Any]:
        """What a failed command run with --json tells; its exit code is the process's."""
        assert self.json["ok"] is False, self
        assert self.json["error"]["exitCode"] == self.exit_code
        return self.json["error"]

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The objects of a command that prints one a line."""
        return [json.loads(line) for line in self.stdout.splitlines()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """One user's MICROWALLET_HOME with a password file, no Secret Service and no terminal."""

    path: Path
    password_file: Path
    address: str | None = None
    """The address of its account, where a fixture made one."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """More environment variables for every command of this home."""
    forks: ClassVar[bool] = False
    """Whether commands may be forked from a process that has imported them."""

    @property
    def environment(self) -> dict[str, str]:
        """The environment of this home's commands."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MICROWALLET_")}
        return {
            **inherited,
            "HOME": str(self.path.parent),
            "MICROWALLET_HOME": str(self.path),
            "MICROWALLET_PASSWORD_FILE": str(self.password_file),
            "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
            "PYTHONPATH": str(REPOSITORY),
            **self.settings,
        }

    def with_account(self, name: str) -> Self:
        """This home with the account of that name, whose address it has.

        Its key is in a keystore of the least cost: a real one takes a second of scrypt at each use.
        """
        from coincurve import PrivateKey

        from microwallet.domain.identifiers import keccak
        from microwallet.domain.voucher import address_of
        from microwallet.keys.keystore import encrypt
        from microwallet.keys.private_files import create_private_file, make_private_folder

        secret = keccak(name.encode())
        folder = self.path / "keys" / "accounts"
        make_private_folder(folder)
        create_private_file(folder / f"{name}.json", json.dumps(encrypt(secret, PASSWORD, cost=2)))
        return replace(self, address=address_of(PrivateKey(secret).public_key))

    def run(
        self,
        *arguments: object,
        input: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 120,
    ) -> Completed:
        """Run `microwallet ARGUMENTS` to its end; `env` adds to the environment."""
        words = tuple(str(argument) for argument in arguments)
        environment = {**self.environment, **(env or {})}
        given = input.encode() if isinstance(input, str) else (input or b"")
        if self.forks and fork_server().can_run(environment):
            done = fork_server().run(["microwallet", *words], environment, self.path.parent, given, timeout)
        else:
            done = subprocess.run(
                [*command_line(), *words],
                input=given,
                capture_output=True,
                env=environment,
                cwd=self.path.parent,
                timeout=timeout,
                check=False,
            )
        return Completed(
            arguments=words,
            exit_code=done.returncode,
            stdout=done.stdout.decode(),
            stderr=done.stderr.decode(),
        )

    def start(self, *arguments: object, env: Mapping[str, str] | None = None, **options: Any) -> Any:
        """Start `microwallet ARGUMENTS` as subprocess.Popen does and leave it running; the caller ends it."""
        return self._start(command_line(), "microwallet", arguments, env, options)

    def start_program(self, program: Path, *arguments: object, **options: Any) -> Any:
        """The same for a Python program."""
        return self._start([sys.executable, str(program)], str(program), arguments, None, options)

    def _start(
        self,
        command: list[str],
        name: str,
        arguments: tuple[object, ...],
        env: Mapping[str, str] | None,
        options: dict[str, Any],
    ) -> Any:
        words = [str(argument) for argument in arguments]
        environment = {**self.environment, **(env or {})}
        if self.forks and fork_server().can_run(environment):
            return fork_server().start([name, *words], environment, self.path.parent, **options)
        return subprocess.Popen([*command, *words], env=environment, cwd=self.path.parent, **options)

    def install(self, folder: Path) -> tuple[int, ...]:
        """Make `microwallet` a program in a folder; the descriptors that a shell must inherit to run it."""
        program = folder / "microwallet"
        if self.forks and fork_server().can_run(self.environment):
            return (fork_server().install(program),)
        program.write_text(f'#!/bin/sh\nexec {shlex.join(command_line())} "$@"\n')
        program.chmod(0o755)
        return ()

    def imports(self, *arguments: object, input: str = "") -> set[str]:
        """The top-level packages that `microwallet ARGUMENTS` imports, told by Python itself."""
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "microwallet", *(str(word) for word in arguments)],
            input=input,
            capture_output=True,
            text=True,
            env=self.environment,
            cwd=self.path.parent,
            check=True,
        )
        lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
        return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def fork_server() -> ForkServer:
    """Forks this worker's commands, whichever of its threads asks first."""
    with _first:
        return _fork_server()


@functools.cache
def _fork_server() -> ForkServer:
    from forking import ForkServer

    return ForkServer({**os.environ, "PYTHONPATH": str(REPOSITORY)})


_first = threading.Lock()


def command_line() -> list[str]:
    """The installed `microwallet`, or the same entry point where the package is not installed."""
    installed = Path(sys.executable).with_name("microwallet")
    if installed.exists():
        return [str(installed)]
    return [sys.executable, "-m", "microwallet"]


def new_home(folder: Path, name: str, chain: LocalChain | None = None, **settings: str) -> Home:
    """An empty home called `name` in a folder, to work on `chain` if there is one."""
    place = folder / name
    place.mkdir()
    password_file = place / "password"
    password_file.write_text(PASSWORD + "\n")
    password_file.chmod(0o600)
    if chain:
        settings["MICROWALLET_RPC_URL"] = chain.rpc_url
    return Home(path=place / "home", password_file=password_file, settings=settings)


@pytest.fixture(scope="session")
def make_home_in() -> Callable[..., Home]:
    """Makes an empty home in a folder that outlives a test."""
    return new_home


@pytest.fixture
def make_home(tmp_path: Path) -> Callable[..., Home]:
    """Makes an empty home: `make_home("alice")`, `make_home("bob", chain)` to work on that chain."""
    return functools.partial(new_home, tmp_path)


@pytest.fixture
def home(make_home: Callable[..., Home]) -> Home:
    """An empty home that knows no chain of ours."""
    return make_home("user")


@pytest.fixture
def run(home: Home) -> Callable[..., Completed]:
    """Runs `microwallet` as a process: `run("balance", "--json").data`, `run(..., home=bob)`."""

    def run_in(*arguments: object, home: Home = home, **options: Any) -> Completed:
        return home.run(*arguments, **options)

    return run_in


@pytest.fixture
def default_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port `devnet up` takes by default, for one test at a time, and those of a gateway and its upstream;
    skipped if somebody else has one of them."""
    with (tmp_path_factory.getbasetemp().parent / "port-8545.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for port in (8545, 8402, 9000):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    pytest.skip(f"something else listens on 127.0.0.1:{port}")
        yield 8545


@pytest.fixture(scope="session")
def anvil() -> Path:
    """The Anvil program; installed in the user's cache folder if it is nowhere else."""
    from microwallet.cli.context import Stderr
    from microwallet.config import Paths
    from microwallet.devnet.anvil import find_anvil

    return find_anvil(os.environ, Paths.from_environment(os.environ).cache, Stderr())


@pytest.fixture(scope="session")
def worker_chain(anvil: Path) -> Iterator[LocalChain]:
    """This worker's Anvil with escrow and test USDC; use `chain`, which cleans up."""
    from microwallet.devnet.local_chain import local_chain

    with local_chain(anvil) as chain:
        yield chain


@pytest.fixture
def chain(worker_chain: LocalChain) -> Iterator[LocalChain]:
    """A local chain with nothing on it but the contracts; what a test does to it is undone."""
    snapshot = worker_chain.rpc.call("evm_snapshot", [])
    yield worker_chain
    assert worker_chain.rpc.call("evm_revert", [snapshot])


@pytest.fixture
def make_wallet(make_home: Callable[..., Home], chain: LocalChain) -> Callable[..., Home]:
    """Makes a home on `chain` with an account of the same name, 10 ETH and 1000 USDC."""

    def make(name: str, *, wei: int = 10**19, usdc: int = 10**9, **settings: str) -> Home:
        home = make_home(name, chain, **settings).with_account(name)
        if wei:
            chain.node.add_native(home.address, wei)
        if usdc:
            chain.node.mint(chain.token, home.address, usdc)
        return home

    return make


@pytest.fixture
def alice(make_wallet: Callable[..., Home]) -> Home:
    """The one who pays."""
    return make_wallet("alice")


@pytest.fixture
def bob(make_wallet: Callable[..., Home]) -> Home:
    """The one who is paid."""
    return make_wallet("bob")
