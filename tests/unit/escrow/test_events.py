"""Logs of a server that is wrong or lies."""

from __future__ import annotations

import pytest

from microwallet.domain.channel import ChannelDescriptor
from microwallet.domain.identifiers import hexed, word
from microwallet.errors import NetworkError
from microwallet.escrow.events import TOPICS, ChannelOpened, EscrowEvents, Settled
from microwallet.escrow.reader import EscrowReader
from microwallet.escrow.rpc import Rpc

ESCROW = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
DESCRIPTOR = ChannelDescriptor(
    payer="0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A",
    payee="0x4444444444444444444444444444444444444444",
    token="0x5555555555555555555555555555555555555555",
    salt="0x" + "33" * 32,
    authorized_signer="0x223D1b4aE7E38B265FD324fcfD10dbf8504a5E4e",
    escrow_contract=ESCROW,
    chain_id=31337,
)


@pytest.fixture
def events():
    """A decoder; no server is asked."""
    return EscrowEvents(EscrowReader(Rpc(["http://127.0.0.1:1"], timeout=1), ESCROW), 31337)


def log(name="ChannelOpened", data=None, **changes):
    """A log as a node gives it."""
    opened = [
        word(DESCRIPTOR.token),
        word(DESCRIPTOR.salt),
        word(DESCRIPTOR.authorized_signer),
        word(7),
    ]
    return {
        "address": ESCROW.lower(),
        "topics": [
            TOPICS[name],
            DESCRIPTOR.channel_id(),
            hexed(word(DESCRIPTOR.payer)),
            hexed(word(DESCRIPTOR.payee)),
        ],
        "data": hexed(b"".join(opened) if data is None else data),
        "blockNumber": "0x5",
        "transactionHash": "0x" + "CD" * 32,
    } | changes


def test_a_descriptor_is_rebuilt_from_the_event_alone(events):
    """All that identifies a channel is in ChannelOpened, in canonical forms."""
    event = events.decode(log())
    assert isinstance(event, ChannelOpened)
    assert (event.descriptor, event.deposit) == (DESCRIPTOR, 7)
    assert event.transaction_hash == "0x" + "cd" * 32


def test_an_id_that_does_not_fit_its_descriptor_is_a_lie(events):
    """The id is recomputed: a server cannot invent a channel with another one's id."""
    lying = log()
    lying["topics"][1] = "0x" + "22" * 32
    with pytest.raises(NetworkError, match="does not fit"):
        events.decode(lying)


def test_logs_of_others_are_left_out(events):
    """Another contract's log, another event, and an anonymous one."""
    assert events.decode(log(address=DESCRIPTOR.token)) is None
    assert events.decode(log(topics=["0x" + "00" * 32])) is None
    assert events.decode(log(topics=[])) is None


def test_amounts_are_read_in_full(events):
    """A number of 256 bits stays exact."""
    event = events.decode(log("Settled", data=word(2**96 - 1) + word(2**255)))
    assert isinstance(event, Settled)
    assert (event.captured, event.settled) == (2**96 - 1, 2**255)


@pytest.mark.parametrize(
    "broken",
    [
        {"data": b"\0" * 31},
        {"data": b"\0" * 160},
        {"data": b""},
        {"blockNumber": None},
        {"blockNumber": 5},
        {"address": 17},
        {"address": "0x12zz"},
        {"topics": None},
        {"topics": [TOPICS["ChannelOpened"]]},
        {"topics": [TOPICS["ChannelOpened"], "0x1", "0x2", "0xzz"]},
    ],
)
def test_a_malformed_log_is_a_network_error(events, broken):
    """It is never taken for "nothing happened"."""
    with pytest.raises(NetworkError):
        events.decode(log(**broken))


@pytest.mark.parametrize("thing", [None, 5, "log", [], {}])
def test_what_is_no_log_is_a_network_error(events, thing):
    """Any JSON value may come."""
    with pytest.raises(NetworkError):
        events.decode(thing)
