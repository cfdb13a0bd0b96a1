"""What the drafts ask of a gateway, where no other test shows it: see `microwallet help conformance`."""

from __future__ import annotations

import asyncio
import logging

import pytest
from anybody import mined, send_as
from counter import PAYER, Counter, Payer, credential, only_challenge, problem, receipt

from microwallet.domain.channel import ChannelDescriptor
from microwallet.domain.identifiers import TxHash, checksum_address
from microwallet.domain.voucher import VoucherKey
from microwallet.errors import UsageError
from microwallet.escrow import calls
from microwallet.escrow.reader import EscrowReader
from microwallet.http402.charging import opening
from microwallet.http402.charging.chain import PayeeChain
from microwallet.http402.charging.offers import CHALLENGE_LIMIT
from microwallet.http402.charging.refusal import Refused
from microwallet.http402.wire.challenge import offered_challenges
from microwallet.http402.wire.credential import Credential
from microwallet.http402.wire.problems import Problem, ProblemType
from microwallet.http402.wire.session_payload import payload_object
from microwallet.http402.wire.session_request import SessionRequest

STRANGER = VoucherKey((99).to_bytes(32, "big"))


def rows_of(counter):
    """All that the ledger holds, but how often it was written to."""
    with counter.ledger.database.read() as connection:
        tables = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'generation'"
        ).fetchall()
        return {name: connection.execute(f'SELECT * FROM "{name}"').fetchall() for (name,) in tables}


# Challenges


@pytest.mark.parametrize(
    "preferences",
    [
        None,
        "evm/session",
        "*/*",
        "tempo/charge, evm/*;q=0.1",
        "evm/session;q=0",
        "tempo/charge",
        "evm;q=x",
        "",
        "ä",
    ],
)
def test_a_402_has_a_challenge_whatever_is_preferred(counter, preferences):
    """The only offer is made to a client that takes anything, something else, or says it badly."""
    headers = {} if preferences is None else {"accept-payment": preferences.encode()}
    answer = counter.ask(headers=headers)
    offered = offered_challenges(answer.headers.get_list("www-authenticate"))
    assert [(one.method, one.intent) for one in offered.challenges] == [("evm", "session")]
    assert (answer.status_code, offered.rejected) == (402, [])


def test_a_challenge_says_where_until_when_and_for_what(counter):
    """Realm, expiry and, for a request with a body, its digest; nothing in it is empty."""
    challenge = counter.challenge("POST", content=b"question")
    assert (challenge.realm, challenge.expires) == ("shop", "2027-01-15T08:05:00Z")
    assert challenge.digest is not None
    assert "" not in challenge.parameters().values()
    assert challenge.realm.isascii()


@pytest.mark.parametrize("description", ["x" * 9000, "☕" * 1500, "a\nb"])
def test_a_challenge_that_no_client_could_take_is_not_offered(tmp_path, description):
    """Above 8 KB, or with a control character in it: told when the routes are read, with the route."""
    with pytest.raises(UsageError, match="GET /tea"):
        Counter(tmp_path, [{"path": "/tea", "method": "GET", "price": "1000", "description": description}])


def test_the_longest_challenge_can_be_paid(sold_by):
    """Its credential is longer than it is, and longer than the 4 KB that a server must take."""
    counter = sold_by({"path": "/tea", "method": "GET", "price": "1000", "description": "☕" * 1000})
    challenge = counter.challenge(path="/tea")
    assert 4096 < len(challenge.to_field().encode()) < CHALLENGE_LIMIT
    assert len(credential(PAYER, PAYER.pay(1000), challenge)) > CHALLENGE_LIMIT
    assert counter.pay(PAYER, PAYER.pay(1000), path="/tea", challenge=challenge).status_code == 200


def test_what_is_unknown_in_a_credential_is_ignored(counter):
    """A field that a later version of the drafts may add changes nothing."""
    payload = {**payload_object(PAYER.pay(1000)), "later": {"any": ["thing"]}}
    assert counter.pay(PAYER, payload).status_code == 200


def test_a_challenge_takes_the_deposits_that_are_served(counter):
    """A gateway that sends no deposits says nothing of fees, and takes those that payers sent."""
    request = SessionRequest.parse(counter.challenge().request_object())
    assert (request.fee_payer, tuple(request.credential_types)) == (False, ("hash",))


# Who pays


def without_source(action, challenge, source=None):
    return Credential(challenge=challenge, payload=payload_object(action), source=source).to_field()


@pytest.mark.parametrize("source", [None, "", "alice", "did:pkh:eip155:1:" + PAYER.address])
def test_an_open_says_who_pays(counter, source):
    """Without a payer on this chain it is malformed, before the chain is asked."""
    new = Payer(5)
    counter.chain.channels[new.channel_id] = new.state
    answer = counter.ask(
        headers={"authorization": without_source(new.open(1000), counter.challenge(), source)}
    )
    assert (answer.status_code, problem(answer)) == (400, "malformed-credential")
    assert counter.chain.asked == 0


