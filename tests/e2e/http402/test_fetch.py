"""Fetching what has a price: open, pay, and what the books say."""

from __future__ import annotations

from http402.payee_double import PAID_BODY


def fetch(home, payee, *arguments, path="/", **options):
    """`microwallet fetch` of a payee's path, with --json."""
    return home.run("fetch", payee.url + path, *arguments, "--json", **options)


def test_opens_and_pays_then_pays_from_it(alice, payee):
    """The first fetch opens a channel and pays; the next one pays from it; both tell the payment."""
    first = fetch(alice, payee, "--deposit", "1 USDC", "--yes").data
    assert first["status"] == 200
    assert (first["body"], first["bodyEncoding"]) == (PAID_BODY.decode(), None)
    payment = first["payment"]
    assert (payment["amount"], payment["cumulativeAmount"], payment["spent"]) == ("1000", "1000", "1000")
    assert (payment["method"], payment["intent"], payment["payee"]) == ("evm", "session", payee.address)
    assert payment["receipt"]["acceptedCumulative"] == "1000"
    assert payment["receiptProblems"] == []
    second = fetch(alice, payee).data["payment"]
    assert second["channelId"] == payment["channelId"]
    assert (second["amount"], second["cumulativeAmount"], second["spent"]) == ("1000", "2000", "2000")
    assert payee.reader.channel_state(payment["channelId"]).deposit == 1_000_000
