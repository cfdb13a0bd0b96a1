"""What a gateway serves and refuses: one request after another, against a real ledger."""

from __future__ import annotations

import asyncio
import errno

import pytest
from counter import PAYER, amounts, credential, only_challenge, problem, receipt
from migrated import migrate

from microwallet.domain.voucher import VoucherKey
from microwallet.http402.charging.middleware import PaymentMiddleware
from microwallet.http402.serving.request_log import RequestLog, request_line
from microwallet.ledger import database
from microwallet.ledger.ledger import Ledger


def test_a_voucher_buys_a_request(counter):
    """The application is asked once, and the receipt says what was accepted and spent."""
    answer = counter.pay(PAYER, PAYER.pay(1000))
    assert (answer.status_code, answer.text) == (200, "served")
    assert (receipt(answer).accepted_cumulative, receipt(answer).spent) == (1000, 1000)
    assert receipt(answer).channel_id == PAYER.channel_id
    assert answer.headers["cache-control"] == "private"
    assert len(counter.app.requests) == 1


def test_without_a_credential_it_says_what_it_costs(counter):
    """402, a fresh challenge each time, and nothing that a cache may keep."""
    first, second = counter.ask(), counter.ask()
    assert (first.status_code, problem(first)) == (402, "payment-required")
    assert first.headers["cache-control"] == "no-store"
    assert only_challenge(first).id != only_challenge(second).id
    assert counter.app.requests == []


def test_each_voucher_buys_once(counter):
    """The same one again is told which amount would do, and changes nothing."""
    counter.pay(PAYER, PAYER.pay(1000))
    again = counter.pay(PAYER, PAYER.pay(1000))
    assert (again.status_code, problem(again)) == (402, "session/insufficient-balance")
    assert again.json()["requiredCumulative"] == "2000"
    assert amounts(counter) == (1000, 1000)
    assert len(counter.app.requests) == 1


@pytest.mark.parametrize(("step", "above"), [("0", "6001"), ("5000", "11000")])
def test_the_amount_that_would_do_buys(sold_by, step, above):
    """As long as something is left of what was authorized, what the next request comes to; but no amount that
    has bought already, and no smaller step than is taken."""
    counter = sold_by({"path": "/**", "price": "1000", "min-voucher-delta": step})
    assert counter.pay(PAYER, PAYER.pay(6000)).status_code == 200
    for expected in ["2000", "3000", "4000", "5000", above, "7000"]:
        answer = counter.pay(PAYER, PAYER.pay(6000))
        assert (answer.status_code, problem(answer)) == (402, "session/insufficient-balance")
        assert answer.json()["requiredCumulative"] == expected
        assert counter.pay(PAYER, PAYER.pay(int(expected))).status_code == 200


def test_a_step_that_is_too_small_is_not_asked_for(sold_by):
    """Once all that was authorized is spent, the price alone would be one."""
    counter = sold_by({"path": "/**", "price": "1000", "min-voucher-delta": "5000"})
    for amount in (5000, 1, 2, 3, 4):
        assert counter.pay(PAYER, PAYER.pay(amount)).status_code == 200
    answer = counter.pay(PAYER, PAYER.pay(6))
    assert (problem(answer), answer.json()["requiredCumulative"]) == ("session/insufficient-balance", "10000")
    assert counter.pay(PAYER, PAYER.pay(10_000)).status_code == 200


def test_a_ledger_that_was_migrated_meanwhile(counter):
    """503, and the application is not asked: nothing is accepted or charged in what is not known here."""
    path = counter.ledger.database.path
    before = amounts(counter)
    migrate(path)
    answer = counter.pay(PAYER, PAYER.pay(1000))
    assert (answer.status_code, problem(answer)) == (503, "urn:microwallet:problem:try-again")
    assert "nothing was charged (ledger-too-new)" in answer.json()["detail"]
    migrate(path, by=0)
    assert (amounts(counter), counter.app.requests) == (before, [])


