"""A payer and a payee to try things with: homes in a throw-away folder, on a throw-away chain."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from microwallet.config import Configuration, Paths
from microwallet.devnet.local_chain import LocalChain, local_chain
from microwallet.keys.os_keyring import NO_KEYRING
from microwallet.keys.private_files import create_private_file
from microwallet.wallet import Wallet

PAYER_USDC = 100 * 10**6
_COIN = 10**18


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Two homes that need nothing but their path: network, chain and password are in their settings."""

    payer: Path
    payee: Path

    def open_payee(self) -> Wallet:
        """The payee's wallet."""
        return _open(self.payee)


@contextmanager
def trial(anvil: Path) -> Iterator[Trial]:
    """A chain and two funded homes, all of which is gone when the block ends."""
    with tempfile.TemporaryDirectory(prefix="microwallet-try-") as name, local_chain(anvil) as chain:
        folder = Path(name)
        create_private_file(folder / "password", secrets.token_hex(16) + "\n")
        for role in ("payer", "payee"):
            _prepare(folder / role, folder / "password", chain)
        yield Trial(payer=folder / "payer", payee=folder / "payee")


def _prepare(home: Path, password: Path, chain: LocalChain) -> None:
    with _open(home) as wallet:
        with wallet.configuration.editing() as settings:
            settings |= {"network": "anvil", "rpc-url": chain.rpc_url, "password-file": str(password)}
        address = wallet.accounts.create(home.name).address
    chain.node.add_native(address, _COIN)
    chain.node.mint(chain.token, address, PAYER_USDC)


def _open(home: Path) -> Wallet:
    environment = {"MICROWALLET_HOME": str(home), **NO_KEYRING}
    paths = Paths.from_environment(environment)
    return Wallet(paths, Configuration(paths, environment), environment=environment)
