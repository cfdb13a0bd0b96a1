"""The Python API: one wallet, many threads and tasks, and the limits of a program that nobody watches."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import partial

import httpx
import pytest
from http402.payee_double import PAID_BODY, STREAM, payee_address

import microwallet
from microwallet.errors import (
    AboveLimit,
    AmountExceedsDeposit,
    ConfirmationRequired,
    IdempotencyMismatch,
    InvalidAmount,
    NoPayableChallenge,
    UnknownReference,
    VoucherRejected,
)
from microwallet.http402.wire.events import NeedVoucher
from microwallet.wallet import Wallet


@pytest.fixture
def opened(monkeypatch):
    """Opens the wallet of a home in this process."""

    def open_wallet(home, kind=microwallet.Wallet, **named):
        monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
        return kind.open(
            home.path,
            rpc_url=home.settings["MICROWALLET_RPC_URL"],
            password_file=home.password_file,
            **named,
        )

    return open_wallet


def test_the_main_job(alice, bob, opened):
    """Open, pay, accept, settle, top up, close and be refunded, all from programs."""
    with opened(alice) as payer, opened(bob) as payee:
        assert (payer.address, payer.network) == (alice.address, "anvil")
        channel = payer.open_channel(payee.address, "1 USDC", label="coffee")
        assert (channel.status, str(channel.deposit), channel.label) == ("open", "1 USDC", "coffee")
        payment = payer.pay("coffee", "0.25 USDC")
        assert (payment.amount, payment.cumulative_amount) == (payer.amount("0.25 USDC"),) * 2
        accepted = payee.accept(payment.voucher)
        assert (accepted.accepted, accepted.duplicates) == (1, 0)
        assert str(accepted.channels[0].unsettled) == "0.25 USDC"
        assert payee.accept([payment.voucher, payment.voucher.encode() + b"\n", "\n"]).duplicates == 2
        [capture] = payee.settle()
        assert (str(capture.captured), str(capture.refunded)) == ("0.25 USDC", "0 USDC")
        assert payee.settle() == []
        assert str(payer.top_up(channel, payer.amount("0.5 USDC")).deposit) == "1.5 USDC"
        payee.accept(payer.pay(channel, "1 USDC").voucher)
        [closed] = payee.settle([channel.channel_id], close=True)
        assert (closed.channel.status, str(closed.refunded)) == ("finalized", "0.25 USDC")
        assert payer.close_channel(channel).status == "finalized"
        assert payer.channels() == []
        assert [one.status for one in payer.channels(finalized=True)] == ["finalized"]
        [balance] = [one for one in payer.balances() if str(one.locked).endswith("USDC")]
        assert (str(balance.on_chain), str(balance.locked)) == ("998.75 USDC", "0 USDC")


def test_refusals_are_the_errors_of_the_tree(alice, bob, opened):
    """A payment beyond the deposit, a key used twice, a voucher of somebody else: each by its own name."""
    with opened(alice) as payer:
        channel = payer.open_channel(bob.address, "1 USDC")
        with pytest.raises(AmountExceedsDeposit):
            payer.pay(channel, "2 USDC")
        first = payer.pay(channel, "0.1 USDC", idempotency_key="k")
        assert payer.pay(channel, "0.1 USDC", idempotency_key="k").voucher == first.voucher
        with pytest.raises(IdempotencyMismatch):
            payer.pay(channel, "0.2 USDC", idempotency_key="k")
        assert payer.pay(channel, payer.amount("0.1 USDC")).cumulative_amount == payer.amount("0.2 USDC")
        for use in (payer.pay, payer.top_up):
            with pytest.raises(InvalidAmount, match="no amount of the channel's USDC"):
                use(channel, payer.amount("1 ETH"))
            with pytest.raises(InvalidAmount, match="not an amount"):
                use(channel, 0.1)
        with pytest.raises(UnknownReference):
            payer.channel("tea")
        with pytest.raises(VoucherRejected) as refused:
            payer.accept([first.voucher, "{}", "x" * 20_000])
        assert refused.value.data["rejectedByReason"] == {"wrong-payee": 1, "malformed": 1, "too-long": 1}
        requested = payer.close_channel(channel)
        assert requested.status == "closing"
        assert requested.withdrawable_at is not None
    with pytest.raises(microwallet.UsageError, match="closed"):
        payer.channels()


def test_threads_share_a_wallet(alice, bob, opened, open_files):
    """Eight threads pay 200 times from one channel: every amount once, the sum exact, no error. Closing it
    closes what all of them opened."""
    with opened(alice) as wallet:
        channel = wallet.open_channel(bob.address, "1 USDC")
        with ThreadPoolExecutor(8) as threads:
            payments = list(threads.map(lambda _: wallet.pay(channel, "0.001 USDC"), range(200)))
        amounts = sorted(payment.cumulative_amount.base_units for payment in payments)
        assert amounts == [1000 * number for number in range(1, 201)]
        assert str(wallet.channel(channel).authorized) == "0.2 USDC"
        assert "ledger.sqlite3" in open_files(alice)
    assert open_files(alice) == []


def test_an_existing_program_pays_by_one_argument(alice, payee, monkeypatch):
    """Without a wallet being named it is the user's own; without an agreed deposit none is made."""
    for name, value in alice.environment.items():
        if name.startswith(("MICROWALLET_", "PYTHON_")):
            monkeypatch.setenv(name, value)
    with httpx.Client(transport=microwallet.PayingTransport()) as client:
        with pytest.raises(ConfirmationRequired) as refused:
            client.get(payee.url)
        assert refused.value.hint == 'max_deposit="0.1 USDC"'
    with httpx.Client(transport=microwallet.PayingTransport(max_deposit="0.05 USDC")) as client:
        answer = client.post(payee.url, content=b"question")
        assert answer.content == PAID_BODY
        payment = microwallet.payment_of(answer)
        assert (str(payment.amount), payment.deposited, payment.receipt_problems) == (
            "0.001 USDC",
            True,
            (),
        )
        assert str(payment.channel.deposit) == "0.05 USDC"
        payee.before = lambda handler, _: bool(handler.answer(200, {}, b"free")) or True
        assert microwallet.payment_of(client.get(payee.url)) is None
        payee.before = lambda _handler, _: False
    with httpx.Client(transport=microwallet.PayingTransport()) as client:
        assert client.get(payee.url).status_code == 200  # the channel is open: nothing is deposited


