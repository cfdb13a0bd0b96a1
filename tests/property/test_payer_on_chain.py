"""What the payer does on the chain, against a node that drops and undoes it, and processes that are killed.

The ledger is a real file, the transactions are really signed; the chain is the model in `node.py`, and time
passes only where somebody waits.
"""

from __future__ import annotations

import itertools
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from contracts import DOMAIN, ESCROW
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from machine import run_machine
from memory import folder_in_memory
from model import CHAIN, PAYEE, TOKEN, USDC
from node import GWEI, Node
from steps import Killed

from microwallet import polling
from microwallet.domain.channel import CLOSE_GRACE_PERIOD, NO_CHANNEL
from microwallet.domain.deposit import DepositKind, DepositStatus, Way
from microwallet.domain.identifiers import NATIVE_TOKEN
from microwallet.domain.money import Amount, Asset
from microwallet.domain.ports import Quiet, TransactionStatus
from microwallet.domain.voucher import VoucherKey
from microwallet.errors import KeyUnavailable, MicrowalletError
from microwallet.escrow import calls, delivery, transactions
from microwallet.escrow.fees import Fees
from microwallet.escrow.network import built_in_networks
from microwallet.escrow.reader import EscrowReader
from microwallet.escrow.token_features import TokenFeatures
from microwallet.escrow.transactions import TransactionSender
from microwallet.ledger.ledger import Ledger
from microwallet.payer import ways
from microwallet.payer import withdraw as withdrawing
from microwallet.payer.close import close
from microwallet.payer.deposit import make_deposit
from microwallet.payer.open import plan_open
from microwallet.payer.paying_account import PayingAccount
from microwallet.payer.send import send
from microwallet.payer.signed_deposit import SignedDeposit, sign_deposit
from microwallet.payer.sync import sync
from microwallet.payer.top_up import plan_top_up
from microwallet.payer.withdraw import withdraw

SECRET = b"\x61" * 32
PAYER = VoucherKey(SECRET).address
COIN = Asset(chain_id=CHAIN, token=NATIVE_TOKEN, symbol="ETH", decimals=18)
FEATURES = TokenFeatures(
    domain=DOMAIN,
    receive_with_authorization=True,
    permit=True,
)
NOW = 1_000_000
EXIT_CODES = (2, 3, 4, 5, 6, 7, 8)
"""Which a command may end with: the others are of what nobody expects."""
MOVES = {"send", str(DepositKind.OPEN), str(DepositKind.TOP_UP)}
WAYS = (Way.AUTHORIZATION, Way.APPROVE, Way.PERMIT, Way.NATIVE)


