"""Payers without gas: what they sign is brought onto the chain once, and nothing that was tampered with."""

from __future__ import annotations

import dataclasses
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest
from counter import problem, receipt
from http402.signing_payer import BUDGET, LEAST, PRICE, PayingShop, SigningPayer
from steps import Killed

from microwallet.domain.deposit import DepositKind
from microwallet.domain.identifiers import checksum_address, keccak, word
from microwallet.domain.ports import TransactionStatus
from microwallet.domain.voucher import VoucherKey
from microwallet.errors import LedgerUnwritable, NetworkError, OutcomeUnknown
from microwallet.escrow import calls, delivery
from microwallet.escrow.authorizations import sign
from microwallet.escrow.reader import EscrowReader, selector
from microwallet.escrow.transactions import TransactionSender
from microwallet.http402.charging.chain import PayeeChain
from microwallet.http402.charging.deposit_relay import KEPT_GAS, VALID_SECONDS
from microwallet.http402.wire.session_payload import CloseAction
from microwallet.ledger.gas_spending import GasSpending
from microwallet.ledger.journal import Journal
from microwallet.ledger.ledger import Ledger
from microwallet.selling import RELAY_THREADS
from microwallet.wallet import Wallet

STRANGER = checksum_address(b"\x77" * 20)
KEY = VoucherKey(b"\x77" * 32)


@pytest.fixture
def open_shop(bob, chain):
    """Opens shops of bob's that pay for payers' gas."""
    opened = []

    def make(home=bob, **options):
        opened.append(PayingShop(home, chain, **options))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture
def shop(open_shop):
    """A shop of bob's."""
    return open_shop()


@pytest.fixture
def payer(chain, shop):
    """Somebody with 10 USDC and no coin."""
    return SigningPayer(chain, shop.payee)


@contextmanager
def overtaken(shop, call, *, sender=STRANGER):
    """Whatever the shop sends in the block is in the same block as a call of `sender`, which comes first."""
    rpc = shop.chain.rpc

    def overtake():
        shop.wait_for_pooled(shop.payee)
        shop.send_as(sender, call, tip=10**11)
        rpc.call("evm_mine")

    thread = threading.Thread(target=overtake)
    rpc.call("evm_setAutomine", [False])
    try:
        thread.start()
        yield
    finally:
        thread.join(60)
        rpc.call("evm_setAutomine", [True])


def sent_and_dropped(shop, chain, action):
    """The transaction of a deposit that is sent, and that the node drops before it is mined."""
    chain.rpc.call("evm_setAutomine", [False])
    assert shop.refused(action) == (503, "urn:microwallet:problem:try-again")
    [sent] = [entry.transaction for entry in shop.wallet.ledger.journal.unfinished(chain.chain_id)]
    chain.rpc.call("anvil_dropTransaction", [sent.hash])
    return sent


def assert_cancelled(shop, chain, sent):
    """It is no more to be sent, and cost a cancellation."""
    journal = shop.wallet.ledger.journal
    assert journal.unfinished(chain.chain_id) == []
    [cancelled, cancelling] = journal.of_operation(sent.operation)
    assert (cancelled.status, cancelling.status) == (TransactionStatus.REPLACED, TransactionStatus.MINED)
    assert (cancelling.transaction.purpose, cancelling.gas_used) == ("cancel", 21_000)


def test_it_says_that_gas_is_paid(shop):
    """By `feePayer`, with both ways to deposit, and with a deposit suggested that is worth it."""
    request = shop.request()
    assert request["methodDetails"]["feePayer"] is True
    assert request["methodDetails"]["credentialTypes"] == ["authorization", "hash"]
    assert request["suggestedDeposit"] == str(LEAST)


@pytest.mark.parametrize("form", ["open", "merged_open"])
def test_a_signature_opens_the_channel_and_pays(shop, payer, form):
    """With one transaction, which the payee pays for; the same credential again sends no other."""
    action = getattr(payer, form)()
    answer = shop.pay(action)
    assert (answer.status_code, answer.text) == (200, "served")
    assert receipt(answer).channel_id == payer.channel_id
    assert (receipt(answer).accepted_cumulative, receipt(answer).spent) == (PRICE, PRICE)
    assert shop.state(payer).deposit == 1_000_000
    assert shop.refused(action) == (402, "session/insufficient-balance")  # the voucher has bought
    assert shop.sent() == 1
    assert shop.reader.native_balance(payer.address) == 0