def test_what_is_free_needs_no_wallet(home, payee):
    """A request that costs nothing opens no ledger: the wallet may not even have an account."""
    payee.before = lambda handler, _: bool(handler.answer(200, {}, b"free")) or True
    wallet = microwallet.Wallet.open(home.path, password_file=home.password_file)
    with httpx.Client(transport=microwallet.PayingTransport(wallet=wallet)) as client:
        assert client.get(payee.url).content == b"free"
    assert not home.path.exists()
    with pytest.raises(microwallet.UsageError, match="no account"):
        _ = wallet.address


def test_a_url_with_a_user_name_is_asked_and_not_paid(alice, payee, opened):
    """What is free comes as before; what is not says why it is not paid."""
    named = payee.url.replace("://", "://user:word@")
    payee.before = lambda handler, _: handler.path == "/free" and handler.answer(200, {}, b"free") is None
    with (
        opened(alice) as wallet,
        httpx.Client(transport=microwallet.PayingTransport(wallet=wallet, max_deposit="1 USDC")) as client,
    ):
        assert client.get(named + "/free").content == b"free"
        with pytest.raises(microwallet.UsageError, match="user name") as refused:
            client.get(named)
        assert (payee.vouchers, refused.value.hint) == ([], "headers={...} for credentials")
        with pytest.raises(httpx.ConnectError):
            client.get("http://user:word@127.0.0.1:1/")


