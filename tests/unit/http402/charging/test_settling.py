"""When a gateway settles by itself, how often it tries, and what a payer is told of a close that fails."""

from __future__ import annotations

from dataclasses import replace

import pytest

from microwallet.domain.channel import ChannelDescriptor, ChannelState, PayeeChannel
from microwallet.domain.identifiers import ChainId, TxHash, checksum_address
from microwallet.domain.money import Asset
from microwallet.errors import InsufficientFunds, NetworkError, OutcomeUnknown, TransactionReverted
from microwallet.http402.charging.refusal import Refused
from microwallet.http402.charging.settling import FIRST_PAUSE, LONGEST_PAUSE, Settling, SettlingPolicy
from microwallet.http402.wire.problems import ProblemType
from microwallet.payee.captures import Action
from microwallet.payee.lookout import Looked
from microwallet.payee.outcome import Captured, Outcome

PAYEE = checksum_address(b"\x44" * 20)
USDC = Asset(chain_id=ChainId(31337), token=checksum_address(b"\x55" * 20), symbol="USDC", decimals=6)
ETH = Asset(chain_id=ChainId(31337), token=checksum_address(bytes(20)), symbol="ETH", decimals=18)
NOW = 1_800_000_000


def channel(spent=1000, *, settled=0, asset=USDC, payee=PAYEE, number=1):
    descriptor = ChannelDescriptor(
        payer=checksum_address(b"\x66" * 20),
        payee=payee,
        token=asset.token,
        salt="0x" + number.to_bytes(32, "big").hex(),
        authorized_signer=checksum_address(b"\x77" * 20),
        escrow_contract=checksum_address(b"\x88" * 20),
        chain_id=asset.chain_id,
    )
    return PayeeChannel(
        channel_id=descriptor.channel_id(),
        descriptor=descriptor,
        asset=asset,
        state=ChannelState(deposit=10**6, settled=settled, close_requested_at=0, finalized=False),
        authorized=10**6,
        spent=spent,
        as_of=NOW,
        signature=b"",
    )


class Till:
    """The payee's settlement and ledger, with what a test puts in."""

    def __init__(self, *channels, accepted_at=NOW, **policy):
        self.channels = list(channels)
        self.at = accepted_at
        self.now = NOW
        self.error = None
        self.reserved = 0
        self.resumed = Outcome()
        self.executed = []
        self.told = []
        self.reads = 0
        self.settling = Settling(
            self,
            self,
            SettlingPolicy(payee=PAYEE, chain_id=USDC.chain_id, **policy),
            clock=lambda: self.now,
            emit=lambda event, details: self.told.append((event, details.get("code"))),
        )

    def owing(self, chain_id, payee, token, _least):
        return [one for one in self._of(chain_id, payee) if one.descriptor.token == token]

    def idle(self, chain_id, payee, *, since):
        self.reads += 1
        return self._of(chain_id, payee) if self.at <= since else []

    def _of(self, chain_id, payee):
        about = (chain_id, payee)
        return [one for one in self.channels if (one.descriptor.chain_id, one.descriptor.payee) == about]

    def look(self):
        return Looked(channels=self.channels, payees={PAYEE}, chain_time=self.now)

    def certain(self, channels):
        return [replace(one, spent=one.spent - self.reserved) for one in channels]

    @property
    def states(self):
        return {one.channel_id: one.state for one in self.channels}

    def resume(self, _payees):
        return self.resumed

    def plan(self, selection):
        return selection.plan(self.channels)

    def by_transaction(self, planned):
        return [planned] if planned else []

    def execute(self, action, planned, *, by_payer=False):
        assert by_payer is (action is Action.CLOSE)
        self.executed.append((action, [item.channel.channel_id for item in planned]))
        outcome = Outcome()
        if self.error is not None:
            outcome.fail(planned, self.error)
        elif action is Action.SETTLE:
            for item in planned:
                place = [one.channel_id for one in self.channels].index(item.channel.channel_id)
                state = replace(item.channel.state, settled=item.capture_amount)
                self.channels[place] = replace(item.channel, state=state)
        return outcome

    def settles(self):
        """What one look settles."""
        self.executed.clear()
        self.settling.look()
        return [ids for action, ids in self.executed if action is Action.SETTLE]


def test_a_requested_close_is_answered_at_once():
    """With all of the grace period left, though nothing is due by itself."""
    till = Till(channel(1000), channel(1000, number=2))
    till.channels[1] = replace(one := till.channels[1], state=replace(one.state, close_requested_at=NOW))
    till.settling.look()
    assert till.executed == [(Action.CLOSE, [one.channel_id])]


@pytest.mark.parametrize(("spent", "is_due"), [(999, False), (1000, True), (1001, True)])
def test_above_a_sum(spent, is_due):
    """From the very sum on, in what was charged and is not settled yet."""
    assert bool(Till(channel(spent), above={USDC.token: 1000}).settles()) is is_due
    assert bool(Till(channel(spent + 500, settled=500), above={USDC.token: 1000}).settles()) is is_due


def test_what_is_reserved_is_not_due():
    """It is not taken while requests are in hand: what is left would be worth no transaction."""
    for policy in ({"above": {USDC.token: 1000}}, {"idle_seconds": 0}):
        till = Till(channel(1200), **policy)
        till.reserved = 1200
        assert not till.settles()
    till = Till(channel(1200), above={USDC.token: 1000})
    till.reserved = 201
    assert not till.settles()
    till.reserved = 200
    assert till.settles()


