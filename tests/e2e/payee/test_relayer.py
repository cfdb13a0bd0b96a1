"""A payee without gas: another account of its own sends what it has signed, and pays for that."""

from __future__ import annotations

import time

import pytest
from anybody import pooled

from microwallet.domain.ports import Quiet
from microwallet.escrow.authorizations import EXPIRY_MARGIN
from microwallet.http402.charging.settling import Settling, SettlingPolicy
from microwallet.payee.relayer import DEADLINE_SECONDS
from microwallet.wallet import Wallet

HASTY = {"MICROWALLET_WAIT_SECONDS": "1"}
DAY = 24 * 60 * 60


@pytest.fixture
def payee(make_payee, chain):
    """A home that is paid at bob's address, which has no coin, and where carol has some."""
    payee = make_payee()
    chain.node.add_native(payee.home.with_account("carol").address, 10**18)
    chain.rpc.call("anvil_setBalance", [payee.address, "0x0"])
    return payee


@pytest.fixture
def sent(payee, chain):
    """How many transactions carol has sent."""
    listed = payee.home.run("account", "list", "--json").data["accounts"]
    address = next(one["address"] for one in listed if one["name"] == "carol")
    return lambda: int(chain.rpc.call("eth_getTransactionCount", [address, "latest"]), 16)


def relay(payee, verb, *arguments, **options):
    return payee.run(verb, *arguments, "--relayer", "carol", "--yes", **options)


def test_a_close_pays_and_refunds(payee, payers, sent):
    """The payee sends nothing and needs nothing; the next close finds nothing to do."""
    opened = payers.open(payee.address, 10_000_000)
    payee.accept(opened.voucher(1_500_000))
    assert payee.run("close", opened.channel_id, "--yes").error["code"] == "insufficient-funds"
    (closed,) = relay(payee, "close", opened.channel_id).data["channels"]
    assert (closed["captured"], closed["refunded"], closed["status"]) == ("1500000", "8500000", "finalized")
    assert (payee.holds(), payee.holds_native(), payee.sent(), sent()) == (1_500_000, 0, 0, 1)
    assert payers.reader.token_balance(payee.token, opened.descriptor.payer) == 8_500_000
    assert relay(payee, "close", "--all").data == {"channels": [], "transactions": []}


def test_the_fee_that_is_told_is_what_its_transactions_cost_at_most(payee, payers, chain):
    """One transaction a channel, each with the payee's signature in it, paid by the relayer."""
    opened = [payers.open(payee.address) for _ in range(2)]
    payee.accept(*(one.voucher(5) for one in opened))
    plan = ("settle", "--all", "--relayer", "carol", "--dry-run")
    told = int(payee.run(*plan).data["maxFee"])
    screen = payee.home.run("payee", *plan).succeeded().stdout
    assert screen.endswith("ETH now, and never above 200 gwei per gas, paid by carol\n")
    settled = relay(payee, "settle", "--all").data["transactions"]
    prices = [
        int(chain.rpc.call("eth_getTransactionReceipt", [one["transactionHash"]])["effectiveGasPrice"], 16)
        for one in settled
    ]
    assert len(settled) == 2
    paid = sum(one["gasUsed"] * price for one, price in zip(settled, prices, strict=True))
    assert paid <= told < 5 * paid