def test_limits_hold_in_a_program(alice, payee, opened):
    """The price is held against `max_amount`, all deposits for a payee against `max_deposit`."""
    with opened(alice) as wallet:
        paying = microwallet.PayingTransport(wallet=wallet, max_amount="0.0009 USDC", max_deposit="1 USDC")
        with httpx.Client(transport=paying) as client, pytest.raises(AboveLimit) as refused:
            client.get(payee.url)
        assert (payee.vouchers, refused.value.hint) == ([], 'max_amount="0.001 USDC"')
        limit = wallet.amount("0.003 USDC")
        paying = microwallet.PayingTransport(wallet=wallet, max_deposit=limit)
        with httpx.Client(transport=paying) as client:
            for _ in range(3):
                client.get(payee.url)
            with pytest.raises(AboveLimit) as refused:
                client.get(payee.url)
        assert (payee.highest(), refused.value.hint) == (limit.base_units, 'max_deposit="0.004 USDC"')
        assert wallet.request("GET", payee.url, max_deposit="0.004 USDC").content == PAID_BODY


def test_threads_pay_over_http(alice, payee, opened):
    """Forty requests of eight threads through one client: one channel, forty amounts, all served."""
    with (
        opened(alice) as wallet,
        httpx.Client(transport=microwallet.PayingTransport(wallet=wallet, max_deposit="1 USDC")) as client,
        ThreadPoolExecutor(8) as threads,
    ):
        answers = list(threads.map(lambda _: client.get(payee.url), range(40)))
        assert {answer.content for answer in answers} == {PAID_BODY}
        assert [microwallet.payment_of(answer).receipt_problems for answer in answers] == [()] * 40
        [channel] = wallet.channels()
        assert (str(channel.spent), str(channel.authorized)) == ("0.04 USDC", "0.04 USDC")


def test_streams_of_threads_have_a_channel_each(alice, payee, opened):
    """Two metered streams at once never share one; what each cost is known when it is closed."""
    payee.unit_type = "event"
    both = threading.Barrier(2)
    with (
        opened(alice) as wallet,
        httpx.Client(transport=microwallet.PayingTransport(wallet=wallet, max_deposit="1 USDC")) as client,
        ThreadPoolExecutor(2) as threads,
    ):

        def read(_):
            with client.stream("GET", payee.url + STREAM) as answer:
                both.wait(30)
                assert microwallet.payment_of(answer) is None
                body = b"".join(answer.iter_raw())
            return body, microwallet.payment_of(answer)

        for body, payment in threads.map(read, range(2)):
            assert body == b"".join(b"data: event %d\n\n" % number for number in range(5))
            assert (str(payment.amount), payment.receipt_problems) == ("0.005 USDC", ())
        assert [str(one.spent) for one in wallet.channels()] == ["0.005 USDC"] * 2
        with client.stream("GET", payee.url + STREAM):
            pass  # closed at once: the next stream is free to begin
        with client.stream("GET", payee.url + STREAM) as answer:
            answer.read()
        assert len(wallet.channels()) == 2


@pytest.fixture
def asks_twice(payee, fetch):
    """Has the payee ask for two vouchers at once in a stream, and says when the first has come, which is
    answered half a second later."""
    fetch()
    payee.unit_type, handed_over = "event", threading.Event()

    def before(handler, action):
        if action is None:
            return False
        if handler.command == "HEAD":
            handed_over.set()
            time.sleep(0.5)
            return False
        told = {"channel_id": action.voucher.channel_id, "accepted_cumulative": 2_000, "deposit": 100_000}
        needs = (NeedVoucher(required_cumulative=one, **told).to_event() for one in (3_000, 4_000))
        handler.stream(*needs, b"data: event\n\n")
        return True

    payee.before = before
    return handed_over


def test_a_stream_that_another_thread_closes(alice, opened, payee, asks_twice, books):
    """It waits until what is being paid is recorded, and nothing is signed after that."""
    with opened(alice) as wallet:
        paying = microwallet.PayingTransport(wallet=wallet, max_deposit="1 USDC")
        with httpx.Client(transport=paying) as client, ThreadPoolExecutor(1) as thread:
            answer = client.send(client.build_request("GET", payee.url + STREAM), stream=True)
            reading = thread.submit(list, answer.iter_raw())
            assert asks_twice.wait(10)
            answer.close()
            reading.exception(10)
        payment = microwallet.payment_of(answer)
    [channel], purchases = books()
    assert channel.spent == channel.authorized == payee.highest() == 4_000
    assert payment.amount.base_units == 4_000 - 1_000
    assert {status for *_, status in purchases} == {"paid"}