def test_a_voucher_says_nothing_of_its_payer(counter):
    """Its channel does."""
    for action in (PAYER.pay(1000), PAYER.close(1000)):
        headers = {"authorization": without_source(action, counter.challenge())}
        assert counter.ask(headers=headers).status_code == 200


def test_a_deposit_that_is_not_made_here_takes_its_voucher_along(counter):
    """A good voucher in a credential with a deposit that is refused is not accepted."""
    deposit = {
        "action": "topUp",
        "type": "authorization",
        "salt": "0x" + "01" * 32,
        "authorization": {
            "from": PAYER.address,
            "to": PAYER.descriptor.escrow_contract,
            "value": "1000",
            "validAfter": "0",
            "validBefore": "9999999999",
            "nonce": "0x" + "02" * 32,
        },
        "signature": "0x" + "03" * 65,
    }
    answer = counter.pay(PAYER, {**payload_object(PAYER.pay(1000)), "deposit": deposit})
    assert (answer.status_code, counter.account(PAYER).accepted) == (402, 0)


# Refusals


def refusals(challenge):
    """A request for each kind of refusal, as method and headers."""
    pay = PAYER.pay
    yield "GET", {}
    yield "GET", {"authorization": "Payment x"}
    yield "GET", {"authorization": credential(PAYER, {"action": "steal"}, challenge)}
    yield "GET", {"authorization": credential(PAYER, pay(1000, key=STRANGER), challenge)}
    yield "GET", {"authorization": credential(PAYER, pay(999), challenge)}
    yield "GET", {"authorization": credential(PAYER, pay(10**9), challenge)}
    yield "GET", {"authorization": credential(Payer(7), Payer(7).pay(1000), challenge)}
    yield "GET", {"authorization": credential(Payer(7), Payer(7).open(1000), challenge)}
    yield "GET", {"authorization": credential(PAYER, pay(1000), challenge), "idempotency-key": "x" * 300}


def test_a_refusal_tells_why_and_never_what_it_was_given(counter, caplog):
    """A problem document no cache keeps, a fresh challenge with each, no receipt; and neither answer
    nor log holds the credential, the voucher's signature or the secret."""
    caplog.set_level(logging.DEBUG)
    seen, challenge = set(), counter.challenge()
    for method, headers in refusals(challenge):
        answer = counter.ask(method, headers=headers)
        seen.add((answer.status_code, problem(answer)))
        assert answer.headers["cache-control"] == "no-store"
        assert receipt(answer) is None
        assert only_challenge(answer).id != challenge.id
        told = answer.text + caplog.text + repr(counter.gateway.terms)
        given = headers.get("authorization", "")
        assert len(given) < 100 or given.removeprefix("Payment ") not in told
        assert PAYER.voucher(1000).signature.hex() not in told
        assert "k" * 32 not in told
    assert seen == {
        (402, "payment-required"),
        (402, "malformed-credential"),
        (400, "malformed-credential"),
        (402, "session/signer-mismatch"),
        (402, "session/insufficient-balance"),
        (402, "session/amount-exceeds-deposit"),
        (410, "session/channel-not-found"),
        (402, "verification-failed"),
    }


def test_an_unpaid_request_changes_nothing(counter):
    """Not a row of the ledger, and the application does not hear of it."""
    before = rows_of(counter)
    for method in ("GET", "POST", "PUT", "DELETE", "HEAD"):
        assert counter.ask(method, content=b"x" if method != "HEAD" else None).status_code == 402
    assert counter.ask(headers={"authorization": "Payment x"}).status_code == 402
    assert (rows_of(counter), counter.app.requests, counter.chain.asked) == (before, [], 0)


def test_what_is_not_confirmed_yet_may_be_tried_again(counter, monkeypatch):
    """503 says when: the payment is neither good nor bad."""
    monkeypatch.setattr(opening, "PATIENCE_SECONDS", 0.0)
    new = Payer(5)
    counter.chain.channels[new.channel_id] = None
    answer = counter.pay(new, new.open(1000))
    assert (answer.status_code, problem(answer)) == (503, "urn:microwallet:problem:try-again")
    assert int(answer.headers["retry-after"]) > 0
    assert counter.account(new) is None


# Vouchers


def test_one_credential_side_by_side_buys_once(counter):
    """Of ten requests with the same credential at once, one is served and charged."""
    challenge = counter.challenge()

    async def at_once():
        asked = (counter.paid(PAYER, PAYER.pay(20_000), challenge=challenge) for _ in range(10))
        return await asyncio.gather(*asked)

    statuses = sorted(answer.status_code for answer in asyncio.run(at_once()))
    assert statuses == [200] + [402] * 9
    assert (counter.account(PAYER).spent, len(counter.app.requests)) == (1000, 1)


