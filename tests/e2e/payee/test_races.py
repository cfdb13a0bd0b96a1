"""A payee's commands at the same time: no voucher buys twice, none that was accepted is given away."""

from __future__ import annotations

import json
import subprocess

from microwallet.payee.exclusive import claims_lock, exclusive


def test_a_close_takes_what_was_accepted_while_it_waited(payee, payers, chain):
    """A better voucher comes between plan and transaction: the close takes all of it."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(1_000))
    with exclusive(claims_lock(payee.home.path, chain.chain_id), wait=True):
        closing = payee.home.start(
            "payee", "close", "--all", "--yes", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert b"waiting for another process" in closing.stderr.readline()
        payee.accept(opened.voucher(5_000))
    (closed,) = json.loads(closing.communicate(timeout=60)[0])["data"]["channels"]
    assert closed["captured"] == "5000"
    assert payee.holds() == 5_000


def test_a_voucher_buys_once_whichever_process_gets_it(payee, payers):
    """A stream that is open while another process accepts the same voucher calls it a duplicate."""
    opened = payers.open(payee.address)
    stream = payee.home.start("payee", "accept", "-", "--json", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    stream.stdin.write(opened.voucher(10).encode())
    stream.stdin.flush()
    while not payee.run("list").data["channels"]:
        pass
    assert payee.accept(opened.voucher(20))["accepted"] == 1
    told = json.loads(stream.communicate(opened.voucher(20).encode(), timeout=60)[0])["data"]
    assert (told["accepted"], told["duplicates"]) == (1, 1)