@pytest.mark.parametrize("form", ["top_up", "merged_top_up"])
def test_a_signature_tops_the_channel_up(shop, payer, form):
    """Once; merged into a voucher, that voucher may need it."""
    shop.pay(payer.open())
    action = payer.top_up() if form == "top_up" else payer.merged_top_up(amount=1_500_000)
    answer = shop.pay(action, method="HEAD")
    assert answer.status_code == 200
    assert shop.state(payer).deposit == 1_500_000
    assert shop.pay(action, method="HEAD").status_code == 200
    assert (shop.sent(), shop.state(payer).deposit) == (2, 1_500_000)
    assert receipt(answer).accepted_cumulative == (PRICE if form == "top_up" else 1_500_000)


def test_a_signature_that_is_valid_for_ever(shop, payer):
    """Until the highest number that the token knows, as many wallets sign it."""
    forever = payer.signed_again(payer.open().deposit, valid_before=2**256 - 1)
    assert shop.pay(dataclasses.replace(payer.open(), deposit=forever)).status_code == 200
    assert shop.state(payer).deposit == 1_000_000


def test_many_requests_at_once_send_it_once(shop, payer):
    """Whichever comes first; all are answered."""
    actions = [dataclasses.replace(payer.open(), voucher=payer.voucher(PRICE * n)) for n in range(1, 6)]
    answers = shop.pay(*actions)
    assert {answer.status_code for answer in answers} == {200}
    assert shop.sent() == 1


def test_deposits_of_one_payer_come_one_after_the_other(shop, payer, chain):
    """Each of two alone is good, and the money is there for one: the other would revert, and costs no gas."""
    opens = [payer.with_salt(salt).open(8_000_000) for salt in ("0x" + "12" * 32, "0x" + "34" * 32)]
    chain.rpc.call("evm_setIntervalMining", [1])
    try:
        answers = shop.pay(*opens)
    finally:
        chain.rpc.call("evm_setIntervalMining", [0])
        chain.rpc.call("evm_setAutomine", [True])
    assert sorted(answer.status_code for answer in answers) == [200, 402]
    assert shop.sent() == 1


def test_one_payer_keeps_no_others_waiting(shop, payer, chain):
    """Of as many deposits as there are threads, one is being sent: somebody else's is sent at once."""
    opens = [payer.with_salt(f"0x{n:064x}").open(LEAST) for n in range(1, RELAY_THREADS + 1)]
    other = SigningPayer(chain, shop.payee)
    pooled = []

    def release():
        shop.wait_for_pooled(shop.payee)
        time.sleep(2)
        pending = chain.rpc.call("txpool_content")["pending"]
        pooled.extend(number for nonces in pending.values() for number in nonces)
        chain.rpc.call("evm_setAutomine", [True])
        chain.rpc.call("evm_mine")

    chain.rpc.call("evm_setAutomine", [False])
    with ThreadPoolExecutor() as threads:
        releasing = threads.submit(release)
        answers = shop.pay(*opens, other.open())
        releasing.result()
    assert {answer.status_code for answer in answers} == {200}
    assert len(pooled) == 2
    assert shop.sent() == RELAY_THREADS + 1


# What was tampered with costs no gas


def tampered(payer):
    """Opens that differ from what the payer signed, or signed what the escrow would refuse."""
    good, poor = payer.open(), payer.open(LEAST - 1)
    transfer = good.deposit
    again = payer.signed_again

    def with_transfer(**changes):
        return dataclasses.replace(good, deposit=dataclasses.replace(transfer, **changes))

    def signed(**changes):
        return dataclasses.replace(good, deposit=again(transfer, **changes))

    forged = dataclasses.replace(good, voucher=payer.voucher(PRICE, key=KEY))
    now = int(time.time())
    return {
        "from": (with_transfer(payer=STRANGER), "verification-failed"),
        "to": (signed(to=STRANGER), "verification-failed"),
        "value": (with_transfer(value=2_000_000), "session/signer-mismatch"),
        "nonce": (signed(nonce="0x" + "12" * 32), "verification-failed"),
        "validBefore": (with_transfer(valid_before=now + 3600), "session/signer-mismatch"),
        "validAfter": (with_transfer(valid_after=1), "session/signer-mismatch"),
        "expired": (signed(valid_before=now - 1), "verification-failed"),
        "expiring": (signed(valid_before=now + 5), "verification-failed"),
        "early": (signed(valid_after=now + 600), "verification-failed"),
        "signature": (with_transfer(signature=b"\xff" * 65), "session/invalid-signature"),
        "salt": (dataclasses.replace(good, salt="0x" + "34" * 32), "verification-failed"),
        "signer": (dataclasses.replace(good, authorized_signer=STRANGER), "verification-failed"),
        "payee": (SigningPayer(payer.chain, STRANGER).open(), "verification-failed"),
        "voucher": (forged, "session/signer-mismatch"),
        "voucher above": (payer.open(amount=1_000_001), "session/amount-exceeds-deposit"),
        "dust": (poor, "payment-insufficient"),
        "huge": (payer.open(2**96), "verification-failed"),
    }


