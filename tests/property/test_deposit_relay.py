"""Signed deposits that two workers of one payee bring onto the chain, whatever the chain and the payers do.

Journal, books and turns are real, and so is all between them and the node, which is a model. Before and after
each question to it and each use of journal and budget, something else may happen: the process is killed, the
chain loses its newest block, the other worker sends, or the payer does what the deposit was to do.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from counter import CHAIN_ID, ESCROW, NOW, PAYEE, USDC, Counter
from http402.signing_payer import SigningPayer
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from memory import folder_in_memory
from node import GWEI, MATTERS, Node
from steps import Killed, Mortal, Steps

from microwallet.domain.channel import NO_CHANNEL
from microwallet.domain.identifiers import hexed
from microwallet.domain.ports import Quiet
from microwallet.domain.voucher import VoucherKey
from microwallet.errors import MicrowalletError
from microwallet.escrow import delivery, transactions
from microwallet.escrow.calls import open_channel
from microwallet.escrow.network import LOCAL_NETWORK, built_in_networks
from microwallet.escrow.reader import EscrowReader
from microwallet.escrow.transactions import TransactionSender
from microwallet.http402.charging import channel_book, opening
from microwallet.http402.charging.chain import PayeeChain
from microwallet.http402.charging.deposit_relay import DepositRelay
from microwallet.http402.charging.signed_deposit import CheckedDeposit, RelayedToken
from microwallet.http402.wire.session_payload import MergedTopUp, TopUpAction, VoucherAction
from microwallet.ledger.gas_spending import BUDGET_SECONDS, GasSpending
from microwallet.ledger.turns import Turns

PRICE, LEAST = 1000, 10_000
BUDGET = 600_000 * GWEI
"""Some deposits an hour, and two of them at a time."""
KEY = VoucherKey(b"\x71" * 32)
CHAIN = SimpleNamespace(chain_id=CHAIN_ID, escrow_contract=ESCROW, token=USDC.token)
PAYERS = [SigningPayer(CHAIN, PAYEE, usdc=0) for _ in range(2)]
CHANNELS = [one.with_salt(f"0x{number:064x}") for one in PAYERS for number in (1, 2)]
ENDS = [2**40, 2**40, NOW + 90, NOW + 2 * BUDGET_SECONDS]
HAPPENS = ["mine", "drop", "reorganise", "open_directly", "revoke", "grow_dear", "stop", "wait", "look"]
"""What may happen at any time."""
MEDDLES = ["spend", "submit", "rival", "rival"]
AMID = [*HAPPENS, *MATTERS, *MEDDLES, "kill", "kill"]
"""What may happen between two steps of a worker."""
TOKENS = 300_000
"""Base units that a payer has at first."""


class Impatient(Turns):
    """Waits for nobody, as all happens in one thread."""

    def turn(self, name, *, seconds=0.0):
        return super().turn(name, seconds=seconds)


class Relaying(RuleBasedStateMachine):
    """Two workers, four channels of two payers, and one chain."""

    @initialize()
    def begin(self):
        self.folder = folder_in_memory()
        coin, tokens = {KEY.address: 10**18}, {one.address: TOKENS for one in PAYERS}
        self.node = Node(now=NOW, coin=coin, tokens=tokens, block_seconds=2)
        self.node.mine()
        self.steps = Steps({what: getattr(self, what) for what in {*HAPPENS, *MEDDLES}})
        self.node.before = self.steps.step
        self.aim = None
        """The deposit that others meddle with."""
        self.patches = pytest.MonkeyPatch()
        self.patches.setattr(opening, "PATIENCE_SECONDS", 0.0)
        self.patches.setattr(channel_book, "GATHER_SECONDS", 3600.0)  # nothing is asked by the way
        self.patches.setattr(delivery, "time", self.node)
        self.patches.setattr(transactions, "time", self.node)
        self.deposits, self.shown, self.served = [], {}, {}
        """All deposits, those that may be paid for by their calls, and which channel each challenge has
        served."""
        self.workers = [self.worker(), self.worker()]

    def teardown(self):
        if not hasattr(self, "workers"):
            return
        self.steps.plan()
        self.patches.undo()
        for counter in self.workers:
            self.end(counter)
        self.folder.cleanup()

    def worker(self):
        counter, node = Counter(Path(self.folder.name)), self.node
        reader = EscrowReader(node, ESCROW)
        chain = PayeeChain(reader, chain_id=CHAIN_ID, confirmations=2)
        journal = Mortal(counter.ledger.journal, self.steps)
        spending = Mortal(GasSpending(counter.ledger.database, self.clock), self.steps)
        counter.turns = Impatient(counter.ledger.turns.path)
        counter.sender = TransactionSender(
            node,
            built_in_networks()[LOCAL_NETWORK],
            journal,
            KEY.address,
            lambda: KEY.secret,
            max_fee_gwei=100,
            wait_seconds=12,
            stuck_seconds=5,
            reporter=Quiet(),
            gas_budget=spending,
        )
        counter.relay = DepositRelay(
            counter.sender,
            reader,
            chain_id=CHAIN_ID,
            journal=journal,
            sender_of=None,
            turns=counter.turns,
            gas_spending=spending,
            gas_budget=BUDGET,
            clock=self.clock,
            emit=lambda _event, _details: None,
        )

        async def ask(work):
            return work(chain)

        async def ask_later(work):
            node.sleep(3)
            return work(chain)

        async def relay(work):
            return work(counter.relay)

        counter.desk.run, counter.openings.run = ask, ask_later
        counter.gateway._opening._relay.run = relay
        token = RelayedToken(domain=PAYERS[0].domain, min_deposit=LEAST)
        object.__setattr__(counter.gateway.terms, "relayed_tokens", {USDC.token: token})
        return counter

    def end(self, counter):
        counter.turns.close()
        counter.close()

    def clock(self):
        return int(self.node.now)

    # What happens

    def wait(self):
        """An hour goes by."""
        self.node.now += BUDGET_SECONDS
        self.node.mine()

    def mine(self):
        self.node.mine()

    def drop(self):
        self.node.drop()

    def reorganise(self):
        self.node.undo()

    def grow_dear(self):
        """So that what was sent is passed over; or cheap again."""
        self.node.base_fee = 3 * GWEI if self.node.base_fee == GWEI else GWEI

    def stop(self):
        """No blocks come by themselves; or they do again."""
        self.node.is_mining = not self.node.is_mining

    def spend(self):
        """The payer's tokens go elsewhere, or come back."""
        payer = self.aim.descriptor.payer

        def act(state, _):
            state.tokens[payer] = 0 if state.tokens[payer] else TOKENS

        self.node.mine(act)

    def submit(self):
        """Somebody else carries the deposit out."""
        call = self.aim.call()
        self.node.mine(lambda state, time: state.call(PAYEE, call.to, call.data, call.value, time))

    def open_directly(self):
        """The payer opens the channel with next to nothing in it."""
        descriptor = self.aim.descriptor
        call = open_channel(descriptor, 1)

        def act(state, time):
            state.allowed[descriptor.payer] = 1
            state.call(descriptor.payer, call.to, call.data, call.value, time)

        self.node.mine(act)

    def revoke(self):
        """The payer cancels the authorization."""
        key = self.aim.descriptor.payer, self.aim.authorization.nonce
        self.node.mine(lambda state, _: state.used.setdefault(key, False))

    def look(self):
        """What whoever settles does now and then."""
        self.workers[0].sender.resume_all(wait_seconds=0)

    def rival(self):
        """The other worker brings a deposit of somebody else's, or this one, meanwhile."""
        deposits = [deposit for deposit, *_ in self.shown.values()]
        payer = self.aim.descriptor.payer
        others = [one for one in deposits if one.descriptor.payer != payer] or deposits
        with suppress(MicrowalletError):
            for deposit in others[-1:]:
                self.workers[1 - self.at_work].relay.bring(deposit)

    def credential(self, channel, is_open, value, ends, amount):
        """A deposit, and the action that asks for it."""
        sign = channel.open_authorization if is_open else channel.top_up_authorization
        authorization = sign(value, valid_before=ends)
        deposit = CheckedDeposit(descriptor=channel.descriptor, authorization=authorization)
        self.deposits.append(deposit)
        transfer = channel.transfer(authorization)
        if is_open:
            return deposit, channel.opening(amount, transfer)
        salt = hexed(authorization.top_up_salt)
        if amount is not None:
            merged = MergedTopUp(salt=salt, deposit=transfer)
            return deposit, VoucherAction(voucher=channel.voucher(amount), merged=merged)
        return deposit, TopUpAction(
            channel_id=channel.channel_id, additional_deposit=value, deposit=transfer, salt=salt
        )

    @rule(
        worker=st.integers(0, 1),
        channel=st.sampled_from(CHANNELS),
        is_open=st.sampled_from([None, None, None, True, False]),
        value=st.sampled_from([LEAST, 3 * LEAST, 3 * LEAST, LEAST - 1]),
        ends=st.sampled_from(ENDS),
        more=st.sampled_from([PRICE, PRICE, LEAST, 4 * LEAST, None]),
        is_reused=st.sampled_from([False] * 4 + [True]),
        happens=st.lists(st.tuples(st.integers(1, 60), st.sampled_from(AMID)), max_size=4),
    )
    def pay_amid(self, worker, channel, is_open, value, ends, more, is_reused, happens):
        """With a signed deposit, or with one that was shown before."""
        account = self.workers[worker].account(channel)
        if is_open is None:
            is_open = account is None
        amount = (account.accepted if account else 0) + (more or PRICE)
        if more is None and not is_open:
            amount = None
        deposit, action = self.credential(channel, is_open, value, ends, amount)
        if value >= LEAST:
            self.shown[deposit.call().data] = deposit, channel, is_open, ends
        self.aim, self.at_work = deposit, worker
        self.steps.plan(happens)
        answer = self.ask(worker, channel, action, is_reused=is_reused)
        self.steps.plan()
        if answer is not None and answer.status_code == 200 and not is_open:
            assert self.node.state.used[channel.address, deposit.authorization.nonce]

    @rule(worker=st.integers(0, 1), channel=st.sampled_from(CHANNELS))
    def pay_well(self, worker, channel):
        """With a deposit that nothing is the matter with."""
        self.pay_amid(worker, channel, None, 3 * LEAST, 2**40, PRICE, False, [])

    def ask(self, worker, channel, action, *, is_reused=False):
        """The answer to a credential; None where the worker did not live to give it."""
        counter = self.workers[worker]
        counter.now = self.clock()
        challenge = next(reversed(self.served), None) if is_reused else None
        challenge = challenge or counter.challenge()
        try:
            answer = counter.pay(channel, action, challenge=challenge)
        except Killed:
            self.end(counter)
            self.workers[worker] = self.worker()
            return None
        event(f"answered {answer.status_code}")
        assert answer.status_code in (200, 402, 409, 410, 503), answer.text
        assert self.node.shown not in answer.text
        if answer.status_code != 200:
            assert answer.headers["content-type"] == "application/problem+json"
            assert json.loads(answer.content)["status"] == answer.status_code
        elif not isinstance(action, TopUpAction):
            assert self.served.setdefault(challenge, channel.channel_id) == channel.channel_id
        return answer

    @rule(what=st.sampled_from(HAPPENS))
    def happen(self, what):
        """Between the requests of payers, after the first."""
        if self.aim is not None:
            self.steps.happen(what)

    @rule(worker=st.integers(0, 1))
    def settle_down(self, worker):
        """Once the node is well again, nothing stays on its way, and what is on the chain is found."""
        node, counter = self.node, self.workers[worker]
        node.is_mining, node.base_fee = True, GWEI
        for _ in range(3):
            counter.sender.resume_all(wait_seconds=20)
            node.mine()
        assert counter.ledger.journal.unfinished(CHAIN_ID) == []
        for deposit, channel, is_open, ends in sorted(self.shown.values(), key=lambda one: not one[2]):
            if node.state.used.get((deposit.descriptor.payer, deposit.authorization.nonce)):
                self.find_again(worker, deposit, channel, ends, is_open=is_open)

    def find_again(self, worker, deposit, channel, ends, *, is_open):
        event("found again")
        before, counter = self.node.state.nonces.get(KEY.address), self.workers[worker]
        amount = PRICE if is_open else None
        _, action = self.credential(channel, is_open, deposit.authorization.value, ends, amount)
        answer = self.ask(worker, channel, action)
        assert self.node.state.nonces.get(KEY.address) == before
        account = counter.account(channel)
        if is_open:
            assert account is not None
            assert answer.status_code in (200, 402), answer.text
        else:
            assert answer.status_code == (410 if account is None else 200), answer.text
            state = self.node.state.channels[channel.channel_id]
            assert account is None or account.deposit == state.deposit

    # What holds

    @invariant()
    def nothing_is_overdrawn(self):
        if not hasattr(self, "workers"):
            return
        self.check_gas()
        journal = self.workers[0].ledger.journal
        for deposit in self.deposits:
            entries = journal.of_operation(deposit.operation)
            assert len({one.transaction.nonce for one in entries if one.status.is_live}) <= 1
            if deposit.authorization.value < LEAST:
                assert not any(deposit.call().data in one.transaction.raw for one in entries)
        for channel in CHANNELS:
            state = self.node.state.channels.get(channel.channel_id, NO_CHANNEL)
            if (account := self.workers[0].account(channel)) is not None:
                assert account.spent <= account.accepted <= account.deposit <= state.deposit

    def check_gas(self):
        """No hour costs more than the budget."""
        costs = [self.node.first_mined[hash] for hash in self.node.mined()]
        for now, _ in costs:
            assert sum(cost for then, cost in costs if now - BUDGET_SECONDS < then <= now) <= BUDGET


TestRelaying = Relaying.TestCase
TestRelaying.settings = settings(max_examples=settings.default.max_examples // 4, stateful_step_count=20)