def test_vouchers_side_by_side_are_counted_one_by_one(counter):
    """Twenty at once on one channel: each buys, and the books hold the sum."""
    challenge = counter.challenge()

    async def at_once():
        asked = (
            counter.paid(PAYER, PAYER.pay(1000 * number), challenge=challenge) for number in range(1, 21)
        )
        return await asyncio.gather(*asked)

    served = [receipt(answer) for answer in asyncio.run(at_once()) if answer.status_code == 200]
    account = counter.account(PAYER)
    assert account.accepted == 20_000
    assert account.spent == 1000 * len(served) == 1000 * len({one.spent for one in served})


@pytest.mark.parametrize("amount", [3000, 2999, 1, 0])
def test_a_voucher_handed_over_again_changes_nothing(counter, amount):
    """Equal to the best or below it: a success, if it is rightly signed."""
    challenge = counter.challenge()
    counter.pay(PAYER, PAYER.pay(3000), "HEAD", challenge=challenge)
    before = rows_of(counter)
    answer = counter.pay(PAYER, PAYER.pay(amount), "HEAD", challenge=challenge)
    assert (answer.status_code, receipt(answer).accepted_cumulative) == (200, 3000)
    forged = counter.pay(PAYER, PAYER.pay(amount, key=STRANGER), "HEAD", challenge=challenge)
    assert (forged.status_code, receipt(forged)) == (402, None)
    assert rows_of(counter) == before


def test_a_close_that_reverts_is_no_close(counter):
    """409, no receipt, and the channel pays on."""

    async def reverts(_channel_id):
        raise Refused(Problem(type=ProblemType.TRANSACTION_REVERTED, detail="it reverted"))

    counter.gateway._close_channel = reverts
    answer = counter.pay(PAYER, PAYER.close(0))
    assert (answer.status_code, problem(answer)) == (409, "session/transaction-reverted")
    assert receipt(answer) is None
    assert counter.pay(PAYER, PAYER.pay(1000)).status_code == 200


# The chain


@pytest.fixture
def payee_chain(chain):
    """What a gateway asks the local chain."""
    return PayeeChain(
        EscrowReader(chain.rpc, chain.escrow_contract), chain_id=chain.chain_id, confirmations=1
    )


@pytest.fixture
def descriptor(chain):
    """Of a channel whose payer can send what it likes, with money for two deposits of 1000."""
    payer = checksum_address(b"\x51" * 20)
    chain.node.add_native(payer, 10**18)
    chain.node.mint(chain.token, payer, 2000)
    return ChannelDescriptor(
        payer=payer,
        payee=checksum_address(b"\x52" * 20),
        token=chain.token,
        salt="0x" + "53" * 32,
        authorized_signer=payer,
        escrow_contract=chain.escrow_contract,
        chain_id=chain.chain_id,
    )


@pytest.fixture
def send(chain, descriptor):
    """Sends a call of the payer's, whatever becomes of it; its hash once it is mined."""

    def sent(call):
        transaction_hash = send_as(descriptor.payer, call, chain)
        mined(transaction_hash, chain)
        return transaction_hash

    return sent


def refused(question):
    with pytest.raises(Refused) as raised:
        question()
    return raised.value.problem.type


def test_a_deposit_is_what_its_transaction_did(payee_chain, descriptor, send, chain):
    """Reverted is refused at once, not waited for; another call, channel or amount is none; what nobody
    has mined is not known yet."""
    channel_id = descriptor.channel_id()
    failed = send(calls.open_channel(descriptor, 1000))
    assert refused(lambda: payee_chain.opened(failed, channel_id)) is ProblemType.TRANSACTION_REVERTED
    approved = send(calls.approve(chain.token, chain.escrow_contract, 2000))
    assert refused(lambda: payee_chain.opened(approved, channel_id)) is ProblemType.VERIFICATION_FAILED
    opened = send(calls.open_channel(descriptor, 1000))
    assert payee_chain.opened(opened, channel_id).deposit == 1000
    other = "0x" + "54" * 32
    assert refused(lambda: payee_chain.opened(opened, other)) is ProblemType.VERIFICATION_FAILED
    assert refused(lambda: payee_chain.topped_up(opened, channel_id, 1000)) is ProblemType.VERIFICATION_FAILED
    topped_up = send(calls.top_up(descriptor, 1000))
    assert payee_chain.topped_up(topped_up, channel_id, 1000).deposit == 2000
    assert (
        refused(lambda: payee_chain.topped_up(topped_up, channel_id, 999)) is ProblemType.VERIFICATION_FAILED
    )
    assert payee_chain.opened(TxHash("0x" + "55" * 32), channel_id) is None
    failed = send(calls.top_up(descriptor, 1000))
    assert (
        refused(lambda: payee_chain.topped_up(failed, channel_id, 1000)) is ProblemType.TRANSACTION_REVERTED
    )