def test_what_was_tampered_with_is_refused(shop, payer):
    """Each with its problem, without a transaction, and before the token is asked for the payer's money."""
    for name, (action, told) in tampered(payer).items():
        assert shop.refused(action) == (402, told), name
    assert (shop.sent(), shop.state(payer).exists) == (0, False)
    assert shop.pay(payer.open()).status_code == 200


def test_a_deposit_that_does_not_pay_for_the_request(open_shop, chain):
    """No gas is paid for it, though the shop asks for no more in general."""
    shop = open_shop(least=1)
    payer = SigningPayer(chain, shop.payee)
    assert shop.refused(payer.open(PRICE - 1, amount=0)) == (402, "session/insufficient-balance")
    assert (shop.sent(), shop.state(payer).exists) == (0, False)
    assert shop.pay(payer.open(PRICE)).status_code == 200


def test_a_top_up_for_somebody_elses_channel(shop, payer, chain):
    """Only its payer adds to a channel, and only with the salt and the amount that were signed."""
    shop.pay(payer.open())
    other = SigningPayer(chain, shop.payee)
    good = payer.top_up()
    foreign = dataclasses.replace(good, deposit=other.transfer(other.top_up_authorization(500_000)))
    assert shop.refused(foreign) == (402, "verification-failed")
    in_its_name = other.signed_again(good.deposit, payer=other.address)
    assert shop.refused(dataclasses.replace(good, deposit=in_its_name)) == (402, "verification-failed")
    assert shop.refused(dataclasses.replace(good, salt="0x" + "56" * 32)) == (402, "verification-failed")
    assert shop.refused(payer.top_up(LEAST - 1)) == (402, "payment-insufficient")
    assert shop.refused(payer.merged_top_up(amount=1_500_001)) == (402, "session/amount-exceeds-deposit")
    forged = payer.merged_top_up(amount=2000)._replace(voucher=payer.voucher(2000, key=KEY))
    assert shop.refused(forged) == (402, "session/signer-mismatch")
    assert (shop.sent(), shop.state(payer).deposit) == (1, 1_000_000)


def test_no_deposit_is_brought_for_a_voucher_that_comes_too_late(shop, payer):
    """A close was requested before: the voucher would not be taken, and the gas be lost."""
    shop.pay(payer.open())
    shop.send_as(payer.address, calls.request_close(payer.descriptor))
    channels = shop.shop.gateway._checkout.channels
    channels.doubt(channels.get(payer.channel_id))
    assert shop.refused(payer.merged_top_up(amount=2000)) == (402, "verification-failed")
    assert (shop.sent(), shop.state(payer).deposit) == (1, 1_000_000)


def test_permit2_is_not_taken(shop, payer):
    """400 with a word about what is, alone and merged into a voucher."""
    details = {
        "type": "permit2",
        "salt": payer.descriptor.salt,
        "authorization": {"from": payer.address, "nonce": "1"},
        "signature": "0x" + "11" * 65,
    }
    voucher = {"channelId": payer.channel_id, "cumulativeAmount": "0", "signature": "0x" + "11" * 65}
    for payload in (
        {"action": "open", **voucher, "voucherSignature": voucher["signature"], **details},
        {"action": "topUp", "channelId": payer.channel_id, "additionalDeposit": "5", **details},
        {"action": "voucher", **voucher, "deposit": {"action": "open", **details}},
    ):
        assert shop.refused(payload) == (400, "malformed-credential")
        assert "use hash or authorization" in shop.pay(payload).json()["detail"]


def test_nobodys_gas_is_paid_by_default(open_shop, chain):
    """A shop that sells for another token than the one it pays gas for takes no signed deposits."""
    shop = open_shop()
    object.__setattr__(shop.shop.gateway.terms, "relayed_tokens", {})
    payer = SigningPayer(chain, shop.payee)
    assert shop.refused(payer.open()) == (402, "verification-failed")
    assert shop.sent() == 0


# What the chain refuses


def test_a_payer_without_tokens(shop, chain):
    """It is found out in simulation, and told as what it is."""
    poor = SigningPayer(chain, shop.payee, usdc=0)
    assert shop.refused(poor.open()) == (402, "session/insufficient-balance")
    assert shop.sent() == 0


def test_a_token_that_refuses(shop, payer, chain):
    """No gas, and no raw selector."""
    chain.rpc.call("anvil_setCode", [chain.token, "0x60006000fd"])
    answer = shop.pay(payer.open())
    assert (answer.status_code, problem(answer)) == (409, "session/transaction-reverted")
    assert "0x" not in answer.json()["detail"]
    assert shop.sent() == 0