def test_a_disk_that_fails_while_a_sale_is_recorded(counter, monkeypatch):
    """It may be found there when the gateway starts again: nobody is told that nothing was charged. What
    comes later is not recorded."""
    challenge = counter.challenge()

    def fail(_descriptor):
        raise OSError(errno.EIO, "the disk failed")

    monkeypatch.setattr(database, "_sync", fail)
    answer = counter.pay(PAYER, PAYER.pay(1000), challenge=challenge)
    assert (answer.status_code, problem(answer)) == (503, "urn:microwallet:problem:outcome-unknown")
    assert "whether it was charged is not known" in answer.json()["detail"]
    later = counter.pay(PAYER, PAYER.pay(2000), challenge=challenge)
    assert (later.status_code, "nothing was charged" in later.json()["detail"]) == (503, True)
    assert counter.app.requests == []
    with Ledger.open(counter.ledger.database.path) as ledger:
        assert ledger.vouchers.get(PAYER.channel_id).spent == 1000


def test_vouchers_may_come_in_any_order(counter):
    """An older one that has bought nothing still buys, while what is authorized covers it."""
    for amount in (3000, 1000, 2000):
        assert counter.pay(PAYER, PAYER.pay(amount)).status_code == 200
    assert amounts(counter) == (3000, 3000)
    assert counter.pay(PAYER, PAYER.pay(500)).status_code == 402


def test_a_voucher_that_is_not_enough_is_kept(counter):
    """It is the payer's word all the same: the next request needs only the rest."""
    assert problem(counter.pay(PAYER, PAYER.pay(999))) == "session/insufficient-balance"
    assert amounts(counter) == (999, 0)
    assert counter.pay(PAYER, PAYER.pay(1000)).status_code == 200


@pytest.mark.parametrize("status", [200, 201, 302, 304, 400, 404, 499])
def test_what_is_answered_below_500_is_charged(counter, status):
    """Also what the application refuses; a receipt comes with success alone, told again or not."""
    counter.app.status = status
    for _ in range(2):
        answer = counter.pay(PAYER, PAYER.pay(1000), headers={"idempotency-key": "k"})
        assert answer.status_code == status
        assert (receipt(answer) is not None) == (status < 400)
    assert (amounts(counter), len(counter.app.requests)) == ((1000, 1000), 1)


@pytest.mark.parametrize("status", [500, 502, 503, 599])
def test_what_fails_is_given_back(counter, status):
    """And its voucher can buy again."""
    counter.app.status = status
    answer = counter.pay(PAYER, PAYER.pay(1000))
    assert (answer.status_code, receipt(answer)) == (status, None)
    assert only_challenge(answer).id  # what an intermediary would answer has none
    assert amounts(counter) == (1000, 0)
    counter.app.status = 200
    assert counter.pay(PAYER, PAYER.pay(1000)).status_code == 200


@pytest.mark.parametrize("name", [b"Cache-Control", b"cache-control"])
@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ([b"no-store"], "no-store, private"),
        ([b"public, max-age=600, s-maxage=9"], "max-age=600, private"),
        (
            [b"private", b'No-Cache="x-own, x-other", must-revalidate'],
            'No-Cache="x-own, x-other", must-revalidate, private',
        ),
        ([b"public"], "private"),
        ([b"max-age=600 public; no", b""], "no-store, private"),
    ],
)
def test_what_is_paid_for_is_cached_no_more_than_the_application_allows(counter, said, heard, name):
    """Shared caches keep nothing that was paid for; for others what the application said counts still."""
    counter.app.headers = [(name, value) for value in said]
    for _ in range(2):
        answer = counter.pay(PAYER, PAYER.pay(1000), headers={"idempotency-key": "k"})
        assert answer.headers["cache-control"] == heard
    assert len(counter.app.requests) == 1


@pytest.mark.parametrize("said", [[], [(b"Cache-Control", b"public, s-maxage=600")]])
def test_an_error_that_was_paid_for_is_for_its_payer_alone(counter, said):
    """A cache may keep a 404 of which nothing is said, and knows nothing of the field it was paid in."""
    counter.app.status, counter.app.headers = 404, said
    for _ in range(2):
        answer = counter.pay(PAYER, PAYER.pay(1000), headers={"idempotency-key": "k"})
        assert (answer.status_code, answer.headers.get_list("cache-control")) == (404, ["private"])
    assert len(counter.app.requests) == 1


