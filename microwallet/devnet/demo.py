"""The demo: two homes, a throw-away chain, and the real commands between them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from microwallet.devnet.local_chain import LocalChain
from microwallet.domain.identifiers import Address
from microwallet.domain.money import Amount, Asset
from microwallet.errors import AmountExceedsDeposit, InvalidAmount, MicrowalletError
from microwallet.escrow.reader import EscrowReader
from microwallet.keys.os_keyring import NO_KEYRING

TRANSFER_GAS = 34_000
"""Gas of one plain ERC-20 transfer to an account that holds the token already."""
AUTHORIZED_TRANSFER_GAS = 65_000
"""Gas of one EIP-3009 payment submitted by somebody else."""

Progress = Callable[[str, int], None]
"""Called with what is going on and how many vouchers are through."""


class DemoFailed(MicrowalletError):
    """A command of the demo did not do what it should."""

    code = "demo-failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Balances:
    """Base units of the test USDC by holder."""

    payer: int
    payee: int
    escrow: int

    @property
    def total(self) -> int:
        return self.payer + self.payee + self.escrow


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoReport:
    """What the demo did and what it measured; amounts in base units."""

    payments: int
    amount: Amount
    deposit: int
    channel_id: str
    chain_id: int
    escrow_contract: Address
    on_chain_transactions: int
    open_gas: int
    close_gas: int
    gas_price: int
    captured: int
    refunded: int
    signed_per_second: float
    verified_per_second: float
    before: Balances
    after: Balances

    @property
    def payee_received(self) -> int:
        return self.after.payee - self.before.payee

    @property
    def payer_refunded(self) -> int:
        """What came back of the deposit."""
        return self.after.payer - (self.before.payer - self.deposit)

    @property
    def conserved(self) -> bool:
        """Not one base unit missing, made, or left behind in the escrow."""
        return (
            self.before.total == self.after.total
            and self.after.escrow == self.before.escrow
            and self.payee_received == self.payments * self.amount.base_units == self.captured
            and self.payer_refunded == self.deposit - self.payee_received == self.refunded
        )


class Demo:
    """One run over a chain, with homes in a folder. Every step is a command a person could type."""

    def __init__(self, chain: LocalChain, folder: Path, progress: Progress) -> None:
        self._chain = chain
        self._folder = folder
        self._progress = progress
        self._reader = EscrowReader(chain.rpc, chain.escrow_contract)
        self._asset = Asset(chain_id=chain.chain_id, token=chain.token, symbol="USDC", decimals=6)

    def run(self, *, payments: int, amount: str) -> DemoReport:
        """Open, pay `payments` times `amount`, accept, close; DemoFailed names a command that failed."""
        price = Amount.parse(amount, self._asset)
        deposit = _deposit_for(price, payments)
        payer, payee = self._prepare(deposit)
        before = self._balances(payer, payee)

        self._progress("opening a channel: one transaction", 0)
        opened = self._command("payer", "channel", "open", payee, str(deposit), "--label", "coffee", "--yes")
        vouchers, signed_in = self._sign(payments, price)
        accepted_in = self._accept(vouchers, payments)
        self._progress("closing the channel: one transaction", payments)
        closed = self._command("payee", "payee", "close", "--all", "--yes")
        channel, transaction = closed["channels"][0], closed["transactions"][0]
        return DemoReport(
            payments=payments,
            amount=price,
            deposit=deposit.base_units,
            channel_id=opened["channelId"],
            chain_id=self._chain.chain_id,
            escrow_contract=self._chain.escrow_contract,
            on_chain_transactions=sum(map(self._reader.transaction_count, (payer, payee))),
            open_gas=opened["gasUsed"],
            close_gas=transaction["gasUsed"],
            gas_price=int(self._chain.rpc.call("eth_gasPrice"), 16),
            captured=int(channel["captured"]),
            refunded=int(channel["refunded"]),
            signed_per_second=payments / signed_in,
            verified_per_second=payments / accepted_in,
            before=before,
            after=self._balances(payer, payee),
        )

    def environment(self, role: str) -> dict[str, str]:
        """The environment in which `microwallet` is the payer's or the payee's."""
        return {
            "MICROWALLET_HOME": str(self._folder / role),
            "MICROWALLET_PASSWORD_FILE": str(self._folder / "password"),
            "MICROWALLET_RPC_URL": self._chain.rpc_url,
            **NO_KEYRING,
        }

    def _prepare(self, deposit: Amount) -> tuple[Address, Address]:
        self._progress("making two wallets and giving them test money", 0)
        password_file = self._folder / "password"
        password_file.touch(mode=0o600)
        password_file.write_text("a throw-away password\n")
        addresses = []
        for role in ("payer", "payee"):
            self._command(role, "network", "use", "anvil")
            address = Address(self._command(role, "account", "create", role)["address"])
            self._chain.node.add_native(address, 10**18)
            self._chain.node.mint(self._chain.token, address, deposit.base_units + 10**6)
            addresses.append(address)
        return addresses[0], addresses[1]

    def _sign(self, payments: int, price: Amount) -> tuple[Path, float]:
        """Every voucher into a file; how many seconds the command took."""
        vouchers = self._folder / "vouchers.ndjson"
        begun = time.monotonic()
        arguments = ("pay", "coffee", str(price), "--count", str(payments), "--each")
        with vouchers.open("wb") as file:
            process = self._start("payer", *arguments, stdout=subprocess.PIPE)
            self._copy(process, file.write)
        self._check(process, arguments)
        return vouchers, time.monotonic() - begun

    def _copy(self, process: subprocess.Popen[bytes], write: Callable[[bytes], object]) -> None:
        done = 0
        out = process.stdout
        while out and (chunk := out.read1(1 << 16)):  # type: ignore[attr-defined]
            write(chunk)
            done += chunk.count(b"\n")
            self._progress("signing vouchers off-chain", done)

    def _accept(self, vouchers: Path, payments: int) -> float:
        """The payee verifies and keeps them all; how many seconds the command took."""
        self._progress("verifying and keeping every voucher", 0)
        begun = time.monotonic()
        told = self._command("payee", "payee", "accept", str(vouchers))
        if told["accepted"] != payments:
            raise DemoFailed(f"{told['accepted']} of {payments} vouchers were accepted: {told}")
        return time.monotonic() - begun

    def _command(self, role: str, *arguments: str) -> dict[str, Any]:
        process = self._start(role, *arguments, "--json", stdout=subprocess.PIPE)
        out, _ = process.communicate()
        self._check(process, arguments, out)
        data: dict[str, Any] = json.loads(out)["data"]
        return data

    def _start(self, role: str, *arguments: str, **streams: Any) -> subprocess.Popen[bytes]:
        environment: Mapping[str, str] = {**_inherited(), **self.environment(role)}
        command = [sys.executable, "-m", "microwallet", "--quiet", *arguments]
        return subprocess.Popen(
            command, env=environment, cwd=self._folder, stdin=subprocess.DEVNULL, **streams
        )

    def _check(
        self, process: subprocess.Popen[bytes], arguments: Sequence[str], out: bytes | None = None
    ) -> None:
        if process.wait() != 0:
            said = f": {out.decode(errors='replace').strip()}" if out else ""
            raise DemoFailed(
                f"`microwallet {' '.join(arguments)}` ended with exit code {process.returncode}{said}"
            )

    def _balances(self, payer: Address, payee: Address) -> Balances:
        holders = (payer, payee, self._chain.escrow_contract)
        found = self._reader.balances([(self._chain.token, holder) for holder in holders])
        return Balances(payer=found[0], payee=found[1], escrow=found[2])


def _deposit_for(price: Amount, payments: int) -> Amount:
    """A deposit that all payments fit in, and a quarter more, to see a refund."""
    total = price.base_units * payments
    try:
        return Amount.parse(str(Amount(total + max(total // 4, 1), price.asset)), price.asset)
    except InvalidAmount as error:
        raise AmountExceedsDeposit(f"{payments} x {price} is more than a deposit can hold") from error


def _inherited() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("MICROWALLET_")}
