"""What the payer does on the chain, against a node that drops and undoes it, and processes that are killed.

The ledger is a real file, the transactions are really signed; the chain is the model in `node.py`, and time
passes only where somebody waits.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
from contracts import ESCROW
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
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
from microwallet.errors import MicrowalletError
from microwallet.escrow import calls, delivery, transactions
from microwallet.escrow.authorizations import TokenDomain
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
    domain=TokenDomain(name="USD Coin", version="2", chain_id=CHAIN, token=TOKEN),
    receive_with_authorization=True,
    permit=False,
)
NOW = 1_000_000
MEMORY = Path("/dev/shm")
"""Where a write is durable at once; these tests are about order, not about disks."""
EXIT_CODES = (2, 3, 4, 5, 8)
"""Which a command may end with: the others are of keys, of the ledger, and of what nobody expects."""
MOVES = {"send", str(DepositKind.OPEN), str(DepositKind.TOP_UP)}
WAYS = (Way.AUTHORIZATION, Way.APPROVE, Way.NATIVE)


@dataclass(frozen=True)
class Asked:
    """A command as it was typed, to be typed again."""

    key: str
    do: object


class TransactionMachine(RuleBasedStateMachine):
    """See the module's docstring."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="transactions-", dir=MEMORY if MEMORY.is_dir() else None))
        self.node = Node(now=NOW, coin={PAYER: 10**20}, tokens={PAYER: 10**9}, block_seconds=0)
        self.ledger = self.opened()
        self.asked: dict[str, Asked] = {}
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
            lambda: SECRET,
            max_fee_gwei=1000,
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
            secret=lambda: SECRET,
            keys_held=nullcontext,
            require_key=lambda: None,
            keep_voucher_key=lambda *_: None,
            fees=lambda: Fees(max_fee_per_gas=3 * GWEI, max_priority_fee_per_gas=GWEI),
            reporter=Quiet(),
            clock=self.clock,
        )

    # Commands

    def typed(self, asked, dies_at=None, is_late=False):
        """Run a command to its end, or until it is killed as it asks the chain for the n-th time."""
        left = None if dies_at is None else iter(range(dies_at))

        def die():
            if left is not None and next(left, None) is None:
                raise Killed

        setattr(self.node, "after" if is_late else "before", die)
        try:
            asked.do()
        except MicrowalletError as error:
            assert error.exit_code in EXIT_CODES, error  # noqa: PT017
        except Killed:
            pass
        finally:
            self.node.before = self.node.after = lambda: None
        self.ledger.close()
        self.ledger = self.opened()

    deaths = st.one_of(st.none(), st.integers(0, 30))

    def began(self, do, dies_at, is_late):
        key = f"key-{len(self.asked)}"
        asked = Asked(key, lambda: do(key))
        self.asked[key] = asked
        self.typed(asked, dies_at, is_late)

    @rule(way=st.sampled_from(WAYS), amount=st.integers(1, 50), dies_at=deaths, is_late=st.booleans())
    def open(self, way, amount, dies_at, is_late):
        asset = COIN if way is Way.NATIVE else USDC

        def do(key):
            plan = plan_open(self.account, PAYEE, Amount(amount, asset), idempotency_key=key, way=way)
            make_deposit(self.account, plan)

        self.began(do, dies_at, is_late)

    @precondition(lambda self: self.ledger.channels.list(finalized=True))
    @rule(
        data=st.data(),
        is_approved=st.booleans(),
        amount=st.integers(1, 50),
        dies_at=deaths,
        is_late=st.booleans(),
        is_gasless=st.booleans(),
    )
    def top_up(self, data, is_approved, amount, dies_at, is_late, is_gasless):
        channel = data.draw(st.sampled_from(self.ledger.channels.list(finalized=True)))
        way = Way.APPROVE if is_approved else Way.AUTHORIZATION
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

        self.began(do, dies_at, is_late)

    @rule(is_coin=st.booleans(), amount=st.integers(1, 50), dies_at=deaths, is_late=st.booleans())
    def send(self, is_coin, amount, dies_at, is_late):
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
                trusted_escrows=[ESCROW],
                idempotency_key=key,
                agree=lambda _: None,
            )

        self.began(do, dies_at, is_late)

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), dies_at=deaths, is_late=st.booleans())
    def again(self, data, dies_at, is_late):
        """The same command under its key."""
        self.typed(self.asked[data.draw(st.sampled_from(sorted(self.asked)))], dies_at, is_late)

    @precondition(lambda self: self.ledger.channels.list(finalized=False))
    @rule(data=st.data(), waits=st.booleans(), dies_at=deaths, is_late=st.booleans())
    def end(self, data, waits, dies_at, is_late):
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
        self.typed(Asked("", do), dies_at, is_late)

    @rule(dies_at=deaths, is_late=st.booleans())
    def sync(self, dies_at, is_late):
        self.typed(Asked("", self.synced), dies_at, is_late)

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
            shutil.rmtree(self.folder)

    def come_to_rest(self):
        """The chain tells the truth and mines: whatever is unfinished ends."""
        node = self.node
        node.behind, node.is_mining = 0, True
        node.mine()
        for _ in range(3):
            self.synced()
            if self.gap_of_a_reverted_one():
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
            succeeded = mined.get(entry.transaction.hash)
            assert bool(succeeded) is (entry.status is TransactionStatus.MINED), entry
        self.check_deposits()

    def gap_of_a_reverted_one(self):
        """Whether the next nonce is that of a transaction that reverted in a block which is no more: it is
        not sent again, and the next new one takes its place."""
        nonce = self.node.state.nonces.get(PAYER, 0)
        at_nonce = [one.status for one in self.journal() if one.transaction.nonce == nonce]
        return TransactionStatus.REVERTED in at_nonce

    def check_deposits(self):
        """What the ledger takes for done is what each channel has."""
        for channel in self.ledger.channels.list(finalized=True):
            of_channel = self.ledger.deposits.of_channel
            deposits = [one for kind in DepositKind for one in of_channel(kind, channel.channel_id)]
            done = sum(one.amount for one in deposits if one.status is DepositStatus.DONE)
            assert done == channel.state.deposit


def _run(examples, steps):
    run_state_machine_as_test(
        TransactionMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )


def test_transactions_of_the_payer_against_a_model():
    """Each command moves money once, however often it is killed, undone and typed again; all of it ends."""
    _run(40, 25)


@pytest.mark.long
def test_transactions_of_the_payer_against_a_model_for_long():
    """The long form."""
    _run(300, 50)