def test_a_transaction_that_reverts_in_its_block(shop, payer, chain):
    """The payer takes the money away meanwhile: 409 with the specific problem, and nothing is accepted."""
    with overtaken(shop, calls.transfer(chain.token, STRANGER, 10_000_000), sender=payer.address):
        assert shop.refused(payer.open()) == (409, "session/insufficient-balance")
    assert (shop.sent(), shop.state(payer).exists) == (1, False)


def test_an_authorization_that_its_payer_cancelled(shop, payer, chain):
    """It was used, and moved nothing: a top-up by it is refused, merged with its whole credential."""
    shop.pay(payer.open())
    cancelled = payer.top_up_authorization(500_000)
    kind = keccak(b"CancelAuthorization(address authorizer,bytes32 nonce)")
    struct = keccak(kind + word(payer.address) + cancelled.nonce)
    signature = sign(payer.secret, keccak(b"\x19\x01" + payer.domain.separator() + struct))
    data = selector("cancelAuthorization(address,bytes32,bytes)")
    data += word(payer.address) + cancelled.nonce + word(96) + word(65) + signature.ljust(96, b"\0")
    shop.send_as(STRANGER, calls.Call(to=chain.token, data=data))
    assert shop.refused(payer.top_up()) == (409, "session/transaction-reverted")
    assert shop.refused(payer.merged_top_up(amount=2000)) == (409, "session/transaction-reverted")
    assert shop.sent() == 1


# Once, whatever happens


def test_somebody_else_submits_it_first(shop, payer):
    """Then the deposit is there, and that is what counts, though it is too late to bring it now."""
    opening = payer.open_authorization(1_000_000, valid_before=int(time.time()) + VALID_SECONDS - 5)
    shop.send_as(STRANGER, calls.open_with_authorization(payer.descriptor, 1_000_000, opening))
    assert shop.pay(payer.opening(PRICE, payer.transfer(opening))).status_code == 200
    topping = payer.top_up_authorization(500_000)
    shop.send_as(STRANGER, calls.top_up_with_authorization(payer.descriptor, 500_000, topping))
    assert shop.pay(payer.top_up()).status_code == 200
    assert (shop.sent(), shop.state(payer).deposit) == (0, 1_500_000)


def test_a_node_that_is_behind(shop, payer, monkeypatch):
    """What the receipt says of the deposit counts: the node is waited for, until the voucher is covered."""
    assert shop.pay(payer.open()).status_code == 200
    before, states, behind = shop.state(payer), PayeeChain.states, iter([True] * 3)

    def late_states(own, channel_ids):
        return {payer.channel_id: before} if next(behind, False) else states(own, channel_ids)

    monkeypatch.setattr(EscrowReader, "channel_state", lambda *_: before)
    monkeypatch.setattr(PayeeChain, "states", late_states)
    assert shop.pay(payer.merged_top_up(amount=1_400_000)).status_code == 200


def test_somebody_else_overtakes_it(shop, payer):
    """Our transaction reverts in the same block: the channel is open, and the request is served."""
    opening = payer.open_authorization(1_000_000)
    with overtaken(shop, calls.open_with_authorization(payer.descriptor, 1_000_000, opening)):
        assert shop.pay(payer.open()).status_code == 200
    assert (shop.sent(), shop.state(payer).deposit) == (1, 1_000_000)


def test_a_late_transaction_is_found_again(open_shop, bob, chain):
    """503 while it is not mined; a gateway that starts anew sends no second one for the same credential."""
    impatient = dataclasses.replace(bob, settings={**bob.settings, "MICROWALLET_WAIT_SECONDS": "1"})
    shop = open_shop(impatient)
    payer = SigningPayer(chain, shop.payee)
    action = payer.open()
    chain.rpc.call("evm_setAutomine", [False])
    assert shop.refused(action) == (503, "urn:microwallet:problem:try-again")
    chain.rpc.call("evm_mine")
    chain.rpc.call("evm_setAutomine", [True])
    answer = open_shop().pay(action)
    assert (answer.status_code, shop.sent()) == (200, 1)


def test_a_node_that_goes_away_once_it_was_sent(open_shop, bob, chain, monkeypatch):
    """503 without a word of which node that is; the same credential then finds it."""
    shop = open_shop(dataclasses.replace(bob, settings={**bob.settings, "MICROWALLET_WAIT_SECONDS": "1"}))
    action = SigningPayer(chain, shop.payee).open()

    def fail(*_):
        raise NetworkError("the chain could not be asked: https://node.internal timed out")

    with monkeypatch.context() as away:
        away.setattr(delivery, "look", fail)
        answer = shop.pay(action)
    assert (answer.status_code, problem(answer)) == (503, "urn:microwallet:problem:try-again")
    assert "node.internal" not in answer.text
    assert shop.pay(action).status_code == 200
    assert shop.sent() == 1