def test_a_stream_that_another_task_closes(alice, opened, payee, asks_twice, books):
    """While it is paid: nothing is signed after that."""

    async def program():
        async with opened(alice, microwallet.AsyncWallet) as wallet:
            paying = microwallet.AsyncPayingTransport(wallet=wallet, max_deposit="1 USDC")
            async with httpx.AsyncClient(transport=paying) as client:
                answer = await client.send(client.build_request("GET", payee.url + STREAM), stream=True)
                reading = asyncio.create_task(answer.aread())
                assert await asyncio.to_thread(asks_twice.wait, 10)
                await answer.aclose()
                with pytest.raises(microwallet.PaymentRefused, match="closed"):
                    await reading
                return microwallet.payment_of(answer)

    payment = asyncio.run(program())
    [channel], purchases = books()
    assert channel.spent == channel.authorized == payee.highest() == 3_000
    assert payment.amount.base_units == 3_000 - 1_000
    assert {status for *_, status in purchases} == {"paid"}


def test_a_second_stream_beyond_the_limit(alice, payee, opened):
    """It is told why what is left on the channel does not pay for it; other requests it pays for."""
    payee.unit_type = "event"
    with (
        opened(alice) as wallet,
        httpx.Client(transport=microwallet.PayingTransport(wallet=wallet, max_deposit="0.1 USDC")) as client,
        client.stream("GET", payee.url + STREAM),
    ):
        [channel] = wallet.channels()
        with pytest.raises(microwallet.AboveLimit) as refused:
            client.get(payee.url + STREAM)
        payee.unit_type = "request"
        assert client.get(payee.url).content == PAID_BODY
    assert f"a stream that runs has channel {channel.channel_id} to itself" in str(refused.value)
    assert refused.value.hint == 'max_deposit="0.101 USDC"'


@pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")
def test_a_stream_that_is_dropped_holds_no_channel(alice, payee, opened):
    """Nobody has closed it, or read of it: the next stream is paid from the same channel. What was signed for
    the first one stays counted. Where its wallet is closed before it is collected, so is its ledger then."""
    payee.unit_type = "event"

    async def program(wallet):
        paying = microwallet.AsyncPayingTransport(wallet=wallet)
        async with httpx.AsyncClient(transport=paying) as client:
            await client.send(client.build_request("GET", payee.url + STREAM), stream=True)
            gc.collect()
            await client.get(payee.url + STREAM)

    with opened(alice) as wallet:
        paying = microwallet.PayingTransport(wallet=wallet, max_deposit="1 USDC")
        with httpx.Client(transport=paying) as client:
            client.send(client.build_request("GET", payee.url + STREAM), stream=True)
            gc.collect()
            client.get(payee.url + STREAM)
        [channel] = wallet.channels()
        assert str(channel.spent) == "0.006 USDC"
        asyncio.run(program(wallet))
        [channel] = wallet.channels()
        assert str(channel.spent) == "0.012 USDC"
    gc.collect()


def test_a_closed_wallet_pays_no_more(alice, payee, opened):
    """Its transports say so, the one that holds what it has opened too; nothing more is signed."""

    async def program(wallet):
        paying = microwallet.AsyncPayingTransport(wallet=wallet, max_deposit="1 USDC")
        async with httpx.AsyncClient(transport=paying) as client:
            assert (await client.get(payee.url)).content == PAID_BODY
            wallet.close()
            with pytest.raises(microwallet.UsageError, match="wallet is closed"):
                await client.get(payee.url)

    wallet = opened(alice)
    asyncio.run(program(wallet))
    paying = microwallet.PayingTransport(wallet=wallet)
    with (
        httpx.Client(transport=paying) as client,
        pytest.raises(microwallet.UsageError, match="wallet is closed"),
    ):
        client.get(payee.url)
    assert payee.highest() == 1_000