class FaultyNode(Node):
    """One behind a balancer: what it says is not always so."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.refuses = False
        """Whether it says that it does not take what it is sent, and takes it."""
        self.more = 0
        """By how many the nonces that it counts in its newest block are too many."""
        self.doubted = set()
        """What it took, and said that it did not, or that its nonce was used up."""

    def send(self, seen, text):
        sent = super().send(seen, text)
        if self.refuses or self.more:
            self.doubted.add(sent)
        if self.refuses:
            raise self._error("insufficient funds for gas * price + value")
        return sent

    def count(self, seen, address, tag):
        more = self.more if tag == "latest" else 0
        count = int(super().count(seen, address, tag), 16) + more
        if more:
            waiting = self.pool.values()
            self.doubted |= {one.hash for one in waiting if one.sender == address and one.nonce < count}
        return hex(count)


@dataclass(frozen=True)
class Asked:
    """A command as it was typed, to be typed again."""

    key: str
    do: object


@dataclass(frozen=True)
class Trouble:
    """What happens while a command runs, each as it asks the chain for the n-th time."""

    dies_at: int | None = None
    is_late: bool = False
    """Whether that is after the answer."""
    beside_at: int | None = None
    """Where another process runs another command."""
    locks_at: int | None = None
    """From where on the key cannot be used: its password was changed."""


class TransactionMachine(RuleBasedStateMachine):
    """See the module's docstring."""

    def __init__(self):
        super().__init__()
        self.temporary = folder_in_memory()
        self.folder = Path(self.temporary.name)
        # While one process waits for another, minutes go by: no undone block is buried meanwhile.
        self.node = FaultyNode(now=NOW, coin={PAYER: 10**20}, tokens={PAYER: 10**9}, block_seconds=4)
        self.ledger = self.opened()
        self.asked: dict[str, Asked] = {}
        self.cap = 1000
        self.is_locked = False
        self.signed: list = []
        """Calls with authorizations that the payee may submit."""
        self.patience = pytest.MonkeyPatch()
        for module in (delivery, transactions, polling, withdrawing):
            self.patience.setattr(module, "time", self.node)
        self.patience.setattr(ways, "token_features", lambda *_: FEATURES)

    def opened(self):
        """As a new process has it."""
        ledger = Ledger.open(self.folder / "ledger.sqlite3")
        ledger.journal._clock = self.clock
        return ledger

    def clock(self):
        return int(self.node.now)

    @property
    def account(self):
        """The account that pays, as a new process has it."""
        network = built_in_networks()["anvil"]
        sender = TransactionSender(
            self.node,
            network,
            self.ledger.journal,
            PAYER,
            self.secret,
            max_fee_gwei=self.cap,
            wait_seconds=20,
            reporter=Quiet(),
        )
        return PayingAccount(
            name="alice",
            address=PAYER,
            network=network,
            ledger=self.ledger,
            reader=EscrowReader(self.node, ESCROW),
            reader_of=lambda escrow: EscrowReader(self.node, escrow),
            sender=sender,
            secret=self.secret,
            keys_held=nullcontext,
            require_key=lambda: None,
            keep_voucher_key=lambda *_: None,
            fees=lambda: Fees(max_fee_per_gas=3 * GWEI, max_priority_fee_per_gas=GWEI),
            reporter=Quiet(),
            clock=self.clock,
        )

    def secret(self):
        if self.is_locked:
            raise KeyUnavailable("the password was changed")
        return SECRET

    # Commands

    def typed(self, asked, trouble=Trouble(), beside=None):
        """Run a command to its end, or until it is killed; another process may run `beside` meanwhile."""
        count = itertools.count()

        def ask():
            now = next(count)
            self.is_locked = trouble.locks_at is not None and now >= trouble.locks_at
            if now == trouble.beside_at and beside is not None:
                self.run_beside(beside)
            if now == trouble.dies_at:
                raise Killed

        setattr(self.node, "after" if trouble.is_late else "before", ask)
        try:
            asked.do()
        except MicrowalletError as error:
            assert error.exit_code in EXIT_CODES, error  # noqa: PT017
            if isinstance(error, KeyUnavailable):
                self.check_nothing_waits(asked)
        except Killed:
            pass
        finally:
            self.node.before = self.node.after = lambda: None
            self.is_locked = False
        self.ledger.close()
        self.ledger = self.opened()

    def run_beside(self, asked):
        """As another process does it, between two questions of the one that runs."""
        kept = self.ledger, self.node.before, self.node.after, self.is_locked
        self.ledger = self.opened()
        self.typed(asked)
        self.ledger.close()
        self.ledger, self.node.before, self.node.after, self.is_locked = kept

    times = st.one_of(st.none(), st.integers(0, 30))
    troubles = st.builds(Trouble, dies_at=times, is_late=st.booleans(), locks_at=times)

    def began(self, do, trouble):
        key = f"key-{len(self.asked)}"
        asked = Asked(key, lambda: do(key))
        self.asked[key] = asked
        self.typed(asked, trouble)

    @rule(way=st.sampled_from(WAYS), amount=st.integers(1, 50), trouble=troubles)
    def open(self, way, amount, trouble):
        asset = COIN if way is Way.NATIVE else USDC

        def do(key):
            plan = plan_open(self.account, PAYEE, Amount(amount, asset), idempotency_key=key, way=way)
            make_deposit(self.account, plan)

        self.began(do, trouble)

    @precondition(lambda self: self.ledger.channels.list(finalized=True))
    @rule(
        data=st.data(),
        way=st.sampled_from(WAYS[:3]),
        amount=st.integers(1, 50),
        trouble=troubles,
        is_gasless=st.booleans(),
    )
    def top_up(self, data, way, amount, trouble, is_gasless):
        channel = data.draw(st.sampled_from(self.ledger.channels.list(finalized=True)))
        way = Way.NATIVE if channel.asset.is_native else way
        is_gasless = is_gasless and way is Way.AUTHORIZATION

        def do(key):
            now = self.ledger.channels.newest(channel)
            plan = plan_top_up(
                self.account,
                now,
                Amount(amount, now.asset),
                idempotency_key=key,
                way=way,
                is_gasless=is_gasless,
            )
            if not is_gasless:
                make_deposit(self.account, plan)
            elif isinstance(signed := sign_deposit(self.account, plan), SignedDeposit):
                self.signed.append(
                    calls.top_up_with_authorization(now.descriptor, amount, signed.authorization)
                )

        self.began(do, trouble)

    @rule(is_coin=st.booleans(), amount=st.integers(1, 50), trouble=troubles)
    def send(self, is_coin, amount, trouble):
        asset = COIN if is_coin else USDC

        def do(key):
            account = self.account
            text = f"{amount} wei" if is_coin else f"{amount / 10**6:.6f}"
            send(
                account.sender,
                account.reader,
                self.ledger,
                PAYEE,
                asset,
                text,
                escrow_contracts=[ESCROW],
                idempotency_key=key,
                agree=lambda _: None,
            )

        self.began(do, trouble)

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), trouble=troubles)
    def again(self, data, trouble):
        """The same command under its key."""
        self.typed(self.asked[data.draw(st.sampled_from(sorted(self.asked)))], trouble)

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), trouble=troubles, beside_at=st.integers(0, 30))
    def side_by_side(self, data, trouble, beside_at):
        """Two processes: one does all it does while the other waits for an answer."""
        commands = [*self.asked.values(), Asked("", self.synced)]
        first, second = (data.draw(st.sampled_from(commands), label) for label in ("first", "second"))
        self.typed(first, replace(trouble, beside_at=beside_at), second)

    @precondition(lambda self: self.ledger.channels.list(finalized=False))
    @rule(data=st.data(), waits=st.booleans(), trouble=troubles)
    def end(self, data, waits, trouble):
        """Request a close, or withdraw, which may be too early."""
        channel = data.draw(st.sampled_from(self.ledger.channels.list(finalized=False)))

        def do():
            if channel.state.close_requested_at:
                withdraw(self.account, channel, wait=False)
            else:
                close(self.account, channel)

        if waits:
            self.node.now += CLOSE_GRACE_PERIOD
            self.node.mine()
        self.typed(Asked("", do), trouble)

    @rule(trouble=troubles, more=st.integers(0, 1))
    def sync(self, trouble, more):
        """Nothing is signed where nonces are miscounted: there is no other word to take."""
        self.node.more = more
        self.typed(Asked("", self.synced), trouble)
        self.node.more = 0

    def synced(self):
        return sync([self.account], [ESCROW], lambda token: USDC if token == TOKEN else COIN)

    # The chain

    @rule(is_mining=st.booleans())
    def mining(self, is_mining):
        self.node.is_mining = is_mining

    @rule()
    def mine(self):
        self.node.mine()

    @rule(count=st.integers(1, 4), keeps=st.booleans())
    def reorganise(self, count, keeps):
        self.node.undo(count, keeps=keeps)

    @rule()
    def forget(self):
        """The node drops all that waits."""
        self.node.drop()

    @rule()
    def replace(self):
        self.node.replace_first(PAYER)

    @rule(refuses=st.booleans())
    def refuse(self, refuses):
        """The node takes what it says that it does not."""
        self.node.refuses = refuses

    @rule(gwei=st.sampled_from((1, 10, 300)), cap=st.sampled_from((5, 50, 1000)))
    def offer(self, gwei, cap):
        """Gas has another price, and the payer pays at most `cap` gwei for it."""
        self.node.base_fee, self.cap = gwei * GWEI, cap

    @rule(behind=st.integers(0, 2))
    def fall_behind(self, behind):
        self.node.behind = behind

    @precondition(lambda self: self.signed)
    @rule(data=st.data())
    def submit(self, data):
        call = data.draw(st.sampled_from(self.signed))
        self.node.mine(lambda state, time: state.call(PAYEE, call.to, call.data, call.value, time))

    # What always holds

    def operations(self):
        """How often each operation moved money on the chain, by operation and purpose."""
        done = [transaction for transaction, succeeded in self.node.mined().items() if succeeded]
        known = {entry.transaction.hash: entry.transaction for entry in self.journal()}
        ours = [known[one] for one in done if one in known]
        return Counter((one.operation, one.purpose) for one in ours if one.purpose in MOVES)

    def journal(self):
        return self.ledger.journal.beginning_with("")

    def check_nothing_waits(self, asked):
        """Nothing that a command sent can move money yet; what has expired could only revert."""
        deposit = self.ledger.deposits.find(asked.key)
        ends = deposit.authorization_expires_at if deposit else None
        if ends is not None and self.node.now >= ends:
            return
        of_command = [one for one in self.journal() if asked.key in one.transaction.operation.split(":")]
        assert not [one for one in of_command if one.status.is_live and one.transaction.purpose in MOVES]

    def check_once(self):
        twice = {what: count for what, count in self.operations().items() if count > 1}
        assert not twice, twice

    def teardown(self):
        try:
            self.check_once()
            self.come_to_rest()
            assert self.ledger.database.integrity_problems() == []
        finally:
            self.patience.undo()
            self.ledger.close()
            self.temporary.cleanup()

    def come_to_rest(self):
        """The chain tells the truth and mines: whatever is unfinished ends."""
        node = self.node
        node.behind, node.is_mining, node.refuses, node.base_fee, self.cap = 0, True, False, GWEI, 1000
        node.mine()
        for _ in range(6):  # so many gaps at most
            self.synced()
            if self.gap_of_an_ended_one():
                node.replace_first(PAYER)
            node.now += 3600
            node.mine()
        self.check_once()
        assert self.ledger.journal.unfinished(CHAIN) == []
        assert self.ledger.deposits.pending() == []
        for channel in self.ledger.channels.list(finalized=True):
            assert channel.state == node.state.channels.get(channel.channel_id, NO_CHANNEL)
        mined = node.mined()
        for entry in self.journal():
            if entry.status is TransactionStatus.REPLACED and entry.transaction.hash in node.doubted:
                continue  # the same command under its key finds it
            succeeded = mined.get(entry.transaction.hash)
            assert bool(succeeded) is (entry.status is TransactionStatus.MINED), entry
        self.check_deposits()

    def gap_of_an_ended_one(self):
        """Whether the next nonce is that of a transaction taken for ended, reverted in a block that is
        no more or refused: it is not sent again, and the next new one takes its place."""
        nonce = self.node.state.nonces.get(PAYER, 0)
        at_nonce = [one.status for one in self.journal() if one.transaction.nonce == nonce]
        return bool(at_nonce) and not any(status.is_live for status in at_nonce)

    def check_deposits(self):
        """What the ledger takes for done is what each channel has."""
        for channel in self.ledger.channels.list(finalized=True):
            of_channel = self.ledger.deposits.of_channel
            deposits = [one for kind in DepositKind for one in of_channel(kind, channel.channel_id)]
            done = sum(one.amount for one in deposits if one.status is DepositStatus.DONE)
            assert done == channel.state.deposit


def test_transactions_of_the_payer_against_a_model():
    """Each command moves money once, however often it is killed, undone and typed again; all of it ends."""
    run_machine(TransactionMachine, examples=40, steps=25)


@pytest.mark.long
def test_transactions_of_the_payer_against_a_model_for_long():
    """The long form."""
    run_machine(TransactionMachine, examples=300, steps=50)
