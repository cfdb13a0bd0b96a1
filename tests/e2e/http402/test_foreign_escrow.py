"""An escrow with the draft's own calls gets no deposit, whoever trusts it."""

from __future__ import annotations

from microwallet.domain.identifiers import checksum_address, hexed
from microwallet.escrow.reader import selector

ESCROW = checksum_address(b"\xe5" * 20)
CALLS = (
    "settle(bytes32,uint128,bytes)",
    "close(bytes32,uint128,bytes)",
    "topUp(bytes32,uint128)",
    "requestClose(bytes32)",
    "withdraw(bytes32)",
)


def test_a_trusted_escrow_of_the_drafts_form(alice, payee, fetch, chain, books):
    """It is recognised by its code, trusted or not: nothing is signed or sent."""
    chain.rpc.call("anvil_setCode", [ESCROW, hexed(b"".join(b"\x63" + selector(one) for one in CALLS))])
    payee.twist_request = lambda request: {
        **request,
        "methodDetails": {**request["methodDetails"], "escrowContract": ESCROW},
    }
    untrusted = fetch()
    assert untrusted.error["code"] == "no-payable-challenge"
    assert "draft's own form" in untrusted.error["message"]
    alice.run("escrow", "trust", ESCROW, "--yes").succeeded()
    refused = fetch()
    assert (refused.exit_code, refused.error["code"]) == (2, "not-trusted")
    assert "draft's own form" in refused.error["message"]
    assert books() == ([], [])
    assert payee.vouchers == []