@pytest.mark.parametrize("is_dropped", [False, True])
@pytest.mark.parametrize("has_key", [True, False])
def test_what_another_relayer_has_sent(open_shop, bob, chain, is_dropped, has_key):
    """A gateway that starts anew with another one sends no second transaction for the same credential."""
    carol = bob.with_account("carol")
    chain.node.add_native(carol.address, 10**18)
    hasty = {**bob.settings, "MICROWALLET_WAIT_SECONDS": "1", "MICROWALLET_ACCOUNT": "bob"}
    before = open_shop(dataclasses.replace(bob, settings={**hasty, "MICROWALLET_RELAYER": "carol"}))
    payer = SigningPayer(chain, before.payee)
    action = payer.open()
    chain.rpc.call("evm_setAutomine", [False])
    assert before.refused(action)[0] == 503
    [sent] = before.wallet.ledger.journal.unfinished(chain.chain_id)
    assert sent.transaction.sender == carol.address
    if is_dropped:
        chain.rpc.call("anvil_dropTransaction", [sent.transaction.hash])
    key = bob.path / "keys" / "accounts" / "carol.json"
    if not has_key:
        key.rename(key.with_suffix(".away"))
    shop = open_shop(dataclasses.replace(bob, settings=hasty))
    assert shop.refused(action) == (503, "urn:microwallet:problem:try-again")
    assert len(shop.wallet.ledger.journal.of_operation(sent.transaction.operation)) == 1
    assert [details["code"] for _, details in shop.events] == ([] if has_key else ["key-unavailable"])
    if not has_key:
        key.with_suffix(".away").rename(key)
    chain.rpc.call("evm_setAutomine", [True])
    chain.rpc.call("evm_mine")
    assert shop.pay(action).status_code == 200
    assert (shop.sent(), shop.sent(carol.address)) == (0, 1)


def test_what_another_relayer_has_given_up(open_shop, bob, chain):
    """Its key is needed no more: the same credential is good for a transaction of the next one."""
    carol = bob.with_account("carol")
    chain.node.add_native(carol.address, 10**18)
    hasty = {**bob.settings, "MICROWALLET_WAIT_SECONDS": "1", "MICROWALLET_ACCOUNT": "bob"}
    before = open_shop(dataclasses.replace(bob, settings={**hasty, "MICROWALLET_RELAYER": "carol"}))
    payer = SigningPayer(chain, before.payee)
    action, held = payer.open(), before.reader.token_balance(chain.token, payer.address)
    sent = sent_and_dropped(before, chain, action)
    chain.rpc.call("evm_setAutomine", [True])
    before.send_as(payer.address, calls.transfer(chain.token, STRANGER, held))
    assert before.refused(action) == (402, "session/insufficient-balance")
    assert_cancelled(before, chain, sent)
    (bob.path / "keys" / "accounts" / "carol.json").unlink()
    chain.node.mint(chain.token, payer.address, held)
    shop = open_shop(bob)
    assert shop.pay(action).status_code == 200
    assert (shop.sent(), shop.sent(carol.address)) == (1, 1)


@pytest.mark.parametrize("kind", [DepositKind.OPEN, DepositKind.TOP_UP])
@pytest.mark.parametrize("again", ["payer", "payee"])
def test_what_expired_before_it_was_mined(open_shop, bob, chain, kind, again):
    """A transaction that the node dropped could only revert: its nonce is used up for less gas."""
    shop = open_shop(dataclasses.replace(bob, settings={**bob.settings, "MICROWALLET_WAIT_SECONDS": "1"}))
    payer, ends = SigningPayer(chain, shop.payee), int(time.time()) + 300
    if kind is DepositKind.OPEN:
        action = payer.opening(PRICE, payer.transfer(payer.open_authorization(10**6, valid_before=ends)))
    else:
        assert shop.pay(payer.open()).status_code == 200
        topping = payer.transfer(payer.top_up_authorization(500_000, valid_before=ends))
        action = dataclasses.replace(payer.top_up(), deposit=topping)
    sent = sent_and_dropped(shop, chain, action)
    chain.rpc.call("evm_setAutomine", [True])
    chain.rpc.call("evm_setNextBlockTimestamp", [ends + 300])
    chain.rpc.call("evm_mine")
    if again == "payer":
        assert shop.refused(action)[0] == 409
    else:
        with Wallet.open(environment=bob.environment) as wallet:
            wallet.settlement.resume([shop.payee])
    assert_cancelled(shop, chain, sent)


