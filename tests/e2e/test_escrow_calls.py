"""Every call of the escrow on a real chain: deposits in each way, settle, close, events, deployment."""

from __future__ import annotations

import itertools
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from anybody import done_as

from microwallet.devnet.process import AttachedAnvil
from microwallet.domain.channel import CLOSE_GRACE_PERIOD, ChannelDescriptor
from microwallet.domain.identifiers import NATIVE_TOKEN, hexed
from microwallet.domain.voucher import VoucherDigest, VoucherKey
from microwallet.errors import NetworkError
from microwallet.escrow import authorizations, calls
from microwallet.escrow.artifacts import artifact
from microwallet.escrow.authorizations import TokenDomain
from microwallet.escrow.calls import Capture
from microwallet.escrow.deployment import Deployment, deploy_call, deployment_of
from microwallet.escrow.events import (
    ChannelClosed,
    ChannelOpened,
    CloseRequestCancelled,
    CloseRequested,
    EscrowEvents,
    Settled,
    TopUp,
)
from microwallet.escrow.network import built_in_networks
from microwallet.escrow.reader import EscrowReader
from microwallet.escrow.reverts import ContractReverted
from microwallet.escrow.rpc import Rpc
from microwallet.escrow.token_features import NO_FEATURES, permit_nonce, token_features
from microwallet.escrow.transactions import TransactionSender
from microwallet.ledger.ledger import Ledger

SECRETS = {name: bytes([byte]) * 32 for name, byte in (("payer", 0x61), ("payee", 0x62), ("other", 0x63))}
ADDRESSES = {name: VoucherKey(secret).address for name, secret in SECRETS.items()}
USDC = 10**6
OTHER_TOKEN = "0x1111111111111111111111111111111111111111"


class Quiet:
    def say(self, message):
        pass


class Limited(Rpc):
    """A chain behind a server that refuses logs of more than 64 blocks."""

    asked = 0

    def call(self, method, params=()):
        if method == "eth_getLogs":
            self.asked += 1
            if int(params[0]["toBlock"], 16) - int(params[0]["fromBlock"], 16) >= 64:
                return super().call("eth_noSuchMethod")
        return super().call(method, params)


@pytest.fixture
def escrow(chain, tmp_path):
    """A payer with coins and tokens, a payee and a third, and the escrow's calls sent by them."""
    for address in ADDRESSES.values():
        chain.node.add_native(address, 10**19)
    chain.node.mint(chain.token, ADDRESSES["payer"], 1000 * USDC)
    ledger = Ledger.open(tmp_path / "ledger.sqlite3")
    reader = EscrowReader(chain.rpc, chain.escrow_contract)
    numbers = itertools.count()

    def send(who, call):
        sender = TransactionSender(
            chain.rpc,
            built_in_networks()["anvil"],
            ledger.journal,
            ADDRESSES[who],
            lambda: SECRETS[who],
            max_fee_gwei=200,
            wait_seconds=15,
            reporter=Quiet(),
        )
        return sender.send(call, operation=f"operation-{next(numbers)}", purpose="test")

    def descriptor(token=chain.token):
        return ChannelDescriptor(
            payer=ADDRESSES["payer"],
            payee=ADDRESSES["payee"],
            token=token,
            salt="0x" + secrets.token_hex(32),
            authorized_signer=ADDRESSES["payer"],
            escrow_contract=chain.escrow_contract,
            chain_id=31337,
        )

    def capture(channel, cumulative, captured=None):
        digest = VoucherDigest(31337, chain.escrow_contract, channel.channel_id())(cumulative)
        return Capture(
            descriptor=channel,
            cumulative_amount=cumulative,
            capture_amount=cumulative if captured is None else captured,
            signature=VoucherKey(SECRETS["payer"]).sign(digest),
        )

    def opened(deposit=10 * USDC):
        channel = descriptor()
        send("payer", calls.approve(chain.token, chain.escrow_contract, deposit))
        send("payer", calls.open_channel(channel, deposit))
        return channel

    def ends():
        return authorizations.expiry(chain_time=reader.head().timestamp, now=int(time.time()))

    yield SimpleNamespace(
        chain=chain,
        reader=reader,
        events=EscrowEvents(reader, 31337),
        domain=TokenDomain(name="USDC", version="2", chain_id=31337, token=chain.token),
        send=send,
        descriptor=descriptor,
        capture=capture,
        opened=opened,
        ends=ends,
        state=lambda channel: reader.channel_state(channel.channel_id()),
        holds=lambda who: reader.token_balance(chain.token, ADDRESSES[who]),
    )
    ledger.database.close()


