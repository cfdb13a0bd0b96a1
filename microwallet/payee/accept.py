"""Accepting vouchers: every check the draft asks for, then the best one of each channel, durably.

draft-evm-session-00, section "Voucher Verification". Cheap checks come first; the chain is asked
once a channel, for all new channels of a batch in one call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Protocol

from microwallet.domain.channel import NO_CHANNEL, ChannelDescriptor, ChannelState, PayeeChannel
from microwallet.domain.handed_over import Counted, HandedOver
from microwallet.domain.identifiers import Address, ChainId, ChannelId
from microwallet.domain.money import Asset
from microwallet.domain.voucher import (
    SIGNATURE_LENGTH,
    SignatureError,
    SignerCheck,
    VoucherDigest,
)
from microwallet.domain.voucher_document import MalformedVoucher, VoucherDocument, VoucherReader
from microwallet.ledger.vouchers import Accepted, Vouchers
from microwallet.payee.tally import WRONG_ID, Rejection, Tally, rejection_by_state

_Numbered = tuple[int, VoucherDocument]
"""A voucher, and the number of the line it came in."""


class Chain(Protocol):
    """What accepting asks of the chain."""

    def states(
        self, escrow_contract: Address, channel_ids: Sequence[ChannelId]
    ) -> Mapping[ChannelId, ChannelState]:
        """States in one escrow as confirmed: deposits only as far as they have the confirmations wanted."""

    def is_valid_signature(
        self, escrow_contract: Address, signer: Address, digest: bytes, signature: bytes
    ) -> bool:
        """Whether a contract signer says yes (ERC-1271); False if `signer` has no code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptancePolicy:
    """What a payee accepts at all."""

    chain_id: ChainId
    escrow_contracts: frozenset[Address]
    payees: frozenset[Address]
    assets: Mapping[Address, Asset]
    """The assets worth anything to the payee, by token: anybody can make a token and pay with it."""
    allow_contract_signers: bool = False
    state_lifetime: int = 5
    """Seconds for which the chain's answer about a channel is taken for current."""


@dataclass(slots=True, kw_only=True)
class _Known:
    """A channel met in this stream: its checks prepared, the chain's state of it."""

    descriptor: ChannelDescriptor
    digest: VoucherDigest
    is_by_signer: SignerCheck
    state: ChannelState = NO_CHANNEL
    state_at: int | None = None
    """When the chain gave `state`; None until it did."""
    ended_closes: int = 0
    """Accepted.ended_closes before the chain was asked for `state`."""


class _Book:
    """What is accepted on one channel, while the vouchers of a batch are counted."""

    def __init__(self, held: Accepted | None, counted: Counted) -> None:
        self.handed_over = HandedOver(
            authorized=held.authorized if held else 0, spent=held.spent if held else 0, counted=counted
        )
        self.signature = held.signature if held else b""
        """Of the best voucher."""
        self.has_counted = False

    def count(self, document: VoucherDocument, *, settled: int) -> bool:
        """Count a voucher; whether it pays for anything that was not counted before.

        If more is settled than was accepted, a ledger was lost that may have counted what is settled: nothing
        up to there counts.
        """
        handed_over = self.handed_over
        amount, best = document.cumulative_amount, handed_over.authorized
        if amount <= settled and best < settled:
            return False
        counted = handed_over.count(amount, document.payment_start)
        if amount > best:
            self.signature = document.signature
        self.has_counted |= counted > 0
        return counted > 0


