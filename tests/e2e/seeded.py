"""A home with an open channel that no chain knows: all that paying needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from microwallet.domain.channel import NO_CHANNEL, ChannelDescriptor, PayerChannel
from microwallet.domain.identifiers import ChainId, checksum_address
from microwallet.domain.money import Asset
from microwallet.domain.voucher import SignerCheck, VoucherDigest
from microwallet.domain.voucher_document import VoucherReader
from microwallet.keys.voucher_keys import derive_voucher_key
from microwallet.wallet import Wallet

if TYPE_CHECKING:
    from conftest import Home

PAYEE = checksum_address(b"\x44" * 20)
TOKEN = checksum_address(b"\x55" * 20)
USDC = Asset(chain_id=ChainId(31337), token=TOKEN, symbol="USDC", decimals=6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeded:
    """A home and its channel."""

    home: Home
    channel: PayerChannel

    def open_wallet(self) -> Wallet:
        """The home's wallet, in this process."""
        return Wallet.open(environment=self.home.environment)

    def authorized(self) -> int:
        """The highest cumulative amount the ledger knows to be signed."""
        with self.open_wallet() as wallet:
            return wallet.ledger.channels.find("coffee").authorized

    def amounts(self, output: str) -> list[int]:
        """Cumulative amounts of vouchers, one a line, each rightly signed for this channel."""
        read = VoucherReader().read
        descriptor = self.channel.descriptor
        digest = VoucherDigest(descriptor.chain_id, descriptor.escrow_contract, self.channel.channel_id)
        is_ours = SignerCheck(descriptor.voucher_signer)
        vouchers = [read(line) for line in output.splitlines()]
        for voucher in vouchers:
            assert voucher.descriptor == descriptor
            assert is_ours(digest(voucher.cumulative_amount), voucher.signature)
        return [voucher.cumulative_amount for voucher in vouchers]


def seed(home: Home, *, deposit: int, label: str = "coffee", salt: int = 0x33) -> Seeded:
    """Make an account and a channel with `deposit` base units in a home."""
    if home.address is None:
        home = home.with_account("alice")
    with Wallet.open(environment=home.environment) as wallet:
        account = wallet.account
        text = "0x" + salt.to_bytes(32, "big").hex()
        key = derive_voucher_key(
            wallet.accounts.secret(account.name),
            salt=text,
            chain_id=USDC.chain_id,
            escrow_contract=wallet.escrow_contract,
            payee=PAYEE,
            token=TOKEN,
        )
        descriptor = ChannelDescriptor(
            payer=account.address,
            payee=PAYEE,
            token=TOKEN,
            salt=text,
            authorized_signer=key.address,
            escrow_contract=wallet.escrow_contract,
            chain_id=USDC.chain_id,
        )
        new = PayerChannel.new(descriptor, USDC, label=label, voucher_known=True)
        channel = replace(new, state=replace(NO_CHANNEL, deposit=deposit), as_of=0)
        wallet.voucher_keys.put(channel.channel_id, key, account.store)
        wallet.ledger.channels.add(channel, now=wallet.now())
    return Seeded(home=home, channel=channel)
