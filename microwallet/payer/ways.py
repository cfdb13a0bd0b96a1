"""How a deposit reaches the escrow: by signature in one transaction, by approval in two, or as coin."""

from __future__ import annotations

from typing import assert_never

from microwallet.domain.channel import ChannelDescriptor
from microwallet.domain.deposit import Deposit, DepositKind, Way
from microwallet.domain.identifiers import NATIVE_TOKEN, keccak, word
from microwallet.domain.money import Asset
from microwallet.errors import UsageError
from microwallet.escrow import authorizations, calls
from microwallet.escrow.authorizations import Permit, TokenDomain, TransferAuthorization
from microwallet.escrow.calls import Call
from microwallet.escrow.token_features import authorization_state, permit_nonce, token_features
from microwallet.payer.paying_account import PayingAccount


def choose_way(account: PayingAccount, asset: Asset, amount: int, wanted: Way | None) -> Way:
    """The shortest way that the token allows, or the one wanted; UsageError if it has not got that."""
    if asset.is_native:
        if wanted not in (None, Way.NATIVE):
            raise UsageError(f"{asset.symbol} is the chain's own coin: it needs no {wanted}")
        return Way.NATIVE
    if wanted is Way.NATIVE:
        raise UsageError(f"{asset.symbol} is a token, not the chain's own coin")
    if wanted in (None, Way.ALLOWANCE, Way.APPROVE) and _allowance(account, asset) >= amount:
        return Way.ALLOWANCE
    if wanted in (Way.ALLOWANCE, Way.APPROVE):
        return Way.APPROVE
    features = token_features(account.reader, asset.token, asset.chain_id)
    if features.receive_with_authorization and wanted in (None, Way.AUTHORIZATION):
        return Way.AUTHORIZATION
    if features.permit and wanted in (None, Way.PERMIT):
        return Way.PERMIT
    if wanted is not None:
        raise UsageError(f"the token {asset.symbol} ({asset.token}) cannot do {wanted}", hint="--via approve")
    return Way.APPROVE


def way_now(account: PayingAccount, deposit: Deposit, asset: Asset) -> Way:
    """The way of a deposit that was begun earlier: an allowance may have come or gone since.

    A signed transfer stays one, so that the token itself refuses to do it twice.
    """
    if deposit.way in (Way.ALLOWANCE, Way.APPROVE):
        return Way.ALLOWANCE if _allowance(account, asset) >= deposit.amount else Way.APPROVE
    return deposit.way


def signing_ends(account: PayingAccount, way: Way) -> int | None:
    """Unix seconds at which what is signed now for this way expires; None where nothing is."""
    if way not in (Way.AUTHORIZATION, Way.PERMIT):
        return None
    return authorizations.expiry(chain_time=account.reader.head().timestamp, now=account.clock())


def top_up_salt(deposit: Deposit) -> bytes:
    """The salt of a top-up's authorization: the same on every try of one idempotency key."""
    named = b"microwallet top up v1" + word(deposit.channel_id) + deposit.idempotency_key.encode()
    return keccak(named)


def deposit_call(
    account: PayingAccount,
    deposit: Deposit,
    descriptor: ChannelDescriptor,
    way: Way,
    expires_at: int | None,
) -> Call:
    """The call that makes a deposit in this way; for a signed one, the signature is made here."""
    amount, is_open = deposit.amount, deposit.kind is DepositKind.OPEN
    match way:
        case Way.NATIVE | Way.ALLOWANCE | Way.APPROVE:
            plain = calls.open_channel if is_open else calls.top_up
            return plain(descriptor, amount)
        case Way.PERMIT:
            permit = _permit(account, descriptor, amount, expires_at or 0)
            permitted = calls.open_with_permit if is_open else calls.top_up_with_permit
            return permitted(descriptor, amount, permit)
        case Way.AUTHORIZATION:
            signed = authorization(account, deposit, descriptor, expires_at or 0)
            authorized = calls.open_with_authorization if is_open else calls.top_up_with_authorization
            return authorized(descriptor, amount, signed)
    assert_never(way)


def authorization_used(
    account: PayingAccount, deposit: Deposit, descriptor: ChannelDescriptor, block: str | int = "latest"
) -> bool:
    """Whether the token has carried out this deposit's authorization by a block, whoever submitted it."""
    if deposit.way is not Way.AUTHORIZATION or descriptor.token == NATIVE_TOKEN:
        return False
    if deposit.kind is DepositKind.OPEN:
        nonce = authorizations.open_nonce(descriptor)
    else:
        nonce = authorizations.top_up_nonce(descriptor, deposit.amount, top_up_salt(deposit))
    return authorization_state(account.reader, descriptor.token, descriptor.payer, nonce, block)


def _allowance(account: PayingAccount, asset: Asset) -> int:
    return account.reader.allowance(asset.token, account.address, account.reader.escrow_contract)


def _domain(account: PayingAccount, descriptor: ChannelDescriptor) -> TokenDomain:
    domain = token_features(account.reader, descriptor.token, descriptor.chain_id).domain
    if domain is None:
        raise UsageError(f"the token {descriptor.token} no longer takes signatures", hint="--via approve")
    return domain


def _permit(account: PayingAccount, descriptor: ChannelDescriptor, amount: int, deadline: int) -> Permit:
    return authorizations.sign_permit(
        account.secret(),
        _domain(account, descriptor),
        owner=account.address,
        spender=descriptor.escrow_contract,
        value=amount,
        nonce=permit_nonce(account.reader, descriptor.token, account.address),
        deadline=deadline,
    )


def authorization(
    account: PayingAccount, deposit: Deposit, descriptor: ChannelDescriptor, valid_before: int
) -> TransferAuthorization:
    """A deposit's EIP-3009 authorization: whenever it is signed, the token carries out one of them."""
    domain = _domain(account, descriptor)
    if deposit.kind is DepositKind.OPEN:
        return authorizations.authorize_open(
            account.secret(), domain, descriptor, deposit=deposit.amount, valid_before=valid_before
        )
    return authorizations.authorize_top_up(
        account.secret(),
        domain,
        descriptor,
        additional_deposit=deposit.amount,
        top_up_salt=top_up_salt(deposit),
        valid_before=valid_before,
    )