@pytest.mark.parametrize("kind", [DepositKind.OPEN, DepositKind.TOP_UP])
@pytest.mark.parametrize("again", ["payer", "payee"])
def test_what_would_revert_before_it_was_mined(open_shop, bob, chain, kind, again):
    """Where the payer's money went elsewhere while the node had dropped it: it is cancelled for less gas."""
    shop = open_shop(dataclasses.replace(bob, settings={**bob.settings, "MICROWALLET_WAIT_SECONDS": "1"}))
    payer = SigningPayer(chain, shop.payee, usdc=1_500_000)
    if kind is DepositKind.TOP_UP:
        assert shop.pay(payer.open()).status_code == 200
    action = payer.open() if kind is DepositKind.OPEN else payer.top_up()
    sent = sent_and_dropped(shop, chain, action)
    held = shop.reader.token_balance(chain.token, payer.address)
    chain.rpc.call("evm_setAutomine", [True])
    shop.send_as(payer.address, calls.transfer(chain.token, STRANGER, held))
    if again == "payer":
        assert shop.refused(action) == (402, "session/insufficient-balance")
    else:
        with Wallet.open(environment=bob.environment) as wallet:
            wallet.settlement.resume([shop.payee])
    assert_cancelled(shop, chain, sent)


def test_what_needs_one_before_it_is_not_cancelled(open_shop, bob, chain):
    """A top-up that is pending behind the open of its channel would revert alone; both are sent again."""
    shop = open_shop(dataclasses.replace(bob, settings={**bob.settings, "MICROWALLET_WAIT_SECONDS": "1"}))
    payer = SigningPayer(chain, shop.payee)
    chain.rpc.call("evm_setAutomine", [False])
    assert shop.refused(payer.open())[0] == 503
    opened = shop.wallet.ledger.journal.unfinished(chain.chain_id)[0].transaction
    sender = shop.wallet.sender()
    call = calls.top_up_with_authorization(payer.descriptor, 500_000, payer.top_up_authorization(500_000))
    quoted = dataclasses.replace(sender.quote(calls.Call(to=STRANGER), purpose="send"), gas=300_000)
    with pytest.raises(OutcomeUnknown):
        sender.send(call, operation="topUp-1", purpose="topUp", quoted=quoted)
    for entry in shop.wallet.ledger.journal.unfinished(chain.chain_id)[::-1]:
        chain.rpc.call("anvil_dropTransaction", [entry.transaction.hash])
    chain.rpc.call("evm_setAutomine", [True])
    assert [one.status for one in sender.resume_all()] == [TransactionStatus.MINED] * 2
    assert shop.reader.transaction_count(opened.sender) == 2
    assert shop.state(payer).deposit == 1_500_000


def test_a_close_of_what_a_reorganisation_took(shop, payer, chain):
    """The channel is not on the chain any more: the payer is told so."""
    before = chain.rpc.call("evm_snapshot")
    assert shop.pay(payer.open()).status_code == 200
    assert chain.rpc.call("evm_revert", [before])
    close = CloseAction(voucher=payer.voucher(PRICE))
    assert shop.refused(close) == (410, "session/channel-not-found")


def test_the_budget_of_an_hour(open_shop, chain):
    """What it does not cover is not sent, and the operator hears of it once."""
    shop = open_shop(budget=10**6)
    payers = [SigningPayer(chain, shop.payee) for _ in range(2)]
    for payer in payers:
        assert shop.refused(payer.open()) == (503, "urn:microwallet:problem:try-again")
    assert shop.sent() == 0
    assert [details["code"] for event, details in shop.events if event == "deposit-refused"] == ["gas-budget"]


def test_a_kill_just_as_it_is_found_mined(shop, payer, chain, monkeypatch):
    """What it cost counts for an hour from then, though it had waited for longer than that."""

    def an_hour_goes_by(own, *_):
        with own._database.write() as connection:
            connection.execute("UPDATE gas_spending SET created_at = created_at - 3600")

    def die(own, *_arguments, record=Journal.record, **_options):
        record(own, *_arguments, **_options)
        raise Killed

    monkeypatch.setattr(Journal, "begin_sending", an_hour_goes_by)
    monkeypatch.setattr(Journal, "record", die)
    with pytest.raises(Killed):
        shop.pay(payer.open())
    assert shop.wallet.ledger.journal.unfinished(chain.chain_id) == []
    assert not shop.wallet.ledger.gas_spending.set_aside(chain.chain_id, "another", BUDGET, budget=BUDGET)


