"""Local chains left running behind the command: started, found again, and ended by their own pid."""

from __future__ import annotations

import fcntl
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from microwallet.devnet.node import AnvilNode
from microwallet.devnet.process import (
    START_SECONDS,
    end_process,
    port_taken,
    start_detached,
    start_failure,
)
from microwallet.domain.ports import Reporter
from microwallet.errors import NetworkError, UsageError
from microwallet.escrow.devnet_notes import Devnet, read_note, running_devnets
from microwallet.escrow.rpc import Rpc
from microwallet.files import replace_file
from microwallet.polling import polls

PROBE_SECONDS = 1
_LISTENING = ".listening"
"""The file that Anvil writes when it has its port."""


class DevnetFolder:
    """The folder of a home in which its running local chains are noted, one file a port.

    The note is written as soon as the process exists, so that a killed `up` leaves a chain that the
    next `up` completes and `down` ends.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def running(self) -> list[Devnet]:
        """The local chains of this home that are alive, lowest port first."""
        return running_devnets(self._folder)

    def up(
        self,
        find_anvil: Callable[[], Path],
        reporter: Reporter,
        *,
        port: int,
        chain_id: int,
        keep_state: bool,
    ) -> Devnet:
        """The local chain of this home at `port`, started if it is not running; it answers.

        Raises PortTaken when something else is there, UsageError when ours is there with other
        settings.
        """
        with self._locked():
            devnet = read_note(self._note(port))
            if devnet is None or not devnet.is_running:
                return self._start(find_anvil(), reporter, port, chain_id, keep_state)
            if devnet.chain_id != chain_id or (keep_state and not devnet.keeps_state):
                kept = "keeps its state" if devnet.keeps_state else "does not keep its state"
                raise UsageError(
                    f"the local chain on port {port} runs already; its chain id is {devnet.chain_id}"
                    f" and it {kept}",
                    hint=f"microwallet devnet down --port {port}",
                )
            return self._complete(devnet)

    def down(self, *, port: int | None = None) -> list[Devnet]:
        """End the local chains of this home, or the one at `port`; the ones that were running."""
        if not self._folder.exists():
            return []
        with self._locked():
            paths = sorted(self._folder.glob("*.json")) if port is None else [self._note(port)]
            notes = [(path, read_note(path)) for path in paths]
            ended = [note for _, note in notes if note and end_process(note.pid, note.identity)]
            for path, _ in notes:
                path.unlink(missing_ok=True)
                path.with_suffix(_LISTENING).unlink(missing_ok=True)
            return ended

    def _start(self, anvil: Path, reporter: Reporter, port: int, chain_id: int, keep_state: bool) -> Devnet:
        _require_free(port)
        reporter.say(f"starting a local chain on port {port}")
        listening = self._note(port).with_suffix(_LISTENING)
        listening.unlink(missing_ok=True)
        arguments = ["--chain-id", str(chain_id), "--config-out", str(listening.absolute())]
        if keep_state:
            # Anvil saves on SIGTERM; the interval is for ends that are less orderly.
            state = self._folder / f"{port}-{chain_id}.state"
            arguments += ["--state", str(state.absolute()), "--state-interval", "1"]
        log = self._log(port)
        with start_detached(anvil, arguments, port=port, log=log) as (pid, identity):
            devnet = Devnet(port=port, chain_id=chain_id, pid=pid, identity=identity, keeps_state=keep_state)
            self._write(devnet)
        try:
            return self._complete(devnet)
        except BaseException:
            end_process(pid, identity)
            self._note(port).unlink(missing_ok=True)
            raise

    def _complete(self, devnet: Devnet) -> Devnet:
        """Wait until it listens, and put the contracts on it where they are missing."""
        log = self._log(devnet.port)
        _wait_until_it_listens(devnet, self._note(devnet.port).with_suffix(_LISTENING), log)
        with Rpc([devnet.rpc_url], timeout=START_SECONDS, chain_id=devnet.chain_id) as rpc:
            contracts = AnvilNode(rpc).deploy_contracts(devnet.chain_id)
        complete = replace(devnet, escrow_contract=contracts.escrow_contract, token=contracts.token)
        if complete != devnet:
            self._write(complete)
        return complete

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One `up` or `down` at a time; the lock goes with the process."""
        try:
            for folder in (self._folder.parent, self._folder):  # mkdir makes parents readable to all
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = (self._folder / ".lock").open("w")
        except OSError as error:
            raise UsageError(
                f"{self._folder} cannot be written: {error.strerror}",
                hint="let MICROWALLET_HOME name a folder of yours",
            ) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _log(self, port: int) -> Path:
        return self._folder / f"{port}.log"

    def _note(self, port: int) -> Path:
        return self._folder / f"{port}.json"

    def _write(self, devnet: Devnet) -> None:
        replace_file(self._note(devnet.port), json.dumps(asdict(devnet)))


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError as error:
            raise UsageError(
                f"port {port} may not be used by this user", hint="microwallet devnet up --port 8545"
            ) from error
        except OSError as error:
            raise port_taken(port, _who_is_at(port)) from error


def _who_is_at(port: int) -> str:
    with Rpc([f"http://127.0.0.1:{port}"], timeout=PROBE_SECONDS) as rpc:
        try:
            version, chain_id = rpc.batch([("web3_clientVersion", ()), ("eth_chainId", ())])
            return f"another chain ({str(version)[:40]}, chain id {int(chain_id, 16)})"
        except (NetworkError, TypeError, ValueError):
            return "another program"


def _wait_until_it_listens(devnet: Devnet, listening: Path, log: Path) -> None:
    """By its own word: what answers at the port may be a program that was faster."""
    for _ in polls(within=START_SECONDS, every=0.01):
        if not devnet.is_running:
            raise start_failure(log, devnet.port)
        if listening.exists():
            return
    raise NetworkError(
        f"the local chain on port {devnet.port} did not answer within {START_SECONDS} s",
        hint="microwallet doctor",
    )