class TestDeposits:
    def test_by_allowance(self, escrow):
        """`approve` of the exact amount, then `open` and `topUp`: nothing is left over."""
        channel = escrow.opened(10 * USDC)
        escrow.send("payer", calls.approve(escrow.chain.token, escrow.chain.escrow_contract, 5 * USDC))
        escrow.send("payer", calls.top_up(channel, 5 * USDC))
        assert escrow.state(channel).deposit == 15 * USDC
        left = escrow.reader.allowance(escrow.chain.token, ADDRESSES["payer"], escrow.chain.escrow_contract)
        assert left == 0

    def test_by_a_signed_transfer(self, escrow):
        """EIP-3009: one transaction each, and anyone may submit it."""
        channel, secret = escrow.descriptor(), SECRETS["payer"]
        signed = authorizations.authorize_open(
            secret, escrow.domain, channel, deposit=10 * USDC, valid_before=escrow.ends()
        )
        escrow.send("other", calls.open_with_authorization(channel, 10 * USDC, signed))
        more = authorizations.authorize_top_up(
            secret,
            escrow.domain,
            channel,
            additional_deposit=2 * USDC,
            top_up_salt=secrets.token_bytes(32),
            valid_before=escrow.ends(),
        )
        escrow.send("other", calls.top_up_with_authorization(channel, 2 * USDC, more))
        assert escrow.state(channel).deposit == 12 * USDC
        assert escrow.holds("payer") == 988 * USDC

    def test_a_signed_transfer_opens_no_other_channel(self, escrow):
        """Another payee, or another salt, is another nonce: whoever intercepts it gains nothing."""
        channel, other = escrow.descriptor(), escrow.descriptor()
        signed = authorizations.authorize_open(
            SECRETS["payer"], escrow.domain, channel, deposit=USDC, valid_before=escrow.ends()
        )
        with pytest.raises(ContractReverted) as caught:
            escrow.send("other", calls.open_with_authorization(other, USDC, signed))
        assert caught.value.name == "NonceMismatch"

    def test_by_permit(self, escrow):
        """EIP-2612: one transaction, sent by the payer."""
        channel = escrow.descriptor()

        def permit(value):
            return authorizations.sign_permit(
                SECRETS["payer"],
                escrow.domain,
                owner=ADDRESSES["payer"],
                spender=escrow.chain.escrow_contract,
                value=value,
                nonce=permit_nonce(escrow.reader, escrow.chain.token, ADDRESSES["payer"]),
                deadline=escrow.ends(),
            )

        escrow.send("payer", calls.open_with_permit(channel, 10 * USDC, permit(10 * USDC)))
        escrow.send("payer", calls.top_up_with_permit(channel, USDC, permit(USDC)))
        assert escrow.state(channel).deposit == 11 * USDC

    def test_of_the_native_coin(self, escrow):
        """The value is the deposit."""
        channel = escrow.descriptor(NATIVE_TOKEN)
        escrow.send("payer", calls.open_channel(channel, 10**15))
        escrow.send("payer", calls.top_up(channel, 10**15))
        assert escrow.state(channel).deposit == 2 * 10**15


