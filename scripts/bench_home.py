"""Homes, and commands that are timed from outside, for scripts/bench."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from microwallet.config import Paths
from microwallet.devnet.anvil import find_anvil
from microwallet.devnet.local_chain import LocalChain
from microwallet.domain.ports import Quiet
from microwallet.keys.os_keyring import NO_KEYRING
from microwallet.wallet import Wallet

MICROWALLET = str(Path(sys.executable).with_name("microwallet"))

Row = tuple[str, str, str]
"""What was measured, the figure, and the goal."""


class Home:
    """A home for the bench, with the file store."""

    def __init__(self, folder: Path, chain: LocalChain | None = None) -> None:
        folder.mkdir()
        password = folder / "password"
        password.write_text("bench\n")
        password.chmod(0o600)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MICROWALLET_")}
        self.environment = inherited | {
            "MICROWALLET_HOME": str(folder / "home"),
            "MICROWALLET_PASSWORD_FILE": str(password),
            **NO_KEYRING,
        }
        if chain:
            self.environment["MICROWALLET_RPC_URL"] = chain.rpc_url

    def run(self, *arguments: str, output: Path | None = None) -> float:
        """Run `microwallet`; wall seconds from start to exit."""
        return timed([MICROWALLET, *arguments], self.environment, output)

    def wallet(self) -> Wallet:
        """Its wallet, to be used in a block."""
        return Wallet.open(environment=self.environment)


def anvil() -> Path:
    """The Anvil program, installed if it is nowhere."""
    return find_anvil(os.environ, Paths.from_environment(os.environ).cache, Quiet())


def timed(command: list[str], environment: dict[str, str], output: Path | None = None) -> float:
    """Wall seconds of a command, from start to exit."""
    with (output or Path(os.devnull)).open("wb") as out:
        begun = time.perf_counter()
        subprocess.run(command, env=environment, stdout=out, stderr=subprocess.DEVNULL, check=True)
        return time.perf_counter() - begun


def in_turn(first: Callable[[], float], second: Callable[[], float], rounds: int) -> tuple[float, float]:
    """Medians of two things measured in turn, so that a slow moment hits both."""
    first(), second()
    pairs = [(first(), second()) for _ in range(max(rounds, 5))]
    return statistics.median(one for one, _ in pairs), statistics.median(other for _, other in pairs)