@pytest.mark.parametrize(
    "name",
    ["CDN-Cache-Control", "Vercel-CDN-Cache-Control", "Surrogate-Control", "X-Accel-Expires", "Edge-Control"],
)
@pytest.mark.parametrize("status", [200, 404, 503])
def test_what_is_told_to_shared_caches_alone_does_not_reach_them(counter, name, status):
    """To those that know it, it counts more than Cache-Control."""
    for number, spelled in enumerate((name, name.lower()), start=1):
        counter.app.status, counter.app.headers = status, [(spelled.encode(), b"600")]
        assert name not in counter.pay(PAYER, PAYER.pay(1000 * number)).headers


@pytest.mark.parametrize(("status", "receipts"), [(200, 1), (404, 0), (503, 0)])
def test_an_application_gives_no_receipts(counter, status, receipts):
    """It does not know what was paid: of two receipts a payer would believe either."""
    for number, name in enumerate((b"Payment-Receipt", b"payment-receipt"), start=1):
        counter.app.status, counter.app.headers = status, [(name, b"forged")]
        told = counter.pay(PAYER, PAYER.pay(1000 * number)).headers.get_list("payment-receipt")
        assert (len(told), "forged" in told) == (receipts, False)


def test_what_asks_to_be_paid_itself_is_given_back(counter):
    """A payer takes a 402 for a refusal: it has a challenge, as any, and its voucher can buy again."""
    counter.app.status, counter.app.headers = 402, [(b"cache-control", b"max-age=600")]
    answer = counter.pay(PAYER, PAYER.pay(1000))
    assert (answer.status_code, receipt(answer)) == (402, None)
    assert only_challenge(answer).id
    assert answer.headers["cache-control"] == "no-store"
    assert amounts(counter) == (1000, 0)
    counter.app.status = 200
    assert counter.pay(PAYER, PAYER.pay(1000)).status_code == 200


def test_no_cache_keeps_the_challenge_of_what_failed(counter):
    """Whatever the application lets caches do with its errors."""
    counter.app.status, counter.app.headers = 501, [(b"Cache-Control", b"public, max-age=600")]
    answer = counter.pay(PAYER, PAYER.pay(1000))
    assert only_challenge(answer).id
    assert answer.headers["cache-control"] == "no-store"


def test_an_application_that_falls_over_costs_nothing(counter):
    """Whoever serves the gateway answers 500 then."""
    counter.app.fails = True
    assert counter.pay(PAYER, PAYER.pay(1000)).status_code == 500
    assert amounts(counter) == (1000, 0)


def test_a_voucher_by_somebody_else(counter):
    """Or one whose signature is none: 402, before the chain is asked."""
    stranger = VoucherKey((99).to_bytes(32, "big"))
    answer = counter.pay(PAYER, PAYER.pay(1000, key=stranger))
    assert (answer.status_code, problem(answer)) == (402, "session/signer-mismatch")
    payload = {
        "action": "voucher",
        "channelId": PAYER.channel_id,
        "cumulativeAmount": "1000",
        "signature": "0x" + "ff" * 65,
    }
    assert problem(counter.pay(PAYER, payload)) == "session/invalid-signature"
    assert counter.chain.asked == 0
    assert amounts(counter) == (0, 0)


def test_the_deposit_is_the_end(counter):
    """All of it can be spent, and no base unit more."""
    assert counter.pay(PAYER, PAYER.pay(1_000_000)).status_code == 200
    answer = counter.pay(PAYER, PAYER.pay(1_000_001))
    assert (answer.status_code, problem(answer)) == (402, "session/amount-exceeds-deposit")
    assert amounts(counter) == (1_000_000, 1000)


def test_the_smallest_step(sold_by):
    """One below it is refused; equal and lower vouchers are no steps."""
    counter = sold_by({"path": "/**", "price": "1000", "min-voucher-delta": "5000"})
    assert problem(counter.pay(PAYER, PAYER.pay(4999))) == "session/delta-too-small"
    assert counter.pay(PAYER, PAYER.pay(5000)).status_code == 200
    assert counter.pay(PAYER, PAYER.pay(4000)).status_code == 200
    assert amounts(counter) == (5000, 2000)