class TestPayee:
    def test_settle_then_close(self, escrow):
        """Settled is paid and the rest comes back, to the base unit."""
        channel = escrow.opened(10 * USDC)
        escrow.send("payee", calls.settle(escrow.capture(channel, 3 * USDC)))
        assert (escrow.state(channel).settled, escrow.holds("payee")) == (3 * USDC, 3 * USDC)
        escrow.send("payee", calls.close(escrow.capture(channel, 8 * USDC, captured=4 * USDC)))
        assert escrow.state(channel).finalized
        assert (escrow.holds("payee"), escrow.holds("payer")) == (4 * USDC, 996 * USDC)

    def test_batches(self, escrow):
        """Many channels in one transaction."""
        channels = [escrow.opened(10 * USDC) for _ in range(3)]
        escrow.send("payee", calls.settle_batch([escrow.capture(channel, USDC) for channel in channels]))
        escrow.send("payee", calls.close_batch([escrow.capture(channel, 2 * USDC) for channel in channels]))
        assert all(escrow.state(channel).finalized for channel in channels)
        assert escrow.holds("payee") == 6 * USDC

    @pytest.mark.parametrize("kind", ["settle", "close"])
    def test_by_authorization(self, escrow, kind):
        """The payee signs, anyone submits, and only at the amount signed."""
        channel = escrow.opened(10 * USDC)
        voucher = escrow.capture(channel, 5 * USDC)
        submit = getattr(calls, f"{kind}_with_authorization")
        signed = authorizations.authorize_capture(
            getattr(authorizations, f"{kind.upper()}_TYPE"),
            SECRETS["payee"],
            channel,
            cumulative_amount=5 * USDC,
            capture_amount=4 * USDC,
            nonce=secrets.randbits(256),
            deadline=escrow.ends(),
        )
        escrow.send("other", submit(channel, signed, voucher.signature))
        assert escrow.holds("payee") == 4 * USDC
        assert escrow.state(channel).finalized is (kind == "close")

    @pytest.mark.parametrize(
        ("who", "captured", "name"),
        [
            ("other", 5 * USDC, "NotPayee"),
            ("payee", 11 * USDC, "AmountExceedsDeposit"),
            ("payee", 13 * USDC, "CaptureAmountInvalid"),
            ("payee", 0, "AmountNotIncreasing"),
        ],
    )
    def test_a_refusal_is_told_before_gas_is_spent(self, escrow, who, captured, name):
        """The contract's error by name, and a message with its values."""
        channel = escrow.opened(10 * USDC)
        call = calls.settle(escrow.capture(channel, 12 * USDC, captured=captured))
        with pytest.raises(ContractReverted) as caught:
            escrow.send(who, call)
        assert (caught.value.name, caught.value.exit_code) == (name, 8)


class TestEvents:
    def test_a_channels_life_is_read_back(self, escrow):
        """Every event, in order, with the descriptor rebuilt from the chain alone."""
        channel = escrow.opened(10 * USDC)
        escrow.send("payee", calls.settle(escrow.capture(channel, USDC)))
        requested = escrow.send("payer", calls.request_close(channel))
        escrow.send("payer", calls.approve(escrow.chain.token, escrow.chain.escrow_contract, USDC))
        escrow.send("payer", calls.top_up(channel, USDC))
        escrow.send("payer", calls.request_close(channel))
        escrow.chain.node.advance(CLOSE_GRACE_PERIOD)
        escrow.send("payer", calls.withdraw(channel))
        topics = [None, channel.channel_id()]
        wanted = {"address": escrow.chain.escrow_contract, "topics": topics, "fromBlock": "0x0"}
        events = [escrow.events.decode(log) for log in escrow.chain.rpc.call("eth_getLogs", [wanted])]
        assert [type(event) for event in events] == [
            ChannelOpened,
            Settled,
            CloseRequested,
            TopUp,
            CloseRequestCancelled,
            CloseRequested,
            ChannelClosed,
        ]
        assert events[0].descriptor == channel
        assert (events[1].captured, events[1].settled) == (USDC, USDC)
        assert events[2].transaction_hash == requested.hash
        at = escrow.reader.head(events[2].block_number).timestamp
        assert events[2].withdrawable_at == at + CLOSE_GRACE_PERIOD
        assert (events[-1].settled, events[-1].refunded) == (USDC, 10 * USDC)
        assert isinstance(escrow.events.decode(requested.logs[0]), CloseRequested)

    def test_channels_are_found_by_their_payer(self, escrow):
        """A payer finds what it opened; others find nothing."""
        ids = {escrow.opened(USDC).channel_id() for _ in range(3)}
        head = escrow.reader.head().number
        everything = {"from_block": 0, "to_block": head}
        found = {event.channel_id for event in escrow.events.opened(payer=ADDRESSES["payer"], **everything)}
        assert found == ids
        assert escrow.events.opened(payer=ADDRESSES["payee"], **everything) == []
        first = escrow.events.first_block()
        assert 0 < first <= head
        assert len(escrow.events.opened(payer=ADDRESSES["payer"], from_block=first, to_block=head)) == 3

    def test_a_server_that_limits_ranges_is_asked_for_less(self, escrow):
        """Whatever words it refuses with, the search goes on in smaller steps and misses nothing."""
        ids = [escrow.opened(USDC).channel_id() for _ in range(2)]
        escrow.chain.rpc.call("anvil_mine", [hex(500)])
        ids.append(escrow.opened(USDC).channel_id())
        with Limited([escrow.chain.rpc_url], timeout=5) as rpc:
            events = EscrowEvents(EscrowReader(rpc, escrow.chain.escrow_contract), 31337)
            head = escrow.reader.head().number
            found = events.opened(payer=ADDRESSES["payer"], from_block=0, to_block=head)
            assert [event.channel_id for event in found] == ids
            assert 5 < rpc.asked < 40