class _Rejected(Exception):
    def __init__(self, reason: Rejection, detail: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


class _ClosedMeanwhile(Exception):
    """The payee has ended closing channels since the chain was asked about them."""


class Acceptance:
    """Takes lines of vouchers, a batch at a time; each batch is committed when `take` returns."""

    def __init__(
        self,
        vouchers: Vouchers,
        chain: Chain,
        policy: AcceptancePolicy,
        *,
        clock: Callable[[], int],
        require_key: Callable[[Address], object] = lambda _: None,
    ) -> None:
        """`require_key` raises if the account of a payee was removed meanwhile."""
        self.tally = Tally()
        self._vouchers = vouchers
        self._chain = chain
        self._policy = policy
        self._clock = clock
        self._require_key = require_key
        self._read = VoucherReader().read
        self._known: dict[ChannelId, _Known] = {}

    def take(self, lines: Iterable[bytes], numbers: Iterable[int] | None = None) -> None:
        """Verify lines and commit the best vouchers among them. A bad line costs only itself.

        `numbers` are theirs in the input; from 1 where they are not given.
        Raises NetworkError or LedgerError; earlier batches then stay committed, this one does not.
        """
        tally = Tally()
        numbered = zip(numbers or count(1), lines, strict=False)
        signed = [
            (number, document)
            for number, line in numbered
            if (document := self._signed(number, line, tally)) is not None
        ]
        while signed:
            weighed = tally.copy()
            self._ask_chain({document.channel_id for _, document in signed})
            payable = [one for one in signed if self._is_payable(one, weighed)]
            with suppress(_ClosedMeanwhile):
                self._commit(payable, weighed)
                tally = weighed
                break
        self.tally.add(tally)

    def _signed(self, number: int, line: bytes, tally: Tally) -> VoucherDocument | None:
        """The voucher in a line, if all that needs no chain is right with it."""
        try:
            document = self._read(line)
        except MalformedVoucher as malformed:
            tally.reject(number, Rejection.MALFORMED, detail=str(malformed))
            return None
        try:
            self._check_signature(document)
        except SignatureError as error:
            self._reject((number, document), Rejection.INVALID_SIGNATURE, tally, str(error))
        except _Rejected as rejected:
            if rejected.reason is Rejection.WRONG_TOKEN:
                tally.wrong_token = document.descriptor.token
            self._reject((number, document), rejected.reason, tally, rejected.detail)
        else:
            return document
        return None

    def _reject(
        self, numbered: _Numbered, reason: Rejection, tally: Tally, detail: str | None = None
    ) -> None:
        """Count a line that holds a voucher, with the amount that it claims."""
        number, document = numbered
        descriptor, policy = document.descriptor, self._policy
        is_ours = descriptor.chain_id == policy.chain_id
        asset = policy.assets.get(descriptor.token) if is_ours else None
        tally.reject(number, reason, detail=detail, document=document, asset=asset)

    def _check_signature(self, document: VoucherDocument) -> None:
        known = self._known.get(document.channel_id)
        if known is None or (
            known.descriptor is not document.descriptor and known.descriptor != document.descriptor
        ):
            known = self._meet(document)
        digest = known.digest(document.cumulative_amount)
        if self._policy.allow_contract_signers and len(document.signature) not in (0, SIGNATURE_LENGTH):
            matches = False
        else:
            matches = known.is_by_signer(digest, document.signature)
        if matches:
            return
        signer = document.descriptor.voucher_signer
        if not (
            self._policy.allow_contract_signers
            and self._chain.is_valid_signature(
                document.descriptor.escrow_contract, signer, digest, document.signature
            )
        ):
            raise _Rejected(Rejection.SIGNER_MISMATCH)

    def _meet(self, document: VoucherDocument) -> _Known:
        """Check a descriptor for the first time."""
        descriptor, policy = document.descriptor, self._policy
        if descriptor.chain_id != policy.chain_id:
            raise _Rejected(Rejection.WRONG_CHAIN)
        if descriptor.escrow_contract not in policy.escrow_contracts:
            raise _Rejected(Rejection.WRONG_ESCROW)
        if descriptor.payee not in policy.payees:
            raise _Rejected(Rejection.WRONG_PAYEE)
        if descriptor.channel_id() != document.channel_id:
            raise _Rejected(Rejection.MALFORMED, WRONG_ID)
        if descriptor.token not in policy.assets:
            raise _Rejected(Rejection.WRONG_TOKEN)
        known = _Known(
            descriptor=descriptor,
            digest=VoucherDigest(descriptor.chain_id, descriptor.escrow_contract, document.channel_id),
            is_by_signer=SignerCheck(descriptor.voucher_signer),
        )
        self._known[document.channel_id] = known
        return known

    def _ask_chain(self, channel_ids: set[ChannelId]) -> None:
        now = self._clock()
        fresh = range(now - self._policy.state_lifetime, now + 1)  # not in the future: clocks are set back
        stale: dict[Address, list[ChannelId]] = {}
        for channel_id in channel_ids:
            known = self._known[channel_id]
            if known.state_at not in fresh:
                stale.setdefault(known.descriptor.escrow_contract, []).append(channel_id)
        for escrow_contract, ids in stale.items():
            held = self._vouchers.accepted(ids)
            for channel_id, accepted in held.items():
                self._known[channel_id].ended_closes = accepted.ended_closes
            states = self._chain.states(escrow_contract, ids)
            for channel_id, state in states.items():
                known = self._known[channel_id]
                known.state, known.state_at = state, self._clock()
            # Written down as any look at the chain is: a close of it may have been undone.
            reopened = {one: states[one] for one, row in held.items() if not row.is_open}
            self._vouchers.record_states(reopened, as_of=self._clock())

    def _is_payable(self, numbered: _Numbered, tally: Tally) -> bool:
        """Whether the chain's state of its channel allows a voucher."""
        document = numbered[1]
        known = self._known[document.channel_id]
        rejection = rejection_by_state(document.cumulative_amount, known.state)
        if rejection is not None:
            self._reject(numbered, rejection, tally)
        return rejection is None

    def _commit(self, payable: Sequence[_Numbered], tally: Tally) -> None:
        """Count vouchers against the best ones in the ledger, and store those that are better."""

        def weigh(
            accepted: Mapping[ChannelId, Accepted], counted: Mapping[ChannelId, Counted]
        ) -> Iterable[PayeeChannel]:
            for payee in {document.descriptor.payee for _, document in payable}:
                self._require_key(payee)
            self._forget_closed(accepted)
            books: dict[ChannelId, _Book] = {}
            for number, document in payable:
                channel_id = document.channel_id
                held = accepted.get(channel_id)
                if held is not None and held.is_closing:
                    self._reject((number, document), Rejection.CLOSE_PENDING, tally)
                    continue
                tally.channels[channel_id] = None
                if channel_id not in books:
                    books[channel_id] = _Book(held, counted[channel_id])
                if books[channel_id].count(document, settled=self._known[channel_id].state.settled):
                    tally.accepted += 1
                else:
                    tally.duplicates += 1
            return [self._channel(channel_id, book) for channel_id, book in books.items() if book.has_counted]

        if not payable:
            return
        channel_ids = {document.channel_id for _, document in payable}
        self._vouchers.accept(channel_ids, weigh, now=self._clock())

    def _forget_closed(self, accepted: Mapping[ChannelId, Accepted]) -> None:
        """What the chain said of channels before the payee closed them is worth nothing."""
        outdated = [one for one, row in accepted.items() if row.ended_closes != self._known[one].ended_closes]
        for channel_id in outdated:
            self._known[channel_id].state_at = None
        if outdated:
            raise _ClosedMeanwhile

    def _channel(self, channel_id: ChannelId, book: _Book) -> PayeeChannel:
        known = self._known[channel_id]
        return PayeeChannel(
            channel_id=channel_id,
            descriptor=known.descriptor,
            asset=self._policy.assets[known.descriptor.token],
            state=known.state,
            authorized=book.handed_over.authorized,
            spent=book.handed_over.spent,
            as_of=known.state_at,
            signature=book.signature,
        )