def test_a_settle_takes_exactly_what_is_chosen(payee, payers, sent):
    """What the payee signs is the capture amount: whoever sends it cannot make it another."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(1_500))
    assert relay(payee, "settle", opened.channel_id, "--capture", "0.001 USDC").data["channels"][0][
        "captured"
    ] == ("1000")
    (settled,) = relay(payee, "settle", "--all").data["channels"]
    assert (settled["captured"], payee.holds(), sent()) == ("500", 1_500, 2)


def test_each_channel_takes_a_transaction(payee, payers, sent):
    """Closed with nothing more to take as well; the setting does the same as the flag."""
    opened = [payers.open(payee.address) for _ in range(2)]
    payee.accept(*(channel.voucher(1_000) for channel in opened))
    relay(payee, "settle", "--all").data  # noqa: B018
    payee.run("close", "--all", "--yes", env={"MICROWALLET_RELAYER": "carol"}).data  # noqa: B018
    assert [payers.closes(channel) for channel in opened] == [1, 1]
    assert (payee.holds(), sent()) == (2_000, 4)


def test_a_close_that_is_requested_while_others_are_settled(payee, payers, chain):
    """A gateway that settles what is idle, one a transaction, looks before each for payers who leave."""
    opened = [payers.open(payee.address) for _ in range(3)]
    payee.accept(*(channel.voucher(1_000) for channel in opened))
    first, second, last = sorted(opened, key=lambda one: one.channel_id)
    told = []

    class Leaving(Quiet):
        def say(self, message):
            if message == "sending a transaction to settle a channel" and not told:
                payers.request_close(last)

    policy = SettlingPolicy(payee=payee.address, chain_id=chain.chain_id, idle_seconds=0)
    with (
        Wallet.open(environment=payee.home.environment, flags={"relayer": "carol"}) as wallet,
        wallet.twin(reporter=Leaving()) as own,
    ):
        Settling(
            own.settlement,
            own.ledger.vouchers,
            policy,
            clock=own.now,
            emit=lambda event, details: told.append((event, details["channelId"])),
        ).look()
    assert told == [
        ("settled", first.channel_id),
        ("close-requested", last.channel_id),
        ("closed", last.channel_id),
        ("settled", second.channel_id),
    ]
    assert payee.holds() == 3_000


def test_a_payee_relays_nothing_for_itself(payee, payers, chain):
    """It needs no authorization of its own: its channels take one transaction, and no more gas than that."""
    chain.node.add_native(payee.address, 10**18)
    opened = [payers.open(payee.address) for _ in range(2)]
    payee.accept(*(channel.voucher(1_000) for channel in opened))
    words = ("close", "--all", "--relayer", "bob")
    told = [payee.run(*words[:most], "--dry-run").data["maxFee"] for most in (2, 4)]
    assert told[0] == told[1]
    assert len(payee.run(*words, "--yes").data["transactions"]) == payee.sent() == 1
    assert payee.holds() == 2_000


@pytest.mark.parametrize("dropped", [False, True])
def test_a_lost_answer_never_captures_twice(payee, payers, chain, sent, dropped):
    """Exit 5 while it is unknown, for the payee itself too; then the same transaction, and no other."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(1_000))
    chain.rpc.call("evm_setAutomine", [False])
    try:
        assert relay(payee, "close", "--all", env=HASTY).exit_code == 5
        (hash,) = pooled(chain)
        better = payee.run("accept", "-", input=opened.voucher(1_500))
        assert better.exit_code == 4
        chain.node.add_native(payee.address, 10**18)
        assert payee.run("close", "--all", "--yes", env=HASTY).exit_code == 5
        assert pooled(chain) == [hash]
        if dropped:
            chain.rpc.call("anvil_dropTransaction", [hash])
    finally:
        chain.rpc.call("evm_setAutomine", [True])
    if not dropped:
        chain.rpc.call("evm_mine")
    (closed,) = relay(payee, "close", "--all").data["channels"]
    assert (closed["transactionHash"], closed["captured"]) == (hash, "1000")
    assert (payee.holds(), payee.sent(), sent(), payers.closes(opened)) == (1_000, 0, 1, 1)


def test_more_vouchers_while_a_settle_is_unknown(payee, payers, chain, sent):
    """What was signed is captured first, and then what came later, for another channel too: never more than
    the sum."""
    opened, other = payers.open(payee.address), payers.open(payee.address)
    payee.accept(opened.voucher(1_000))
    chain.rpc.call("evm_setAutomine", [False])
    assert relay(payee, "settle", "--all", env=HASTY).exit_code == 5
    payee.accept(opened.voucher(1_500), other.voucher(700))
    assert relay(payee, "settle", "--all", env=HASTY).exit_code == 5
    assert len(pooled(chain)) == 1
    chain.rpc.call("evm_setAutomine", [True])
    chain.rpc.call("evm_mine")
    captured = [row["captured"] for row in relay(payee, "settle", "--all").data["channels"]]
    assert (captured[0], sorted(captured[1:])) == ("1000", ["500", "700"])
    assert (payee.holds(), sent()) == (2_200, 3)