def test_a_raise_that_the_budget_has_no_room_for(shop, payer, chain, monkeypatch):
    """The deposit is cancelled, as closes would wait behind it: 503, the operator hears of it, and what
    counts is what was paid."""
    monkeypatch.setitem(TransactionSender.__init__.__kwdefaults__, "stuck_seconds", 0.2)

    def pass_over():
        shop.wait_for_pooled(shop.payee)
        with Ledger.open(shop.wallet.paths.ledger) as ledger:
            [first] = ledger.journal.unfinished(chain.chain_id)
            with ledger.database.write() as connection:
                connection.execute("UPDATE gas_spending SET budget = wei")
            time.sleep(1)
            chain.rpc.call("anvil_dropTransaction", [first.transaction.hash])
            chain.rpc.call("evm_mine")
            deadline = time.monotonic() + 20
            while len(ledger.journal.unfinished(chain.chain_id)) < 2 and time.monotonic() < deadline:
                time.sleep(0.05)
        chain.rpc.call("evm_setAutomine", [True])
        chain.rpc.call("evm_mine")
        return first

    chain.rpc.call("evm_setAutomine", [False])
    with ThreadPoolExecutor() as threads:
        passing = threads.submit(pass_over)
        told = shop.refused(payer.open())
        first = passing.result()
    assert told == (503, "urn:microwallet:problem:try-again")
    journal = shop.wallet.ledger.journal
    cancelling = journal.of_operation(first.transaction.operation)[-1]
    assert (cancelling.transaction.purpose, cancelling.gas_used) == ("cancel", 21_000)
    assert (shop.sent(), shop.state(payer).exists) == (1, False)
    [(event, details)] = shop.events
    assert (event, details["code"]) == ("deposit-refused", "transaction-replaced")
    assert "the gas budget of the last hour" in details["message"]
    paid = chain.rpc.call("eth_getTransactionReceipt", [cancelling.transaction.hash])["effectiveGasPrice"]
    with shop.wallet.ledger.database.read() as connection:
        [(wei,)] = connection.execute("SELECT wei FROM gas_spending").fetchall()
    assert int(wei) == 21_000 * int(paid, 16)
    assert shop.pay(payer.open()).status_code == 200


def test_the_gas_of_closes_is_kept(shop, payer, chain):
    """An account with coin for a deposit and not for the closes after it: whoever had bought most could ask
    for its money back then, and nothing could answer."""
    fees = shop.wallet.fees()
    chain.rpc.call("anvil_setBalance", [shop.payee, hex(fees.cost(500_000))])
    assert shop.refused(payer.open()) == (503, "urn:microwallet:problem:try-again")
    assert shop.sent() == 0
    assert [details["code"] for _, details in shop.events] == ["insufficient-funds"]
    chain.rpc.call("anvil_setBalance", [shop.payee, hex(fees.cost(1_500_000))])
    assert shop.pay(payer.open()).status_code == 200


