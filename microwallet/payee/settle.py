"""Settling and closing: what a payee planned to capture, against the chain as it is, by one process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

from microwallet.domain.identifiers import Address, ChainId, ChannelId
from microwallet.domain.ports import Reporter, TransactionJournal
from microwallet.errors import NetworkError, OutcomeUnknown, TransactionReverted
from microwallet.escrow.delivery import Receipt
from microwallet.escrow.events import EscrowEvents
from microwallet.escrow.transactions import TransactionSender
from microwallet.ledger.vouchers import Vouchers
from microwallet.payee.capture_sender import CaptureSender
from microwallet.payee.captures import Action, PlannedCapture, Selection
from microwallet.payee.exclusive import claims_lock, exclusive
from microwallet.payee.outcome import RUN_AGAIN, Outcome, read_receipt
from microwallet.payee.refresh import ReaderOf, Refreshed, refresh


class Settlement:
    """Settles and closes the channels of one home on one chain. One process at a time does."""

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
        now: Callable[[], int],
        reporter: Reporter,
    ) -> None:
        self._home = home
        self._chain_id = chain_id
        self._vouchers = vouchers
        self._reader_of = reader_of
        self._sender_of = sender_of
        self._journal = journal
        self._wait_seconds = wait_seconds
        self._now = now
        self._reporter = reporter
        self._unknown: dict[Address, OutcomeUnknown] = {}

    def resume(self, payees: Iterable[Address]) -> Outcome:
        """Finish the transactions a crash or a lost answer left open, before anything is planned.

        Returns what they did to channels. While the fate of a settle or close cannot be known, its payee's
        channels fail in `execute`; nothing else is held back.
        """
        outcome = Outcome()
        self._unknown.clear()
        unfinished = [
            payee for payee in sorted(set(payees)) if self._journal.unfinished(self._chain_id, sender=payee)
        ]
        if not unfinished:
            return outcome
        with self._alone():
            for payee in unfinished:
                self._reporter.say(f"finishing what {payee} has sent before")
                for resumed in self._sender_of(payee).resume_all(wait_seconds=self._wait_seconds):
                    if isinstance(resumed.error, OutcomeUnknown) and resumed.purpose in list(Action):
                        self._unknown[payee] = resumed.error
                    if resumed.receipt is not None and resumed.purpose in list(Action):
                        self._read_earlier(resumed.receipt, outcome)
            self._end_closes()
        return outcome

    def plan(self, selection: Selection) -> list[PlannedCapture]:
        """What there is to do for `selection`, by the chain's newest states. Sends nothing."""
        return selection.plan(self.refresh().channels)

    def refresh(self) -> Refreshed:
        """The channels that can still change, as the chain has them now."""
        return refresh(self._vouchers, self._chain_id, self._reader_of, now=self._now())

    def execute(self, action: Action, planned: Sequence[PlannedCapture]) -> Outcome:
        """Settle or close what is planned, each payee with its own key, one process at a time.

        What another process did meanwhile is left out, and what it accepted is taken too. Never
        raises what concerns single channels or transactions: that is in the outcome.
        """
        outcome = Outcome()
        with self._alone(), self._closing(action, planned):
            current = {channel.channel_id: channel for channel in self.refresh().channels}
            still = [
                item.renewed(current[item.channel.channel_id])
                for item in planned
                if item.channel.channel_id in current
            ]
            ordered = sorted((item for item in still if item.is_due(action)), key=_place)
            outrun = TransactionReverted("more was settled meanwhile than was to be captured", hint=RUN_AGAIN)
            outcome.fail([item for item in still if item.is_outrun(action)], outrun)
            for (payee, escrow_contract), group in groupby(ordered, key=lambda item: _place(item)[:2]):
                if payee in self._unknown:
                    outcome.fail(group, self._unknown[payee])
                else:
                    sender = CaptureSender(
                        payee,
                        rpc=self._reader_of(escrow_contract).rpc,
                        events=self._events_of(escrow_contract),
                        sender_of=self._sender_of,
                        reporter=self._reporter,
                        outcome=outcome,
                    )
                    sender.send(action, list(group))
            if outcome.channels:
                self._record()
        return outcome

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the home's right to settle and close; waits for another process that has it."""
        path = claims_lock(self._home, self._chain_id)
        with exclusive(path, wait=False) as free:
            if free:
                yield
                return
        self._reporter.say("waiting for another process that settles or closes channels")
        with exclusive(path, wait=True):
            yield

    @contextmanager
    def _closing(self, action: Action, planned: Sequence[PlannedCapture]) -> Iterator[None]:
        """Accept nothing through channels from before their capture is chosen until their fate is known."""
        self._end_closes()  # of a process that was killed
        if action is Action.CLOSE:
            self._vouchers.begin_closes(item.channel.channel_id for item in planned)
        try:
            yield
        finally:
            self._end_closes()

    def _end_closes(self) -> None:
        unfinished = self._journal.unfinished(self._chain_id)
        if not any(entry.transaction.purpose == Action.CLOSE for entry in unfinished):
            self._vouchers.end_closes(self._chain_id)

    def _read_earlier(self, receipt: Receipt, outcome: Outcome) -> None:
        """What a transaction of an earlier run did, to the channels its events name."""
        live = self._vouchers.live(self._chain_id)
        for escrow_contract in {channel.descriptor.escrow_contract for channel in live}:
            read_receipt(receipt, self._events_of(escrow_contract), self._vouchers.get, outcome)

    def _events_of(self, escrow_contract: Address) -> EscrowEvents:
        return EscrowEvents(self._reader_of(escrow_contract), self._chain_id)

    def _record(self) -> None:
        """What the chain says afterwards; the transaction counts whether or not it can be asked."""
        try:
            self.refresh()
        except NetworkError:
            self._reporter.say("the new state of the channels will be read the next time")


def _place(item: PlannedCapture) -> tuple[Address, Address, Address, ChannelId]:
    """One key and one contract a transaction; the same tokens side by side are paid by one transfer."""
    descriptor = item.channel.descriptor
    return (
        descriptor.payee,
        descriptor.escrow_contract,
        descriptor.token,
        item.channel.channel_id,
    )