def test_a_killed_close_is_finished(payee, payers):
    """SIGKILL at some moments; a normal run leaves each channel closed exactly once."""
    for delay in (0.4, 0.8, 1.2):
        opened, before = payers.open(payee.address), payee.holds()
        payee.accept(opened.voucher(1_000))
        words = ("payee", "close", "--all", "--yes", "--relayer", "carol")
        closing = payee.home.start(*words, stdout=-3, stderr=-3)
        time.sleep(delay)
        closing.kill()
        closing.wait()
        relay(payee, "close", "--all").data  # noqa: B018
        assert (payee.holds() - before, payers.closes(opened)) == (1_000, 1)


def let_authorizations_expire(chain):
    """Past the deadline of any, which was set by the later of two clocks: a chain's may be behind ours, as
    others of its tests leave it."""
    behind = max(0, int(time.time()) - chain.node.advance(0).timestamp)
    chain.node.advance(behind + DEADLINE_SECONDS + 2 * EXPIRY_MARGIN)


def looked_at(payee, *, clock_is_off_by=0):
    """Finish what is unfinished, on a machine whose clock is wrong by so many seconds."""
    with Wallet.open(environment=payee.home.environment) as wallet:
        wallet.now = lambda: int(time.time()) + clock_is_off_by
        assert wallet.settlement.resume([payee.address]).transactions == []


def test_an_authorization_that_was_shown_keeps_the_channel_shut(payee, payers, chain):
    """A close that reverted can be sent by anyone until its deadline: till then no voucher is taken. By the
    chain's time, whatever the clock here says."""
    opened = payers.open(payee.address, native=True)
    payee.accept(opened.voucher(1_000))
    chain.rpc.call("evm_setAutomine", [False])
    closing = payee.home.start(
        "payee", "close", "--all", "--yes", "--relayer", "carol", "--json", stdout=-1, stderr=-3
    )
    deadline = time.monotonic() + 30
    while not pooled(chain):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    payers.become(opened)
    chain.rpc.call("evm_mine")
    chain.rpc.call("evm_setAutomine", [True])
    closing.communicate(timeout=60)
    assert closing.returncode == 8
    assert payee.holds_native() == 1_000
    late = payee.run("accept", "-", input=opened.voucher(1_500))
    assert late.exit_code == 4
    assert "close" in late.stdout
    looked_at(payee, clock_is_off_by=DAY)
    assert payee.run("accept", "-", input=opened.voucher(1_500)).exit_code == 4
    let_authorizations_expire(chain)
    looked_at(payee, clock_is_off_by=-DAY)
    payee.accept(opened.voucher(1_500))


@pytest.mark.parametrize("expired", [False, True])
def test_a_close_that_a_reorganisation_undid(payee, payers, chain, sent, expired):
    """It is sent again, and not once its authorization has expired: it could only revert."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(1_000))
    snapshot = chain.rpc.call("evm_snapshot")
    [first] = relay(payee, "close", "--all").data["transactions"]
    chain.rpc.call("evm_revert", [snapshot])
    payee.run("list").data  # noqa: B018
    assert payee.run("accept", "-", input=opened.voucher(1_500)).exit_code == 4
    if expired:
        let_authorizations_expire(chain)
        looked_at(payee)
        payee.accept(opened.voucher(1_500))
    [closed] = relay(payee, "close", "--all").data["transactions"]
    assert (closed["transactionHash"] == first["transactionHash"]) is not expired
    assert (payee.holds(), sent()) == (1_500 if expired else 1_000, 1)


def test_a_close_that_a_killed_process_began(payee, payers):
    """The channel takes vouchers again as soon as anybody looks: nothing was signed."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(1_000))
    with Wallet.open(environment=payee.home.environment) as wallet:
        wallet.ledger.vouchers.begin_closes([opened.channel_id])
    assert payee.run("accept", "-", input=opened.voucher(1_500)).exit_code == 4
    relay(payee, "settle", "--all", "--min", "100 USDC").data  # noqa: B018
    assert payee.run("accept", "-", input=opened.voucher(1_500)).exit_code == 0


def test_a_relayer_that_cannot_pay(payee, payers):
    """The error names the relayer, and nothing is lost."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(5))
    poor = payee.run("close", "--all", "--yes", "--relayer", "bob")
    assert (poor.exit_code, poor.error["code"]) == (4, "insufficient-funds")
    unknown = payee.run("close", "--all", "--yes", "--relayer", "nobody")
    assert (unknown.exit_code, unknown.error["code"]) == (2, "not-found")