def test_above_nothing():
    """Whatever is unsettled is settled, and nothing is not."""
    assert Till(channel(1), above={USDC.token: 0}).settles()
    assert not Till(channel(500, settled=500), above={USDC.token: 0}).settles()


def test_each_asset_has_its_own_sum():
    """A thousand base units of the one are not a thousand of the other."""
    till = Till(channel(10**5), channel(10**5, asset=ETH), above={USDC.token: 10**6, ETH.token: 10**5})
    assert till.settles() == [[till.channels[1].channel_id]]
    assert Till(channel(10**5, asset=ETH), above={USDC.token: 1}).settles() == []


@pytest.mark.parametrize(("idle", "is_due"), [(59, False), (60, True), (61, True)])
def test_when_idle(idle, is_due):
    """From the very second on; by default time alone settles nothing."""
    assert bool(Till(channel(1), accepted_at=NOW - idle, idle_seconds=60).settles()) is is_due
    assert Till(channel(1), accepted_at=0).settles() == []


def test_many_idle_channels_are_looked_up_once():
    """Ten thousand channels are one query, not ten thousand."""
    till = Till(*(channel(1, number=number) for number in range(50)), accepted_at=NOW - 60, idle_seconds=60)
    assert len(till.settles()[0]) == 50
    assert till.reads == 1


def test_what_is_due_goes_in_one_piece():
    """Many channels, one transaction; nothing that owes nothing, nothing of another payee or chain."""
    other = checksum_address(b"\x99" * 20)
    due = [channel(number=1), channel(number=2)]
    elsewhere = channel(number=5, asset=replace(USDC, chain_id=ChainId(1)))
    rest = [channel(0, number=3), channel(number=4, payee=other), elsewhere]
    till = Till(*due, *rest, above={USDC.token: 1})
    assert till.settles() == [[one.channel_id for one in due]]
    assert till.settles() == []


def test_what_fails_is_tried_again_less_and_less_often():
    """After a minute, two, four ... up to an hour; told once; and at once again when it has worked."""
    till = Till(channel(), above={USDC.token: 1})
    till.error = InsufficientFunds("no coin for the gas")
    pause = FIRST_PAUSE
    for _ in range(10):
        assert till.settles()
        till.now += pause - 1
        assert till.settles() == []
        till.now += 1
        pause = min(2 * pause, LONGEST_PAUSE)
    assert till.told == [("failed", "insufficient-funds")]
    till.error = None
    assert till.settles()
    till.channels = [channel(2000)]
    assert till.settles()


def test_one_transaction_that_fails_is_tried_again_after_a_pause():
    """Though the last of them went well: a failure may cost gas each time."""
    till = Till(channel(), channel(number=2), above={USDC.token: 1})
    till.by_transaction = lambda planned: [[item] for item in planned]
    execute, errors = till.execute, [InsufficientFunds("no coin for the gas"), None]

    def executed(*arguments):
        till.error = errors.pop(0)
        return execute(*arguments)

    till.execute = executed
    assert till.settles() == [[one.channel_id] for one in till.channels]
    assert till.settles() == []


@pytest.mark.parametrize("fails", [False, True])
def test_a_clock_that_is_set_back_keeps_nothing_from_being_settled(fails):
    """By a day, say: what is due is settled at once, and tried again after a pause if that fails."""
    till = Till(channel(), above={USDC.token: 1})
    till.error = InsufficientFunds("no coin for the gas") if fails else None
    assert till.settles()
    till.now -= 24 * 3600
    till.channels = [channel(2000)]
    assert till.settles()
    till.channels = [channel(3000)]
    assert bool(till.settles()) is not fails


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (TransactionReverted("it reverted"), ProblemType.TRANSACTION_REVERTED),
        (OutcomeUnknown("not mined yet"), ProblemType.TRY_AGAIN),
        (InsufficientFunds("0x44 has no coin for the gas"), ProblemType.TRY_AGAIN),
    ],
)
def test_a_payer_learns_whether_to_ask_again(error, problem):
    """And nothing of the payee's key or purse."""
    till = Till(channel())
    till.error = error
    with pytest.raises(Refused) as refused:
        till.settling.close(till.channels[0].channel_id)
    assert refused.value.problem.type is problem
    assert "0x44" not in refused.value.problem.detail
    assert [event for event, _ in till.told] == ["failed"]


def test_a_payer_learns_which_transaction_closed_the_channel():
    """Not which one closed another, or settled this one before: those may be finished at the same time."""
    till = Till(channel(), channel(number=2))
    own, other = till.channels
    own_closed, other_closed = (
        replace(one, state=replace(one.state, finalized=True)) for one in (own, other)
    )
    till.resumed.channels = [
        Captured(channel=one, captured=0, refunded=0, transaction_hash=TxHash(hash), gas_used=0)
        for one, hash in ((other_closed, "0x1"), (own, "0x2"), (own_closed, "0x3"))
    ]
    assert till.settling.close(own.channel_id) == "0x3"


def test_a_silent_chain_is_a_silent_chain():
    """The gateway answers 503 for it."""
    till = Till(channel())
    till.error = NetworkError("no answer")
    with pytest.raises(NetworkError):
        till.settling.close(till.channels[0].channel_id)
