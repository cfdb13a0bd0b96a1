"""Settling and closing: captures what a payee has planned, one process at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path

from microwallet.domain.channel import ChannelState, PayeeChannel
from microwallet.domain.identifiers import Address, ChainId, ChannelId
from microwallet.domain.ports import Reporter, TransactionJournal
from microwallet.errors import (
    KeyUnavailable,
    LedgerBusy,
    LedgerError,
    NetworkError,
    OutcomeUnknown,
    TransactionReverted,
)
from microwallet.escrow.events import EscrowEvents
from microwallet.escrow.reader import EscrowReader, ReaderOf
from microwallet.escrow.receipt import Receipt
from microwallet.escrow.transactions import TransactionSender
from microwallet.ledger.vouchers import Vouchers
from microwallet.payee.capture_sender import CaptureSender, by_transaction, most_gas
from microwallet.payee.captures import Action, PlannedCapture, Selection
from microwallet.payee.closes import Closes
from microwallet.payee.exclusive import claims_lock, exclusive
from microwallet.payee.in_hand import InHand
from microwallet.payee.lookout import Looked, Lookout
from microwallet.payee.outcome import RUN_AGAIN, Outcome, read_receipt
from microwallet.payee.refresh import refresh
from microwallet.payee.relayer import Relayer

ALONE_SECONDS = 300.0
"""Seconds to wait for another process that settles or closes: a third of the grace period."""
WAIT_SECONDS = 60.0
"""Seconds that a close waits for requests in hand: as long as an upstream may take to answer."""
HURRY_SECONDS = 2.0
"""The same, for a close that the payer asked for."""


class Settlement:
    """Settles and closes the channels of one home on one chain."""

    def __init__(
        self,
        *,
        home: Path,
        chain_id: ChainId,
        vouchers: Vouchers,
        reader_of: ReaderOf,
        journal: TransactionJournal,
        sender_of: Callable[[Address], TransactionSender],
        wait_seconds: float,
        clock: Callable[[], int],
        reporter: Reporter,
        relayer: TransactionSender | None = None,
    ) -> None:
        self._home = home
        self._chain_id = chain_id
        self._vouchers = vouchers
        self._reader_of = reader_of
        self._sender_of = sender_of
        self._journal = journal
        self._wait_seconds = wait_seconds
        self._clock = clock
        self._reporter = reporter
        self._relayer = relayer
        self._in_hand = InHand(home)
        self._closes = Closes(vouchers, chain_id, reader_of, journal)
        self._lookout = Lookout(vouchers, chain_id, reader_of)
        self._unknown: dict[str, OutcomeUnknown] = {}
        """Failures that hold captures back, by the account that sent something and the channel it was for."""

    def resume(self, payees: Iterable[Address]) -> Outcome:
        """Finish the transactions that a crash or a lost answer left open, before anything is planned.

        Returns what they did to channels. If the fate of one stays unknown, `execute` fails for the channels
        that it was for and for all of the account that sent it; nothing else is held back.
        """
        outcome = Outcome()
        self._unknown.clear()
        self._closes.take_back_undone()
        senders = self._unfinished_senders(set(payees))
        if not senders:
            self._end_closes_of_the_dead()
            return outcome
        with self._alone():
            for address, sender in senders.items():
                self._reporter.say(f"finishing what {address} has sent before")
                for resumed in sender.resume_all(wait_seconds=self._wait_seconds):
                    if resumed.purpose not in list(Action):
                        continue
                    if isinstance(resumed.error, OutcomeUnknown):
                        self._unknown[address] = resumed.error
                        if resumed.channel_id is not None:
                            self._unknown[resumed.channel_id] = resumed.error
                    if resumed.receipt is not None:
                        self._read_earlier(resumed.receipt, outcome)
            self._record_closes(outcome)
            self._closes.end_finished()
        return outcome

    def _unfinished_senders(self, payees: set[Address]) -> dict[Address, TransactionSender]:
        """Accounts with something unfinished: payees, and whoever relays or has relayed for them."""
        if self._relayer is not None:
            payees = payees | {self._relayer.address}
        entries = self._journal.unfinished(self._chain_id)
        unfinished = {entry.transaction.sender for entry in entries}
        relaying = {
            entry.transaction.sender for entry in entries if entry.transaction.purpose in list(Action)
        }
        senders: dict[Address, TransactionSender] = {}
        for address in sorted((payees & unfinished) | relaying):
            with suppress(KeyUnavailable):  # an account that was removed
                senders[address] = self._sender_of(address)
        return senders

    def plan(self, selection: Selection) -> list[PlannedCapture]:
        """What there is to do for `selection`, by the chain's newest states. Sends nothing.

        A settle leaves out what is reserved for requests in hand. A close does not, as it waits for them.
        """
        channels = self._refresh(selection.channel_ids or None)
        return selection.plan(self.certain(channels) if selection.action is Action.SETTLE else channels)

    def certain(self, channels: Sequence[PayeeChannel]) -> Sequence[PayeeChannel]:
        """The channels, with only what was charged for certain as `spent`, and no more than their vouchers
        cover: better ones may have come since they were read."""
        if not channels:
            return channels
        charged = self._vouchers.charged([one.channel_id for one in channels], self._in_hand.reserved)
        return [replace(one, spent=min(charged[one.channel_id], one.authorized)) for one in channels]

    def _refresh(self, channel_ids: Iterable[ChannelId] | None) -> Sequence[PayeeChannel]:
        """Those of the channels, of all for None, that can still change, as the chain has them now."""
        return refresh(self._vouchers, self._chain_id, self._reader_of, channel_ids, now=self._clock())

    def look(self) -> Looked:
        """Look at all channels that can still change; returns those that changed or may need something."""
        return self._lookout.look(now=self._clock())

    def record_told(self, channel_ids: Iterable[ChannelId]) -> None:
        """Store that the end of channels was told: later looks do not return it again."""
        self._vouchers.record_told(channel_ids)

    @property
    def states(self) -> Mapping[ChannelId, ChannelState]:
        """What the chain said at the last look of all channels that can still change."""
        return self._lookout.states

    def most_gas(self, action: Action, planned: Sequence[PlannedCapture]) -> int:
        """Gas that executing this uses at most, by all its transactions, as the chain is now."""
        return sum(
            most_gas(self._reader_of(escrow_contract).rpc, action, group, is_relayed=self._is_relayed(payee))
            for payee, escrow_contract, group in _by_sender(planned)
        )

    def by_transaction(self, planned: Iterable[PlannedCapture]) -> Iterator[Sequence[PlannedCapture]]:
        """What is planned, in parts that `execute` sends in a transaction each."""
        for payee, _, group in _by_sender(planned):
            yield from by_transaction(group, is_relayed=self._is_relayed(payee))

    def execute(
        self, action: Action, planned: Sequence[PlannedCapture], *, by_payer: bool = False
    ) -> Outcome:
        """Settle or close what is planned, each payee with its own key, one process at a time.

        Leaves out what another process did meanwhile, and takes what it accepted too. What is reserved for
        requests in hand is taken only in a close `by_payer`: who asked for it must not get for nothing what
        is being served. Failures of single channels or transactions are not raised; they are in the outcome.
        """
        outcome = Outcome()
        with (
            self._alone(),
            self._closing(action, planned, within=HURRY_SECONDS if by_payer else WAIT_SECONDS),
        ):
            concerned = [item.channel.channel_id for item in planned]
            channels = self._refresh(concerned)
            if not by_payer:
                channels = self.certain(channels)
            current = {channel.channel_id: channel for channel in channels}
            still = [
                item.renewed(current[item.channel.channel_id])
                for item in planned
                if item.channel.channel_id in current
            ]
            for payee, escrow_contract, group in _by_sender(self._to_send(action, still, outcome)):
                sender = CaptureSender(
                    payee,
                    rpc=self._reader_of(escrow_contract).rpc,
                    events=self._events_of(escrow_contract),
                    sender_of=self._sender_of,
                    reporter=self._reporter,
                    outcome=outcome,
                    relayer=self._relayer_of(payee, escrow_contract),
                )
                sender.send(action, group)
            if outcome.channels:
                self._record(outcome, concerned)
        return outcome

    def _to_send(
        self, action: Action, still: Sequence[PlannedCapture], outcome: Outcome
    ) -> Sequence[PlannedCapture]:
        """What is due of what was planned and read anew; what may not be sent fails in the outcome."""
        outrun = TransactionReverted("more was settled meanwhile than was to be captured", hint=RUN_AGAIN)
        outcome.fail([item for item in still if item.is_outrun(action)], outrun)
        less = TransactionReverted("less was charged in the end than was to be captured", hint=RUN_AGAIN)
        outcome.fail([item for item in still if item.is_beyond], less)
        free = []
        for item in still:
            if item.is_beyond or not item.is_due(action):
                continue
            if (unknown := self._held_back(item)) is not None:
                outcome.fail([item], unknown)
            else:
                free.append(item)
        return free

    def _relayer_of(self, payee: Address, escrow_contract: Address) -> Relayer | None:
        """What sends instead of the payee; a payee needs no authorization of its own to send itself."""
        if self._relayer is None or not self._is_relayed(payee):
            return None
        return Relayer(
            sender=self._relayer,
            secret=self._sender_of(payee).secret,
            reader=self._reader_of(escrow_contract),
            clock=self._clock,
        )

    def _is_relayed(self, payee: Address) -> bool:
        return self._relayer is not None and self._relayer.address != payee

    def _held_back(self, item: PlannedCapture) -> OutcomeUnknown | None:
        """The failure of something sent before, whose fate is unknown, that this could compete with."""
        keys: list[str] = [item.channel.channel_id, item.channel.descriptor.payee]
        if self._relayer is not None:
            keys.append(self._relayer.address)
        return next((self._unknown[key] for key in keys if key in self._unknown), None)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the home's right to settle and close; LedgerBusy if another process keeps it for too long."""
        path = claims_lock(self._home, self._chain_id)
        with exclusive(path) as free:
            if free:
                yield
                return
        self._reporter.say("waiting for another process that settles or closes channels")
        with exclusive(path, within=ALONE_SECONDS) as free:
            if not free:
                raise LedgerBusy(
                    "nothing can be settled or closed: another process, which is at it, has not ended for"
                    f" {ALONE_SECONDS:.0f} s",
                    hint="ps -eo pid,stat,args | grep microwallet  (T: one that is stopped; kill -CONT PID)",
                )
            yield

    @contextmanager
    def _closing(self, action: Action, planned: Sequence[PlannedCapture], *, within: float) -> Iterator[None]:
        """Accept no vouchers on channels that are being closed, until their fate is known.

        First waits for their requests in hand, `within` seconds at most.
        """
        self._closes.end_finished()  # of a process that was killed
        try:
            if action is Action.CLOSE:
                closing = [item.channel.channel_id for item in planned]
                self._closes.begin(closing)
                if self._in_hand.has(*closing):
                    self._reporter.say("waiting for requests that are being served")
                    self._in_hand.wait(closing, within=within)
            yield
        finally:
            # The next one ends them, as after a kill; an error would hide what was done.
            with suppress(LedgerError):
                self._closes.end_finished()

    def _end_closes_of_the_dead(self) -> None:
        """End closes that a killed process began, or whose authorization has expired."""
        if self._closes.are_pending:
            with exclusive(claims_lock(self._home, self._chain_id)) as free:
                if free:
                    self._closes.end_finished()

    def _read_earlier(self, receipt: Receipt, outcome: Outcome) -> None:
        """Add to the outcome what a transaction of an earlier run did to the channels its events name."""
        for escrow_contract in self._vouchers.live_rows(self._chain_id):
            before = partial(self._before, self._reader_of(escrow_contract), receipt.block_number - 1)
            read_receipt(receipt, self._events_of(escrow_contract), before, outcome)

    def _before(self, reader: EscrowReader, block: int, channel_id: ChannelId) -> PayeeChannel | None:
        """A channel as it was at a block, although the ledger may know its end by now."""
        channel = self._vouchers.get(channel_id)
        if channel is not None and channel.state.finalized:
            with suppress(NetworkError):  # a node may have forgotten
                return replace(channel, state=reader.channel_state(channel_id, block))
        return channel

    def _events_of(self, escrow_contract: Address) -> EscrowEvents:
        return EscrowEvents(self._reader_of(escrow_contract), self._chain_id)

    def _record_closes(self, outcome: Outcome) -> None:
        """Store which channels are closed by the receipts: a node that is asked for states may be behind."""
        states = [(done.channel.channel_id, done.channel.state) for done in outcome.channels]
        closed = {channel_id: state for channel_id, state in states if state.finalized}
        self._vouchers.record_states(closed, as_of=self._clock())
        self._vouchers.record_told(closed)

    def _record(self, outcome: Outcome, channel_ids: Iterable[ChannelId]) -> None:
        """Store what transactions did, and what the chain says then. They count even if that fails."""
        try:
            self._record_closes(outcome)
            self._refresh(channel_ids)
        except (LedgerError, NetworkError):
            self._reporter.say("the new state of the channels will be read the next time")


def _by_sender(
    planned: Iterable[PlannedCapture],
) -> Iterator[tuple[Address, Address, Sequence[PlannedCapture]]]:
    """A payee, an escrow, and what is planned for them."""
    for (payee, escrow_contract), group in groupby(
        sorted(planned, key=_place), key=lambda item: _place(item)[:2]
    ):
        yield payee, escrow_contract, list(group)


def _place(item: PlannedCapture) -> tuple[Address, Address, Address, ChannelId]:
    """The order of captures. A transaction is for one payee and escrow; one transfer pays for the captures of
    a token that are side by side."""
    descriptor = item.channel.descriptor
    return (
        descriptor.payee,
        descriptor.escrow_contract,
        descriptor.token,
        item.channel.channel_id,
    )
