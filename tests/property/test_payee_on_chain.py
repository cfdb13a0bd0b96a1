"""What the payee does on the chain: processes that settle, close, watch, sell and accept side by side.

The ledger is real, and so is all between it and the node, which is a model. Before and after each question to
it and each use of vouchers and journal, something else may happen: the process is killed, another one has its
turn, the chain loses blocks, or the payer pays, asks for a close, tops up or takes back what is left.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from contracts import CHAIN, ESCROW, FUNCTIONS, channel_of
from eth_abi.abi import decode
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from memory import folder_in_memory
from model import PAYER, TOKEN, USDC, keyed
from node import GWEI, MATTERS, Node
from steps import Killed, Mortal, Steps

from microwallet.domain.channel import CLOSE_GRACE_PERIOD
from microwallet.domain.ports import Quiet, TransactionStatus
from microwallet.domain.voucher import VoucherDigest, VoucherKey
from microwallet.domain.voucher_document import voucher_writer
from microwallet.errors import MicrowalletError
from microwallet.escrow import calls, delivery, transactions
from microwallet.escrow.network import LOCAL_NETWORK, built_in_networks
from microwallet.escrow.reader import EscrowReader
from microwallet.escrow.signing import signed_call
from microwallet.escrow.transactions import TransactionSender
from microwallet.http402.charging import refusal, sales
from microwallet.http402.charging.sales import Handover, Order
from microwallet.http402.charging.settling import Settling, SettlingPolicy
from microwallet.ledger.ledger import Ledger
from microwallet.payee import in_hand, settle
from microwallet.payee.accept import Acceptance, AcceptancePolicy
from microwallet.payee.backup import Restoration, RestorePolicy, voucher_lines
from microwallet.payee.captures import Action, Selection
from microwallet.payee.confirmed_chain import ConfirmedChain
from microwallet.payee.exclusive import exclusive
from microwallet.payee.in_hand import InHandHere
from microwallet.payee.settle import Settlement
from microwallet.payee.watch import Watch

NOW = 1_800_000_000
DEPOSIT = 1000
KEYS = {key.address: key for key in (VoucherKey(bytes([number]) * 32) for number in (0x44, 0x72, 0x73))}
PAYEE, RELAYER, OTHER_RELAYER = KEYS
CHANNELS = [keyed(number, payee=PAYEE, escrow_contract=ESCROW) for number in (1, 2, 3)]
BY_ID = {one.channel_id: one for one in CHANNELS}
CHAIN_CHANGES = [
    "mine",
    "drop",
    "reorganise",
    "reorganise_deep",
    "grow_dear",
    "stop",
    "fall_behind",
    "replace",
]
HAPPENS = [*CHAIN_CHANGES, "wait", "wait_long", "request_close", "top_up", "withdraw", "submit"]
HAPPENS += ["sell", "accept", "serve", "look", "watch"]
"""What may happen at any time."""
AMID = [*HAPPENS, *MATTERS, "rival_settle", "rival_close", "kill", "kill", "kill"]
"""What may happen between two steps of a process."""
EXIT_CODES = (3, 4, 5, 8)
"""Which a command may end with: the others are of keys, of the ledger, and of what nobody expects."""


class Waits(Killed):
    """A process has to wait for another one, which would never end here: it is given up."""


@contextmanager
def impatient(path, *, within=0.0):
    with exclusive(path) as free:
        if within and not free:
            raise Waits
        yield free


class SigningJournal(Mortal):
    """Tells the machine of what is signed, at that moment."""

    def reserve(self, *arguments, **options):
        self._steps.step()
        transaction = self._part.reserve(*arguments, **options)
        self._steps.signed(transaction)
        self._steps.step()
        return transaction


class Process:
    """One process of the payee; it does nothing more once it was killed."""

    def __init__(self, machine, relayer=None):
        self._machine = machine
        self.by_payer = self.is_chosen = self.is_dead = False
        self.ledger = Ledger.open(machine.home / "ledger.sqlite3")
        self.ledger.journal._clock = machine.clock
        self.vouchers = Mortal(self.ledger.vouchers, self)
        self.journal = SigningJournal(self.ledger.journal, self)
        self.reader = EscrowReader(machine.node, ESCROW)
        self.told = []
        self.settlement = Settlement(
            home=machine.home,
            chain_id=CHAIN,
            vouchers=self.vouchers,
            reader_of=lambda _: self.reader,
            journal=self.journal,
            sender_of=self.sender,
            wait_seconds=12,
            clock=machine.clock,
            reporter=Quiet(),
            relayer=None if relayer is None else self.sender(relayer),
        )

    def sender(self, address):
        return TransactionSender(
            self._machine.node,
            built_in_networks()[LOCAL_NETWORK],
            self.journal,
            address,
            lambda: KEYS[address].secret,
            max_fee_gwei=100,
            wait_seconds=12,
            stuck_seconds=5,
            reporter=Quiet(),
        )

    def step(self):
        if self.is_dead:
            raise Killed
        try:
            return self._machine.steps.step()
        except Killed:
            self.is_dead = True
            raise

    def signed(self, transaction):
        self._machine.check_signed(self, transaction)

    def emit(self, name, details):
        self.told.append((name, details))

    def capture(self, action, channel_ids, capture=None):
        """As `payee settle` and `payee close` do it."""
        outcome = self.settlement.resume([PAYEE])
        selection = Selection(action=action, channel_ids=channel_ids, payee=PAYEE, capture=capture)
        self.is_chosen = capture is not None
        planned = self.settlement.plan(selection)
        outcome.add(self.settlement.execute(action, planned))
        if (error := outcome.error()) is not None:
            raise error

    def end(self):
        self.ledger.close()


class Watcher(Process):
    """`payee watch`."""

    def __init__(self, machine):
        super().__init__(machine)
        self.by_payer = True
        self.watch = Watch(self.settlement, margin=CLOSE_GRACE_PERIOD, clock=machine.clock, emit=self.emit)

    def look(self):
        self.watch.look()


class Shop(Process):
    """A gateway: it sells, settles what is owed, and answers requested closes."""

    def __init__(self, machine):
        super().__init__(machine)
        self.by_payer = True
        self.in_hand = InHandHere(machine.home)
        self.serving = []
        policy = SettlingPolicy(payee=PAYEE, chain_id=CHAIN, above={TOKEN: 300}, idle_seconds=600)
        self.settling = Settling(self.settlement, self.vouchers, policy, clock=machine.clock, emit=self.emit)

    def look(self):
        self.settling.look()

    def sell(self, channel, amount, signature, now):
        """Sell for a voucher, which stays in hand; whether it was accepted."""
        channel_id = channel.channel_id
        self.in_hand.begin(channel_id)
        try:
            with self.ledger.sessions.transaction() as rows:
                account = rows.account(channel_id)
                handover = Handover(channel_id, amount, signature, account.deposit, 0, "", None)
                sold = sales.sell(rows, Order(handover, amount - account.spent), now)
                self.in_hand.reserve(channel_id, sold.reserved)
        except refusal.Refused:
            self.in_hand.end(channel_id, 0)
            return False
        self.serving.append(sold)
        return True

    def serve(self):
        """Serve the oldest request in hand, for all that was reserved, half of it, or nothing."""
        sold = self.serving.pop(0)
        with self.ledger.sessions.transaction() as rows:
            if sold.sale.cumulative_amount % 3:
                sales.settle_cost(rows, sold.sale, sold.reserved // (sold.sale.cumulative_amount % 3))
            else:
                sales.undo(rows, sold.sale)
        self.in_hand.end(sold.sale.channel_id, sold.reserved)

    def end(self):
        if self.is_dead:  # the system gives the lock back once nothing has the file open
            self.in_hand._words.release()
            self.in_hand._sums.close()
            os.close(self.in_hand._descriptor)
        else:
            self.in_hand.close()
        super().end()


class PayeeOnChain(RuleBasedStateMachine):
    """See the module's docstring."""

    @initialize()
    def begin(self):
        self.folder = folder_in_memory()
        self.home = Path(self.folder.name)
        coin = dict.fromkeys(KEYS, 10**18)
        self.node = Node(now=NOW, coin=coin, tokens={PAYER: 10**6}, block_seconds=2)
        self.node.before = self.step
        self.steps = Steps({what: getattr(self, what) for what in AMID if what not in (*MATTERS, "kill")})
        self.at_work = []
        """The process whose turn it is, after those that it came between the steps of."""
        self.aim = None
        """The channel that the payer and the gateway do something with."""
        self.signed_up_to = dict.fromkeys(BY_ID, 0)
        """By the payer."""
        self.most_spent = dict.fromkeys(BY_ID, 0)
        """What was charged and reserved at most: some of what a close took for a payer may be given back."""
        self.used_nonces = {}
        """How many of each account's were ever."""
        self.undone = set()
        """Transactions that were mined in blocks that a reorganisation undid: not each is looked at again."""
        self.patches = pytest.MonkeyPatch()
        for module in (delivery, transactions, in_hand):
            self.patches.setattr(module, "time", self)
        self.patches.setattr(in_hand, "_LOOK_SECONDS", 1.0)
        self.patches.setattr(settle, "exclusive", impatient)
        self.books = Ledger.open(self.home / "ledger.sqlite3")
        for channel in CHANNELS:
            self.theirs(calls.open_channel(channel.descriptor, DEPOSIT), approved=DEPOSIT)
            self.books.sessions.add_channel(channel.payee_channel(deposit=DEPOSIT), now=NOW)
        for _ in range(4):  # no reorganisation reaches the opens
            self.node.mine()
        self.watcher, self.shop = Watcher(self), Shop(self)
        for self.aim in CHANNELS:
            self.accept()

    def clock(self):
        return int(self.node.now)

    def monotonic(self):
        return self.node.now

    def sleep(self, seconds):
        self.node.sleep(seconds)
        self.step()

    def step(self):
        return self.at_work[-1].step() if self.at_work else None

    # What payers and others do

    def theirs(self, call, approved=0, sender=PAYER):
        def act(state, time):
            state.allowed[sender] = approved
            state.call(sender, call.to, call.data, call.value, time)

        self.node.mine(act)

    def request_close(self):
        self.theirs(calls.request_close(self.aim.descriptor))

    def top_up(self):
        self.theirs(calls.top_up(self.aim.descriptor, 500), approved=500)

    def withdraw(self):
        self.theirs(calls.withdraw(self.aim.descriptor))

    def submit(self):
        """Somebody else carries out what a payee has signed for a relayer."""
        for entry in self.books.journal.beginning_with(""):
            call, _ = signed_call(entry.transaction)
            if calls.deadline(call) is not None and calls.names(call, self.aim.descriptor):
                self.theirs(call)

    def replace(self):
        self.node.replace_first(PAYEE)

    def mine(self):
        self.node.mine()

    def drop(self):
        self.node.drop()

    def note_nonces(self):
        for sender, nonce in self.node.state.nonces.items():
            self.used_nonces[sender] = max(nonce, self.used_nonces.get(sender, 0))

    def reorganise(self):
        self.undo(1, keeps=True)

    def reorganise_deep(self):
        """And what the blocks had is gone."""
        self.undo(3, keeps=False)

    def undo(self, count, *, keeps):
        self.note_nonces()
        self.undone |= {hash for block in self.node.blocks[-count:] for hash in block.mined}
        self.node.undo(count, keeps=keeps)

    def grow_dear(self):
        self.node.base_fee = 3 * GWEI if self.node.base_fee == GWEI else GWEI

    def stop(self):
        self.node.is_mining = not self.node.is_mining

    def fall_behind(self):
        self.node.behind = 0 if self.node.behind else 2

    def wait(self):
        self.node.now += 100
        self.node.mine()

    def wait_long(self):
        self.node.now += 500
        self.node.mine()

    # What else the payee does

    def voucher(self, plus):
        """The aim's next voucher."""
        channel = self.aim
        amount = self.signed_up_to[channel.channel_id] + plus
        digest = VoucherDigest(CHAIN, ESCROW, channel.channel_id)(amount)
        return amount, channel.key.sign(digest)

    def sell(self):
        if self.shop.is_dead:
            return
        amount, signature = self.voucher(70)
        if self.shop.sell(self.aim, amount, signature, self.clock()):
            self.accepted(self.aim, amount)

    def serve(self):
        if self.shop.serving and not self.shop.is_dead:
            self.shop.serve()

    def accept(self):
        """`payee accept`."""
        channel = self.aim
        amount, signature = self.voucher(40)
        line = voucher_writer(channel.descriptor, channel.channel_id, USDC)(amount, 40, amount, signature)

        def take(process):
            policy = AcceptancePolicy(
                chain_id=CHAIN,
                escrow_contracts=frozenset([ESCROW]),
                payees=frozenset([PAYEE]),
                assets={TOKEN: USDC},
            )
            chain = ConfirmedChain(lambda _: process.reader, confirmations=1)
            acceptance = Acceptance(process.vouchers, chain, policy, clock=self.clock)
            acceptance.take([line.encode()])
            if acceptance.tally.accepted:
                self.accepted(channel, amount)

        self.run(Process(self), take)

    def accepted(self, channel, amount):
        event("accepted")
        channel_id = channel.channel_id
        self.signed_up_to[channel_id] = amount
        spent = self.books.vouchers.get(channel_id).spent
        self.most_spent[channel_id] = max(spent, self.most_spent[channel_id])
        self.check_no_close_is_left(channel)

    def look(self):
        self.shop = self.looked(self.shop, Shop)

    def watch(self):
        self.watcher = self.looked(self.watcher, Watcher)

    def looked(self, process, kind):
        """Have it look, unless it is at that already; the process that goes on."""
        if process in self.at_work or process.is_dead:
            return process
        self.run(process, kind.look)
        return kind(self) if process.is_dead else process

    def rival_settle(self):
        self.rival(Action.SETTLE)

    def rival_close(self):
        self.rival(Action.CLOSE)

    def rival(self, action):
        self.run(Process(self), lambda one: one.capture(action, [self.aim.channel_id]))

    def run(self, process, do):
        """Have a process do something, as a command."""
        self.at_work.append(process)
        try:
            do(process)
        except MicrowalletError as error:
            event(f"failed: {error.code}")
            assert error.exit_code in EXIT_CODES, error  # noqa: PT017
        except Killed:
            process.is_dead = True
        finally:
            self.at_work.pop()
        if process.is_dead or not isinstance(process, Watcher | Shop):
            process.end()

    happenings = st.lists(st.tuples(st.integers(1, 60), st.sampled_from(AMID)), max_size=4)
    channels = st.sampled_from(CHANNELS)

    @rule(
        action=st.sampled_from(Action),
        is_all=st.booleans(),
        relayer=st.sampled_from([None, RELAYER, OTHER_RELAYER]),
        capture=st.sampled_from([None, None, None, 40, 100]),
        aim=channels,
        happens=happenings,
    )
    def capture(self, action, is_all, relayer, capture, aim, happens):
        self.aim = aim
        self.steps.plan(happens)
        channel_ids = [] if is_all and not capture else [aim.channel_id]
        text = None if capture is None else f"{capture / 10**6:.6f}"
        self.run(Process(self, relayer), lambda one: one.capture(action, channel_ids, text))
        self.steps.plan()

    @rule(is_shop=st.booleans(), aim=channels, happens=happenings)
    def look_amid(self, is_shop, aim, happens):
        self.aim = aim
        self.steps.plan(happens)
        (self.look if is_shop else self.watch)()
        self.steps.plan()

    @rule(aim=channels, happens=happenings)
    def close_for_payer(self, aim, happens):
        """What a gateway does as a payer asks it to close."""
        self.aim = aim
        self.steps.plan(happens)
        self.run(self.shop, lambda shop: self.closed_for_payer(shop, aim))
        self.steps.plan()
        if self.shop.is_dead:
            self.shop = Shop(self)

    def closed_for_payer(self, shop, aim):
        with suppress(refusal.Refused):
            shop.settling.close(aim.channel_id)

    @rule(what=st.sampled_from(["sell", "sell", "accept", "serve"]), aim=channels)
    def trade(self, what, aim):
        self.aim = aim
        self.steps.happen(what)

    @rule(what=st.sampled_from(HAPPENS), aim=channels)
    def happen(self, what, aim):
        self.aim = aim
        self.steps.happen(what)

    # What holds

    def captures(self, transaction):
        """What a transaction captures, by channel, and whether it closes."""
        data = signed_call(transaction)[0].data
        if data[:4] not in FUNCTIONS:
            return {}, False
        name, types = FUNCTIONS[data[:4]]
        arguments = decode(types, data[4:])
        items = arguments[0] if name.endswith("batch") else [arguments]
        return {
            channel_of(ESCROW, *parts).channel_id(): capture for parts, _, capture, *_ in items
        }, name.startswith("close")

    def check_signed(self, process, transaction):
        """As it is signed: nothing is taken that is not owed, and a close takes all that is."""
        captures, is_close = self.captures(transaction)
        reserved = in_hand.InHand(self.home).reserved(captures)
        for channel_id, capture in captures.items():
            channel = self.books.vouchers.get(channel_id)
            certain = max(0, channel.spent - reserved[channel_id])
            settled = max(channel.state.settled, self.node.state.channels[channel_id].settled)
            assert capture <= max(channel.authorized, settled)
            owed = self.most_spent[channel_id] if is_close and process.by_payer else certain
            assert capture <= max(owed, settled)
            if is_close:
                assert channel_id in {one.channel_id for one in self.books.vouchers.closing(CHAIN)}
                if not process.is_chosen:
                    assert capture >= min(certain, channel.state.deposit)

    def check_no_close_is_left(self, channel):
        """As a voucher is accepted: no close that was signed can still be carried out."""
        self.note_nonces()
        mined = self.node.mined()
        for entry in self.books.journal.beginning_with("close-"):
            call, _ = signed_call(entry.transaction)
            if not calls.names(call, channel.descriptor) or mined.get(entry.transaction.hash):
                continue
            deadline = calls.close_deadline(call)
            if deadline is None:
                is_dead = entry.transaction.nonce < self.used_nonces.get(entry.transaction.sender, 0)
                assert is_dead or not entry.status.is_live, entry
            else:
                assert deadline < self.node.head.time + 1, entry

    def teardown(self):
        if not hasattr(self, "shop"):
            return
        try:
            self.steps.plan()
            self.come_to_rest()
        finally:
            self.patches.undo()
            self.watcher.end()
            self.shop.end()
            self.books.close()
            self.folder.cleanup()

    def come_to_rest(self):
        """The chain tells the truth and mines: all that is unfinished ends, and nothing is lost."""
        node = self.node
        node.behind, node.is_mining, node.base_fee = 0, True, GWEI
        node.mine()
        while self.shop.serving:
            self.shop.serve()
        safe = [one for one in CHANNELS if self.has_time(node.state.channels[one.channel_id])]
        for _ in range(3):
            self.watch()
            self.fill_gaps()
            node.mine()
        assert self.books.journal.unfinished(CHAIN) == []
        for channel in safe:
            state, known = (
                node.state.channels[channel.channel_id],
                self.books.vouchers.get(channel.channel_id),
            )
            assert known.state == state
            if state.close_requested_at:
                assert state.settled == min(known.spent, state.deposit), (state, known)
        node.now += 600
        node.mine()
        self.watch()
        for channel in self.books.vouchers.closing(CHAIN):
            assert channel.state.finalized
        for hash, succeeded in node.mined().items():
            if hash not in self.undone:
                self.check_recorded(hash, succeeded)
        self.check_backup()
        self.close_all()

    def close_all(self):
        """All that was charged can be taken in the end."""
        is_open = {
            one.channel_id for one in CHANNELS if self.has_time(self.node.state.channels[one.channel_id])
        }
        self.run(Process(self), lambda one: one.capture(Action.CLOSE, []))
        for channel_id in is_open:
            state, known = self.node.state.channels[channel_id], self.books.vouchers.get(channel_id)
            assert state.finalized
            assert state.settled >= min(known.spent, state.deposit), (state, known)

    def check_backup(self):
        """What is exported and imported is the same."""
        kept = [one for one in self.books.vouchers.list(finalized=True) if one.authorized]
        policy = RestorePolicy(
            payees=frozenset([PAYEE]), is_trusted=lambda *_: True, require_key=lambda _: None
        )
        with Ledger.open(self.home / "restored.sqlite3") as other:
            restoration = Restoration(other.vouchers, policy, lambda *_: USDC, clock=self.clock)
            restoration.take([line.encode() for line in voucher_lines(kept)])
            for channel in kept:
                restored = other.vouchers.get(channel.channel_id)
                told = (restored.authorized, restored.spent, restored.signature)
                assert told == (channel.authorized, channel.spent, channel.signature)

    def fill_gaps(self):
        """What ended in a block which is no more, or was mined there with nothing behind it,
        is not sent again by itself: the next new one of its account takes its place."""
        journal = self.books.journal
        for entry in journal.beginning_with(""):
            one, status = entry.transaction, entry.status
            is_needed = status is TransactionStatus.MINED and journal.unfinished(CHAIN, sender=one.sender)
            is_missing = one.nonce == self.node.state.nonces.get(one.sender, 0)
            if is_missing and not (status.is_live or is_needed):
                self.node.replace_first(one.sender)

    def check_recorded(self, hash, succeeded):
        """What is on the chain is so in the journal, if it is ours."""
        for entry in self.books.journal.beginning_with(""):
            if entry.transaction.hash == hash:
                expected = TransactionStatus.MINED if succeeded else TransactionStatus.REVERTED
                assert entry.status is expected, entry

    def has_time(self, state):
        """Whether it is open, and if the payer requested a close, long before its end."""
        left = state.withdrawable_at - self.node.head.time
        return state.exists and not state.finalized and (not state.close_requested_at or left > 500)


TestPayeeOnChain = PayeeOnChain.TestCase
TestPayeeOnChain.settings = settings(max_examples=settings.default.max_examples // 3, stateful_step_count=20)