class TestTokenFeatures:
    def test_the_test_usdc_does_both(self, escrow):
        """Its domain is found by its separator."""
        features = token_features(escrow.reader, escrow.chain.token, 31337)
        assert (features.receive_with_authorization, features.permit) == (True, True)
        assert features.domain == escrow.domain

    def test_a_fallback_that_takes_any_call_proves_nothing(self, escrow):
        """A contract that answers every call with success, or with any word, has no feature."""
        for code in ("0x00", "0x60016000526020 6000f3".replace(" ", ""), "0x"):
            escrow.chain.rpc.call("anvil_setCode", [OTHER_TOKEN, code])
            assert token_features(escrow.reader, OTHER_TOKEN, 31337) == NO_FEATURES

    def test_a_copy_elsewhere_has_a_domain_of_its_own(self, escrow):
        """The verifying contract is the token's address, so a signature is for one token."""
        code = hexed(artifact("TestUSDC").deployed_bytecode)
        escrow.chain.rpc.call("anvil_setCode", [OTHER_TOKEN, code])
        features = token_features(escrow.reader, OTHER_TOKEN, 31337)
        assert features.domain.token == OTHER_TOKEN
        assert features.receive_with_authorization


@contextmanager
def without_escrow(chain):
    """A chain on which nobody has deployed it, and nothing is mined unless that is asked for."""
    chain.rpc.call("anvil_setCode", [chain.escrow_contract, "0x"])
    chain.rpc.call("anvil_setNonce", [chain.escrow_contract, "0x0"])
    chain.rpc.call("evm_setAutomine", [False])
    try:
        yield
    finally:
        chain.rpc.call("evm_setAutomine", [True])


def await_pending(chain, count):
    """Wait until so many transactions wait to be mined."""
    deadline = time.monotonic() + 30
    while chain.rpc.call("txpool_status")["pending"] != count and time.monotonic() < deadline:
        time.sleep(0.05)