def test_the_application_hears_who_paid(counter):
    """In fields that no client can forge, however it spells them; credentials do not reach it."""
    counter.pay(
        PAYER,
        PAYER.pay(1000),
        headers={
            "X-Payment-Payer": "0xforged",
            "x_payment_payer": "0xforged",
            "X.Payment.Payer": "0xforged",
            "X-Payment-Anything": "forged",
            "Payment-Receipt": "forged",
            "Accept-Payment": "evm/session",
            "Cookie": "mine",
        },
    )
    heard = counter.app.requests[0][2]
    assert heard[b"x-payment-payer"] == PAYER.address.encode()
    assert heard[b"x-payment-channel"] == PAYER.channel_id.encode()
    assert (heard[b"x-payment-amount"], heard[b"x-payment-asset"]) == (b"1000", b"USDC")
    assert heard[b"cookie"] == b"mine"
    assert not any(b"forged" in value for value in heard.values())
    assert b"authorization" not in heard
    assert b"accept-payment" not in heard


def test_a_person_gets_a_page(counter):
    """A browser is told in words, with the same challenge field; a program is not."""
    page = counter.ask(headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (page.status_code, page.headers["content-type"]) == (402, "text/html; charset=utf-8")
    assert only_challenge(page).method == "evm"
    assert "0.001 USDC" in page.text
    assert problem(counter.ask(headers={"accept": "*/*"})) == "payment-required"


BY_UNITS = {"path": "/**", "price": "10", "per": "header", "units-header": "X-Units", "max-units": 100}


def test_units_are_charged_and_hidden(sold_by):
    """The most is reserved first, what was used is charged, and the client does not see the field."""
    counter = sold_by(BY_UNITS)
    answer = counter.pay(PAYER, PAYER.pay(999))
    assert answer.json()["requiredCumulative"] == "1000"
    counter.app.headers = [(b"X-Units", b"7")]
    answer = counter.pay(PAYER, PAYER.pay(1000))
    assert (receipt(answer).spent, receipt(answer).units) == (70, 7)
    assert "x-units" not in answer.headers
    assert amounts(counter) == (1000, 70)


def test_a_request_made_again_is_charged_what_it_used(sold_by):
    """Though the first one fails, which was to tell it; and once, though both of them tell it."""
    counter = sold_by(BY_UNITS)
    challenge = counter.challenge()

    async def twice(amount, first_status):
        begun, fails = asyncio.Event(), asyncio.Event()

        async def app(_scope, _receive, send):
            is_first, status = not begun.is_set(), 200
            begun.set()
            if is_first:
                await fails.wait()
                status = first_status
            headers = [(b"x-units", b"5" if is_first else b"7")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b"x" * 100_000})
            fails.set()

        counter.application = PaymentMiddleware(app, counter.gateway)
        fields = {
            "authorization": credential(PAYER, PAYER.pay(amount), challenge),
            "idempotency-key": f"{amount}",
        }
        first = asyncio.create_task(counter.asked(headers=fields))
        await begun.wait()
        again = await counter.asked(headers=fields)
        return (await first).status_code, receipt(again).units, receipt(again).spent

    assert asyncio.run(twice(1000, 504)) == (503, 7, 70)
    assert asyncio.run(twice(2000, 200)) == (200, 7, 140)
    assert counter.account(PAYER).spent == 140


def test_an_application_that_asks_for_money_itself(counter):
    """It is answered as it is, and the seller's log says what is wrong."""
    logged = []
    counter.application = RequestLog(counter.application, lambda *line: logged.append(line))
    counter.app.status = 402
    assert counter.pay(PAYER, PAYER.pay(1000)).status_code == 402
    assert logged[-1][1]["warning"] == "what was paid for here asks to be paid itself"