def test_what_a_rollup_takes_for_the_data_of_closes_is_kept(open_shop, bob, chain):
    """And for that of what is on its way."""
    shop = open_shop(dataclasses.replace(bob, settings={**bob.settings, "MICROWALLET_WAIT_SECONDS": "1"}))
    gas_alone = shop.wallet.fees().cost(KEPT_GAS)
    oracle = "0x420000000000000000000000000000000000000F"
    chain.rpc.call("anvil_setCode", [oracle, "0x60043564e8d4a510000260005260206000f3"])  # 10**12 wei a byte
    kept = shop.wallet.fees().cost(KEPT_GAS)
    first, second = (SigningPayer(chain, shop.payee) for _ in range(2))
    chain.rpc.call("anvil_setBalance", [shop.payee, hex((gas_alone + kept) // 2)])
    assert shop.refused(first.open())[0] == 503
    assert shop.wallet.ledger.journal.unfinished(chain.chain_id) == []
    chain.rpc.call("anvil_setBalance", [shop.payee, hex(kept + 2 * 10**16)])
    chain.rpc.call("evm_setAutomine", [False])
    assert shop.refused(first.open())[0] == 503
    with shop.wallet.ledger.database.read() as connection:
        [(wei,)] = connection.execute("SELECT wei FROM gas_spending").fetchall()
    chain.rpc.call("anvil_setBalance", [shop.payee, hex(kept + 2 * int(wei))])
    assert shop.refused(second.open())[0] == 503
    assert len(shop.wallet.ledger.journal.unfinished(chain.chain_id)) == 1
    chain.rpc.call("evm_setAutomine", [True])
    chain.rpc.call("evm_mine")


def test_the_gas_of_closes_is_kept_from_many_at_once(open_shop, bob, chain):
    """What is on its way has not been paid yet, and will be: each alone would leave enough."""
    shop = open_shop(dataclasses.replace(bob, settings={**bob.settings, "MICROWALLET_WAIT_SECONDS": "1"}))
    first, second = (SigningPayer(chain, shop.payee) for _ in range(2))
    chain.rpc.call("evm_setAutomine", [False])
    assert shop.refused(first.open())[0] == 503
    with shop.wallet.ledger.database.read() as connection:
        [(wei,)] = connection.execute("SELECT wei FROM gas_spending").fetchall()
    kept = shop.wallet.fees().cost(KEPT_GAS)
    chain.rpc.call("anvil_setBalance", [shop.payee, hex(kept + int(wei) * 3 // 2)])
    assert shop.refused(second.open())[0] == 503
    assert len(shop.wallet.ledger.journal.unfinished(chain.chain_id)) == 1
    assert [details["code"] for _, details in shop.events] == ["insufficient-funds"]
    chain.rpc.call("anvil_setBalance", [shop.payee, hex(kept + int(wei) * 5 // 2)])
    assert shop.refused(second.open())[0] == 503
    assert len(shop.wallet.ledger.journal.unfinished(chain.chain_id)) == 2
    chain.rpc.call("evm_setAutomine", [True])
    chain.rpc.call("evm_mine")


def test_the_gas_of_closes_is_kept_from_two_at_the_same_moment(open_shop, bob, chain, monkeypatch):
    """Of two that are weighed when there is enough for one, one is signed."""
    shop = open_shop(dataclasses.replace(bob, settings={**bob.settings, "MICROWALLET_WAIT_SECONDS": "1"}))
    first, second, third = (SigningPayer(chain, shop.payee) for _ in range(3))
    chain.rpc.call("evm_setAutomine", [False])
    assert shop.refused(first.open())[0] == 503
    with shop.wallet.ledger.database.read() as connection:
        [(wei,)] = connection.execute("SELECT wei FROM gas_spending").fetchall()
    kept = shop.wallet.fees().cost(KEPT_GAS)
    chain.rpc.call("anvil_setBalance", [shop.payee, hex(kept + int(wei) * 5 // 2)])
    set_aside, both = GasSpending.set_aside, threading.Barrier(2)

    def slow(*arguments, **options):
        with suppress(threading.BrokenBarrierError):
            both.wait(1)
        return set_aside(*arguments, **options)

    monkeypatch.setattr(GasSpending, "set_aside", slow)
    assert [answer.status_code for answer in shop.pay(second.open(), third.open())] == [503, 503]
    assert len(shop.wallet.ledger.journal.unfinished(chain.chain_id)) == 2
    assert [details["code"] for _, details in shop.events] == ["insufficient-funds"]
    chain.rpc.call("evm_setAutomine", [True])
    chain.rpc.call("evm_mine")


def test_gas_that_is_too_dear(open_shop, make_wallet, chain):
    """Or that nobody has: 503, and the operator hears why."""
    frugal = make_wallet("frugal", MICROWALLET_MAX_FEE_GWEI="0.000001")
    shop = open_shop(frugal)
    assert shop.refused(SigningPayer(chain, shop.payee).open())[0] == 503
    broke = make_wallet("broke", wei=0)
    poor = open_shop(broke)
    assert poor.refused(SigningPayer(chain, poor.payee).open())[0] == 503
    assert [event for event, _ in shop.events + poor.events] == ["deposit-refused"] * 2


def test_who_has_no_tokens_hears_nothing_of_the_payees_coin(open_shop, make_wallet, chain):
    """Where both have too little, a payer is told of what it can mend."""
    shop = open_shop(make_wallet("broke", wei=0))
    answer = shop.pay(SigningPayer(chain, shop.payee, usdc=0).open())
    assert (answer.status_code, problem(answer)) == (402, "session/insufficient-balance")
    assert shop.payee not in answer.text


def test_a_key_that_cannot_be_used(shop, payer, bob):
    """503, the operator hears why, and however often it is tried, none of the budget is used for it."""
    bob.password_file.write_text("wrong\n")
    for _ in range(2):
        assert shop.refused(payer.open()) == (503, "urn:microwallet:problem:try-again")
    assert [details["code"] for _, details in shop.events] == ["key-unavailable"]
    with shop.wallet.ledger.database.read() as connection:
        assert connection.execute("SELECT wei FROM gas_spending").fetchall() == []


def test_a_key_that_is_not_there(shop, payer, bob):
    """503 while it is away."""
    key = bob.path / "keys" / "accounts" / "bob.json"
    key.rename(key.with_suffix(".away"))
    assert shop.refused(payer.open()) == (503, "urn:microwallet:problem:try-again")
    key.with_suffix(".away").rename(key)
    assert shop.pay(payer.open()).status_code == 200


def test_a_ledger_that_takes_nothing_more_once_it_was_sent(shop, payer, monkeypatch):
    """The payer is told to come again, and nothing of the disk here; the same credential then finds it."""
    error = LedgerUnwritable("the disk of the ledger /home/bob/ledger.db is full")

    def fail(*_):
        raise error

    action = payer.open()
    with monkeypatch.context() as full:
        full.setattr(Journal, "record_sent", fail)
        answer = shop.pay(action)
    assert (answer.status_code, problem(answer)) == (503, "urn:microwallet:problem:try-again")
    assert "/home/bob" not in answer.text
    assert shop.pay(action).status_code == 200
    assert shop.sent() == 1