class TestDeployment:
    @pytest.fixture
    def bare(self, anvil):
        """An Anvil with nothing of ours on it."""
        process = AttachedAnvil.start(anvil, ["--accounts", "1"], port=0)
        try:
            with Rpc([f"http://127.0.0.1:{process.port}"], timeout=10, chain_id=31337) as rpc:
                yield SimpleNamespace(rpc=rpc, url=f"http://127.0.0.1:{process.port}")
        finally:
            process.stop()

    def test_the_command_deploys_it_once(self, bare, make_home):
        """`escrow deploy` puts the code at the known address; again it does nothing."""
        home = make_home("user", MICROWALLET_RPC_URL=bare.url)
        address = home.run("account", "create", "alice", "--json").data["address"]
        bare.rpc.call("anvil_setBalance", [address, hex(10**18)])
        assert home.run("escrow", "show", "--json").data["status"] == "missing"
        refused = home.run("escrow", "deploy", "--json")
        assert (refused.exit_code, refused.error["code"]) == (2, "confirmation-required")
        dry = home.run("escrow", "deploy", "--dry-run", "--json").data
        assert int(dry["maxFee"]) > 0
        done = home.run("escrow", "deploy", "--yes", "--json").data
        assert (done["status"], done["escrowContract"]) == ("deployed", artifact("ChannelEscrow").address)
        assert done["gasUsed"] > 1_000_000
        again = home.run("escrow", "deploy", "--json").data
        assert again["status"] == "deployed"
        assert "transactionHash" not in again
        looked = home.run("escrow", "deploy", "--dry-run", "--json").data
        assert (looked["status"], looked["dryRun"]) == ("deployed", True)

    def test_while_another_deployment_is_on_its_way(self, chain, alice, bob):
        """It is asked for as the chain stands: what waits to be mined may never be."""
        with without_escrow(chain), ThreadPoolExecutor(1) as pool:
            deploying = pool.submit(alice.run, "escrow", "deploy", "--yes", "--json")
            await_pending(chain, "0x1")
            asked = bob.run("escrow", "deploy", "--dry-run", "--json")
            chain.rpc.call("evm_mine")
        assert asked.data["dryRun"] is True
        assert deploying.result().data["status"] == "deployed"

    def test_whoever_is_first_deploys_it_for_all(self, chain, alice, bob):
        """At the same moment, twice from one home and from another: it is there, so all have succeeded."""
        with without_escrow(chain), ThreadPoolExecutor(3) as pool:
            deploying = [
                pool.submit(home.run, "escrow", "deploy", "--yes", "--json") for home in (alice, bob, alice)
            ]
            await_pending(chain, "0x2")
            chain.rpc.call("evm_mine")
        assert [done.result().data["status"] for done in deploying] == ["deployed"] * 3
        count = [chain.rpc.call("eth_getTransactionCount", [home.address, "latest"]) for home in (alice, bob)]
        assert count == ["0x1", "0x1"]

    def test_other_code_at_the_address_is_never_deployed_over(self, escrow):
        """A chain that has something else there is not to be used."""
        contract = artifact("ChannelEscrow")
        assert deployment_of(escrow.reader, contract) is Deployment.DEPLOYED
        assert deploy_call(escrow.reader, contract) is None
        escrow.chain.rpc.call("anvil_setCode", [contract.address, "0x6001"])
        with pytest.raises(NetworkError, match="do not use this chain"):
            deploy_call(escrow.reader, contract)

    def test_a_chain_without_the_factory_is_told(self, escrow):
        """Without it the address cannot be had."""
        contract = artifact("ChannelEscrow")
        for address in (contract.address, contract.create2_factory):
            escrow.chain.rpc.call("anvil_setCode", [address, "0x"])
        with pytest.raises(NetworkError, match="no CREATE2 factory"):
            deploy_call(escrow.reader, contract)


class TestCommands:
    @pytest.fixture
    def user(self, make_home, chain):
        """A home whose account has a coin and tokens."""
        home = make_home("user", chain)
        address = home.run("account", "create", "alice", "--json").data["address"]
        chain.node.add_native(address, 10**18)
        chain.node.mint(chain.token, address, 10 * USDC)
        return SimpleNamespace(run=home.run, address=address, chain=chain)

    def test_what_is_left_of_an_approve_is_shown_and_taken_back(self, user):
        """An allowance after an open that did not happen is a risk until it is revoked."""
        assert user.run("escrow", "allowances", "--json").data == {"allowances": []}
        chain = user.chain
        # As an approve of this account leaves it: the allowance is in the token's storage.
        approve = calls.approve(chain.token, chain.escrow_contract, 7 * USDC)
        done_as(user.address, approve, chain)
        (left,) = user.run("escrow", "allowances", "--json").data["allowances"]
        assert (left["allowance"], left["asset"]) == (str(7 * USDC), "USDC")
        refused = user.run("escrow", "allowances", "--revoke", "--json")
        assert refused.error["code"] == "confirmation-required"
        (gone,) = user.run("escrow", "allowances", "--revoke", "--yes", "--json").data["allowances"]
        assert gone["allowance"] == "0"
        assert gone["transactionHash"].startswith("0x")
        assert user.run("escrow", "allowances", "--json").data == {"allowances": []}

    def test_another_escrow_is_trusted_by_name(self, user):
        """It needs a yes, and stays for this chain."""
        refused = user.run("escrow", "trust", OTHER_TOKEN, "--json")
        assert refused.error["code"] == "confirmation-required"
        trusted = user.run("escrow", "trust", OTHER_TOKEN, "--yes", "--json").data["trusted"]
        assert set(trusted) == {OTHER_TOKEN, user.chain.escrow_contract}
        assert set(user.run("escrow", "show", "--json").data["trusted"]) == set(trusted)
        elsewhere = user.run("escrow", "trust", OTHER_TOKEN, "--network", "sepolia", "--json")
        assert elsewhere.error["code"] == "confirmation-required"