ROUTE = {"path": "/**", "price": "1 USDC"}


@pytest.mark.parametrize("given", [0.01, 1, Decimal("0.01"), b"1 USDC"])
def test_a_number_is_no_amount(alice, opened, given):
    """Everywhere: a UsageError that shows what is one, and nothing is done."""
    with opened(alice) as wallet:
        for use in (
            lambda: wallet.amount(given),
            lambda: wallet.open_channel(alice.address, given),
            lambda: wallet.request("GET", "http://127.0.0.1:9", max_amount=given),
            lambda: microwallet.PayingTransport(wallet=wallet, max_amount=given),
            lambda: microwallet.AsyncPayingTransport(wallet=wallet, max_deposit=given),
            lambda: microwallet.PaymentMiddleware(None, routes=[ROUTE], realm="r", settle_above=given),
        ):
            with pytest.raises(microwallet.UsageError, match="not an amount") as refused:
                use()
            assert '"0.01 USDC"' in refused.value.hint


def test_hints_are_for_programs(alice, payee, opened):
    """What to write, and no flag of a command: for another payee, after a lost answer, of a stream."""
    with opened(alice) as wallet:
        with pytest.raises(microwallet.UsageError) as nothing:
            microwallet.PayingTransport(wallet=wallet, max_amount="0 USDC")
        assert nothing.value.hint == "a client without a PayingTransport  (pays nothing)"
        pay = partial(wallet.request, "GET", max_deposit="1 USDC")
        pay(payee.url)
        known, payee.address = payee.address, payee_address("other")
        with pytest.raises(NoPayableChallenge) as refused:
            pay(payee.url)
        assert refused.value.hint == f'payee="{payee.address}"  (if you know why it changed)'
        payee.address = known
        payee.unit_type, payee.events = "event", 50
        with pytest.raises(AboveLimit) as refused:
            pay(payee.url + STREAM)
        assert refused.value.hint == 'max_amount="0.02 USDC"'
        payee.before = lambda handler, action: (
            action is not None and setattr(handler, "close_connection", True) is None
        )
        with pytest.raises(microwallet.OutcomeUnknown) as lost:
            pay(payee.url, idempotency_key="order 7")
        assert lost.value.hint == "idempotency_key='order 7'  (the same request again, paid once)"
        with (
            httpx.Client(transport=microwallet.PayingTransport(wallet=wallet)) as client,
            pytest.raises(microwallet.OutcomeUnknown) as lost,
        ):
            client.get(payee.url)
        key = lost.value.data["idempotencyKey"]
        wanted = f'extensions={{"idempotency_key": {key!r}}}  (the same request again, paid once)'
        assert lost.value.hint == wanted


def test_a_deposit_that_was_not_agreed_to_names_what_has_to_be(alice, payee, opened):
    """All that lies with the payee counts."""
    with opened(alice) as wallet:
        wallet.request("GET", payee.url, max_deposit="0.1 USDC")
        payee.price = 200_000
        pay = partial(wallet.request, "GET", payee.url, max_amount="1 USDC")
        with pytest.raises(ConfirmationRequired) as refused:
            pay()
        named = refused.value.hint.removeprefix("max_deposit=").strip('"')
        assert pay(max_deposit=named).content == PAID_BODY


def test_a_redirect_to_another_origin_is_a_new_decision(alice, payee, chain, opened):
    """The first server's credential stays with it; the second is paid by itself, within the same limits."""
    from http402.payee_double import Payee, serving

    with serving(Payee(chain=chain, address=payee_address())) as other, opened(alice) as wallet:
        away = {"Location": other.url + "/moved"}
        payee.before = lambda handler, action: (
            action is not None and (bool(handler.answer(302, away, b"")) or True)
        )
        seen = []
        other.before = lambda handler, _: bool(seen.append(handler.headers.get("Authorization")))
        answer = wallet.request("GET", payee.url, max_deposit="1 USDC", follow_redirects=True)
        assert answer.content == PAID_BODY
        assert seen[0] is None
        assert len(answer.history) == 1
        assert str(microwallet.payment_of(answer).amount) == "0.001 USDC"


