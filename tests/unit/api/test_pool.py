"""Wallets that are lent to threads, and given back however a thread lets go of them."""

from __future__ import annotations

import json
import os
import threading
from contextlib import ExitStack

import pytest
from local_server import Handler, LocalServer

from microwallet.api.pool import WalletPool, open_adapters
from microwallet.errors import LedgerError, UsageError
from microwallet.ledger.turns import Turns, _File


@pytest.fixture
def pool(tmp_path):
    """The pool of an empty home."""
    with WalletPool(open_adapters(tmp_path)) as opened:
        yield opened


@pytest.mark.parametrize("is_closed", [False, True])
def test_what_is_dropped_waits_for_nothing(pool, is_closed):
    """As a stream is that nobody closes: garbage is collected in the middle of anything, any lock held by the
    same thread."""
    lent = ExitStack()
    wallet = lent.enter_context(pool.lend())
    turns = wallet.ledger.turns
    lent.enter_context(turns.turn("stream", seconds=0))
    file = turns._file
    if is_closed:
        pool.close()
    held = [lent]
    del lent

    def drop() -> None:
        with pool._changing, _File._opening, file._changing:
            held.clear()

    dropping = threading.Thread(target=drop, daemon=True)
    dropping.start()
    dropping.join(timeout=5)
    assert not dropping.is_alive()
    with Turns(turns.path).turn("stream", seconds=0):
        pass
    if is_closed:
        with pytest.raises(UsageError, match="closed"), pool.lend():
            pass
        with pytest.raises(LedgerError, match="closed"):
            wallet.ledger.channels.list(finalized=False)
        wallet.ledger.turns.close()
    else:
        with pool.lend() as again:
            assert again is wallet


def test_what_is_given_back_to_a_closed_pool_is_closed(pool):
    """It was lent before."""
    with pool.lend() as wallet:
        ledger = wallet.ledger
        pool.close()
        assert ledger.purchases.of_key("none") == []
    with pytest.raises(Exception, match="closed"):
        ledger.purchases.of_key("none")


def test_a_child_uses_nothing_that_was_lent_before(pool):
    """The connection of a stream that is dropped in a forked child is its parent's."""
    lent = ExitStack()
    wallet = lent.enter_context(pool.lend())
    child = os.fork()
    if child == 0:
        with pool.lend():
            pass
        lent = None  # dropped
        with pool.lend() as own:
            os._exit(own is wallet)
    assert os.waitpid(child, 0)[1] == 0
    lent.close()


def test_a_closed_wallet_keeps_no_connection_to_a_node(tmp_path):
    """The one that it kept for the next question ends with it."""
    ended = threading.Event()

    class Node(Handler):
        protocol_version = "HTTP/1.1"

        def respond(self):
            asked = json.loads(self.read_body())
            self.answer(200, {}, json.dumps({**asked, "result": "0x7a69"}).encode())

        def finish(self):
            super().finish()
            ended.set()

    with LocalServer(Node) as node, WalletPool(open_adapters(tmp_path, rpc_url=node.url)) as pool:
        with pool.lend() as wallet:
            assert wallet.rpc.call("eth_chainId") == "0x7a69"
            assert not ended.wait(0.1)
        pool.close()
        assert ended.wait(5)
