"""What an account has: on chain, locked in channels, authorized, and free to authorize."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from microwallet.domain.channel import PayeeChannel, PayerChannel
from microwallet.domain.identifiers import Address
from microwallet.domain.money import Asset


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """One account's money in one asset, base units."""

    address: Address
    asset: Asset
    on_chain: int | None
    """None when the chain was not asked."""
    locked: int
    """Deposits of live channels, less what has been settled."""
    authorized: int
    """The part of `locked` that vouchers promise to payees."""
    unsettled: int
    """What accepted vouchers of other payers are worth and have not paid yet."""

    @property
    def free(self) -> int:
        """The part of `locked` that no voucher promises."""
        return self.locked - self.authorized


def balances(
    addresses: Sequence[Address],
    assets: Iterable[Asset],
    on_chain: dict[tuple[Address, Address], int],
    paying: Iterable[PayerChannel],
    paid: Iterable[PayeeChannel],
) -> list[Balance]:
    """The balances of accounts in the assets given and those of their channels.

    `on_chain` holds base units by (token, owner).
    """
    paying, paid = list(paying), list(paid)
    known = {asset.token: asset for asset in assets}
    found = []
    for address in addresses:
        ours = [channel for channel in paying if channel.descriptor.payer == address]
        owed = [channel for channel in paid if channel.descriptor.payee == address]
        held = known | {
            channel.asset.token: known.get(channel.asset.token, channel.asset) for channel in (*ours, *owed)
        }
        for token, asset in held.items():
            of_token = [channel for channel in ours if channel.asset.token == token]
            found.append(
                Balance(
                    address=address,
                    asset=asset,
                    on_chain=on_chain.get((token, address)),
                    locked=sum(channel.state.refundable for channel in of_token),
                    authorized=sum(_promised(channel) for channel in of_token),
                    unsettled=sum(channel.unsettled for channel in owed if channel.asset.token == token),
                )
            )
    return found


def _promised(channel: PayerChannel) -> int:
    """What vouchers can still take out of a channel: all, where the highest one is not known."""
    authorized = channel.authorized if channel.voucher_known else channel.state.deposit
    return max(0, min(authorized, channel.state.deposit) - channel.state.settled)