def test_a_key_pays_once(alice, payee, opened):
    """The same request under the same key is answered again, and moves nothing; another is refused."""
    with opened(alice) as wallet:
        options = {"max_deposit": "1 USDC", "idempotency_key": "once"}
        first = wallet.request("POST", payee.url, content="a", **options)
        again = wallet.request("POST", payee.url, content="a", **options)
        assert first.content == again.content
        assert payee.highest() == 1_000
        assert [microwallet.payment_of(one).paid_before for one in (first, again)] == [False, True]
        with pytest.raises(IdempotencyMismatch):
            wallet.request("POST", payee.url, content="b", **options)
        with pytest.raises(microwallet.UsageError, match="ASCII"):
            wallet.request("POST", payee.url, max_deposit="1 USDC", idempotency_key="für")


def test_a_key_in_the_field_for_it_pays_once(alice, payee, opened):
    """Programs that know `Idempotency-Key` send it; one that is too long has its digest for a key."""
    with (
        opened(alice) as wallet,
        httpx.Client(transport=microwallet.PayingTransport(wallet=wallet)) as client,
    ):
        wallet.request("GET", payee.url, max_deposit="1 USDC")
        for sent, highest in (("order-7", 2_000), ("order-7", 2_000), ("a" * 129, 3_000), ("a" * 129, 3_000)):
            answer = client.post(payee.url, headers={"Idempotency-Key": sent}, content="a")
            assert (answer.content, payee.highest()) == (PAID_BODY, highest)
        with pytest.raises(IdempotencyMismatch):
            client.post(payee.url, headers={"Idempotency-Key": "order-7"}, content="b")


def test_tasks_share_a_wallet(alice, bob, payee, opened):
    """Vouchers and requests of many tasks at once; a task that is cancelled leaves nothing half done."""

    async def program():
        async with opened(alice, microwallet.AsyncWallet) as wallet:
            channel = await wallet.open_channel(bob.address, "1 USDC")
            payments = await asyncio.gather(*(wallet.pay(channel, "0.001 USDC") for _ in range(20)))
            assert len({payment.cumulative_amount for payment in payments}) == 20
            paying = microwallet.AsyncPayingTransport(wallet=wallet, max_deposit="1 USDC")
            async with httpx.AsyncClient(transport=paying) as client:
                answers = await asyncio.gather(*(client.get(payee.url) for _ in range(20)))
                assert {answer.content for answer in answers} == {PAID_BODY}
                payments = [microwallet.payment_of(answer) for answer in answers]
                assert len({payment.cumulative_amount for payment in payments}) == 20
                assert {payment.receipt_problems for payment in payments} == {()}
            task = asyncio.create_task(wallet.pay(channel, "0.001 USDC"))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            answer = await wallet.request("GET", payee.url)
            assert answer.content == PAID_BODY

    asyncio.run(program())
    with opened(alice) as wallet:
        counted = [(str(one.spent), str(one.authorized)) for one in wallet.channels()]
        assert counted == [("0.021 USDC", "0.021 USDC")] * 2


def test_async_stream_tells_what_it_cost(alice, payee, opened):
    """When it is closed; the limit ends it by the wallet's own error."""
    payee.unit_type = "event"

    async def program():
        async with opened(alice, microwallet.AsyncWallet) as wallet:
            paying = microwallet.AsyncPayingTransport(wallet=wallet, max_deposit="1 USDC")
            async with httpx.AsyncClient(transport=paying) as client:
                async with client.stream("GET", payee.url + STREAM) as answer:
                    assert microwallet.payment_of(answer) is None
                    assert await answer.aread() == b"".join(b"data: event %d\n\n" % one for one in range(5))
                assert str(microwallet.payment_of(answer).amount) == "0.005 USDC"
                payee.events = 50
                with pytest.raises(AboveLimit) as stopped:
                    await client.get(payee.url + STREAM)
                assert stopped.value.hint == 'max_amount="0.02 USDC"'

    asyncio.run(program())