@pytest.mark.parametrize("size", [10, 70_000])
def test_the_same_key_says_again_how_many_units_were_used(sold_by, size):
    """Whether its answer was kept or is made again: sale and receipt are of what was used, not reserved."""
    counter = sold_by(BY_UNITS)
    counter.app.headers = [(b"X-Units", b"7")]
    counter.app.body = b"x" * size
    for _ in range(3):
        answer = counter.pay(PAYER, PAYER.pay(1000), headers={"idempotency-key": "k"})
        assert (receipt(answer).units, receipt(answer).spent) == (7, 70)
    assert amounts(counter) == (1000, 70)
    with counter.ledger.sessions.transaction() as rows:
        assert rows.sale(PAYER.channel_id, 1000).cost == 70


@pytest.mark.parametrize(
    ("told", "charged", "warning"),
    [
        ([b"100"], 1000, None),
        ([b"0"], 0, None),
        ([b"101"], 1000, "101 units told, 100 are the most"),
        ([b"-1"], 0, "no number of units told in x-units"),
        ([b"x"], 0, "no number of units told in x-units"),
        ([b"9" * 5000], 0, "no number of units told in x-units"),
        ([], 0, "no number of units told in x-units"),
        ([b"1", b"2"], 0, "no number of units told in x-units"),
    ],
)
def test_units_beyond_reason(sold_by, told, charged, warning):
    """Never more than was reserved; what is no number is nothing. The seller's log warns of both."""
    counter = sold_by(BY_UNITS)
    logged = []
    counter.application = RequestLog(counter.application, lambda *line: logged.append(line))
    counter.app.headers = [(b"x-units", value) for value in told]
    answer = counter.pay(PAYER, PAYER.pay(1000))
    assert (answer.status_code, receipt(answer).units) == (200, charged // 10)
    assert amounts(counter) == (1000, charged)
    assert logged[-1][1].get("warning") == warning
    assert request_line(*logged[-1]).endswith(warning or " USDC")


def test_an_error_needs_no_units(sold_by):
    """It costs nothing where it tells none, and the seller's log has no warning."""
    counter, logged = sold_by(BY_UNITS), []
    counter.application = RequestLog(counter.application, lambda *line: logged.append(line))
    counter.app.status = 400
    assert counter.pay(PAYER, PAYER.pay(1000)).status_code == 400
    assert (amounts(counter), logged[-1][1].get("warning")) == ((1000, 0), None)


@pytest.mark.parametrize(
    "more", [(), ((b"cache-control", b"public"),), ((b"content-encoding", b"identity"),)]
)
def test_fields_that_can_be_read_once(counter, more):
    """An application may hand the fields of its answer over as an iterator: all arrive."""

    async def application(_scope, _receive, send):
        fields = iter([(b"content-type", b"text/plain"), (b"x-own", b"1"), *more])
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": b"served"})

    counter.application = PaymentMiddleware(application, counter.gateway)
    answer = counter.pay(PAYER, PAYER.pay(1000))
    assert (answer.headers["x-own"], answer.headers["content-type"]) == ("1", "text/plain")
    assert receipt(answer).spent == 1000


@pytest.mark.parametrize(
    ("fields", "is_stream", "cached"),
    [
        (None, False, "private"),
        ([], False, "private"),
        ([(b"x-own", b"1")], False, "private"),
        ([(b"cache-control", b"public, max-age=9")], False, "max-age=9, private"),
        ([(b"x-own", b"1"), (b"content-type", b"text/event-stream")], True, "no-transform, private"),
    ],
)
def test_an_answer_with_few_fields(counter, fields, is_stream, cached):
    """It is paid for as any, though nothing tells what it is; a stream has its receipt at its end."""

    async def application(_scope, _receive, send):
        told = {} if fields is None else {"headers": fields}
        await send({"type": "http.response.start", "status": 200, **told})
        await send({"type": "http.response.body", "body": b"data: 0\n\n"})

    counter.application = PaymentMiddleware(application, counter.gateway)
    answer = counter.pay(PAYER, PAYER.pay(1000))
    assert (receipt(answer).spent, answer.headers["cache-control"]) == (1000, cached)
    assert answer.text.partition("\n\n")[2].startswith("event: payment-receipt") is is_stream
