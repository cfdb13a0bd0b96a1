"""What takes in the vouchers that pay a wallet: those that come, and those that were exported."""

from __future__ import annotations

from microwallet.domain.channel import ChannelDescriptor
from microwallet.domain.identifiers import Address, ChainId
from microwallet.domain.money import Asset
from microwallet.errors import UnknownReference
from microwallet.escrow.deployment import trusted_escrows
from microwallet.escrow.networks import network_of_chain
from microwallet.escrow.tokens import asset_of, known_assets
from microwallet.payee.accept import Acceptance, AcceptancePolicy
from microwallet.payee.backup import Restoration, RestorePolicy
from microwallet.payee.confirmed_chain import ConfirmedChain
from microwallet.wallet import Wallet


def acceptance_of(wallet: Wallet, *, allow_contract_signers: bool = False) -> Acceptance:
    """What checks and keeps the vouchers that pay a wallet on the network in use.

    UnknownReference if the wallet has no account to be paid to.
    """
    policy = AcceptancePolicy(
        chain_id=wallet.network.chain_id,
        escrow_contracts=wallet.trusted_escrows,
        payees=_payees(wallet),
        assets={asset.token: asset for asset in known_assets(wallet.configuration, wallet.network)},
        allow_contract_signers=allow_contract_signers,
    )
    return Acceptance(
        wallet.ledger.vouchers,
        ConfirmedChain(wallet.reader_of, confirmations=wallet.network.confirmations),
        policy,
        clock=wallet.now,
        require_key=wallet.account_of,
    )


def restoration_of(wallet: Wallet, *, allow_contract_signers: bool = False) -> Restoration:
    """What takes exported vouchers back, those that pay a wallet on any network it knows.

    UnknownReference if the wallet has no account to be paid to.
    """

    def is_trusted(chain_id: ChainId, escrow_contract: Address) -> bool:
        return escrow_contract in trusted_escrows(wallet.configuration, chain_id)

    def is_valid(descriptor: ChannelDescriptor, digest: bytes, signature: bytes) -> bool:
        reader = wallet.reader_of(descriptor.escrow_contract)
        return reader.is_valid_signature(descriptor.voucher_signer, digest, signature)

    def known_asset(chain_id: ChainId, token: Address) -> Asset | None:
        network = network_of_chain(wallet.configuration, chain_id)
        return asset_of(wallet.configuration, network, token) if network else None

    policy = RestorePolicy(
        payees=_payees(wallet),
        is_trusted=is_trusted,
        require_key=wallet.account_of,
        is_valid_signature=is_valid if allow_contract_signers else None,
    )
    return Restoration(wallet.ledger.vouchers, policy, known_asset, clock=wallet.now)


def _payees(wallet: Wallet) -> frozenset[Address]:
    payees = frozenset(account.address for account in wallet.accounts.list())
    if not payees:
        raise UnknownReference(
            "this wallet has no account to be paid to", hint="microwallet account create main"
        )
    return payees