def test_tasks_go_on_while_one_waits_for_a_session(alice, payee, opened):
    """Another process has a stream on the channel: a stream waits for its end, and nothing else does."""

    async def program():
        async with opened(alice, microwallet.AsyncWallet) as wallet:
            paying = microwallet.AsyncPayingTransport(wallet=wallet, max_deposit="1 USDC")
            async with httpx.AsyncClient(transport=paying) as client:
                first = await client.get(payee.url)
                channel = microwallet.payment_of(first).channel
                with Wallet.open(environment=alice.environment) as other:
                    with other.ledger.turns.turn(f"stream {channel.channel_id}"):
                        events = {"Accept": "text/event-stream"}
                        stream = asyncio.create_task(client.get(payee.url + STREAM, headers=events))
                        await asyncio.sleep(0.3)
                        await asyncio.wait_for(client.get(payee.url), 10)
                        assert not stream.done()
                    answer = await asyncio.wait_for(stream, 30)
                assert microwallet.payment_of(answer).channel.channel_id == channel.channel_id

    asyncio.run(program())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_opens_its_own_ledger(alice, bob, opened):
    """A pre-forking server may open the wallet first: parent and children pay from one channel."""
    with opened(alice) as wallet:
        channel = wallet.open_channel(bob.address, "1 USDC")
        wallet.pay(channel, "0.001 USDC")
        children = []
        for _ in range(2):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    for _ in range(5):
                        wallet.pay(channel, "0.001 USDC")
                    wallet.close()
                    status = 0
                finally:
                    os._exit(status)
            children.append(child)
        wallet.pay(channel, "0.001 USDC")
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
        assert str(wallet.channel(channel).authorized) == "0.012 USDC"


def test_a_key_in_the_field_for_it_goes_with_nothing_else(alice, payee, opened):
    """What is handed over beside, by a HEAD, is another request: a server may take it for one that it has
    answered under that key."""
    payee.unit_type, keys = "event", []

    def note(handler, action):
        if handler.command == "HEAD" and action is not None:
            keys.append(handler.headers.get("Idempotency-Key"))

    payee.before = note
    with (
        opened(alice) as wallet,
        httpx.Client(transport=microwallet.PayingTransport(wallet=wallet, max_deposit="1 USDC")) as client,
    ):
        client.get(payee.url + STREAM, headers={"Idempotency-Key": "order-7"})
    assert keys
    assert set(keys) == {None}


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_closes_no_ledger_of_its_parent(alice, opened, open_files):
    """One that closes the wallet without using it: SQLite's connections are closed where they were opened."""
    with opened(alice) as wallet:
        wallet.channels()
        before = open_files(alice)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                wallet.close()
                gc.collect()
                status = int(open_files(alice) != before)
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_pays_through_an_async_transport(alice, payee, opened):
    """What the parent has paid through before has a thread of its own there: the child waited for ever."""

    async def pay(transport):
        request = httpx.Request("GET", payee.url, headers={"Connection": "close"})
        return await (await transport.handle_async_request(request)).aread()

    with opened(alice) as wallet:
        transport = microwallet.AsyncPayingTransport(wallet=wallet, max_deposit="1 USDC")
        assert asyncio.run(pay(transport)) == PAID_BODY
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            status = 1
            try:
                status = int(asyncio.run(pay(transport)) != PAID_BODY)
                asyncio.run(transport.aclose())
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert asyncio.run(pay(transport)) == PAID_BODY
        asyncio.run(transport.aclose())
        assert payee.highest() == 3_000


def test_a_server_that_is_not_there(alice, opened):
    """A program that pays sees what it saw before: httpx's own exceptions."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"

    async def ask(wallet):
        async with httpx.AsyncClient(transport=microwallet.AsyncPayingTransport(wallet=wallet)) as client:
            await client.get(url)

    with opened(alice) as wallet:
        with (
            pytest.raises(httpx.ConnectError),
            httpx.Client(transport=microwallet.PayingTransport(wallet=wallet)) as client,
        ):
            client.get(url)
        with pytest.raises(httpx.ConnectError):
            asyncio.run(ask(wallet))
