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
