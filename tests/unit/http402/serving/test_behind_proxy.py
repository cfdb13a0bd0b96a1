"""What is believed of a proxy in front, and what is refused."""

from __future__ import annotations

import asyncio

import pytest

from microwallet.errors import UsageError
from microwallet.http402.serving.behind_proxy import BehindProxy

PROXY = "10.0.0.5"


def ask(peer, *headers, addresses=(PROXY, "10.1.0.0/16", "fd00::/8")):
    """The scope that the application behind sees, or the status that it is refused with."""
    seen = []
    sent = []

    async def app(scope, _receive, _send):
        seen.append(scope)

    async def send(message):
        sent.append(message)

    came_from = None if peer is None else (peer, 1234)
    scope = {"type": "http", "scheme": "http", "client": came_from, "headers": list(headers)}
    asyncio.run(BehindProxy(app, addresses)(scope, None, send))
    return seen[0] if seen else sent[0]["status"]


def proto(value):
    return (b"x-forwarded-proto", value)


def client(value):
    return (b"x-forwarded-for", value)


@pytest.mark.parametrize("peer", [PROXY, "10.1.2.3", "::ffff:10.0.0.5", "fd12::1"])
def test_a_proxy_is_believed(peer):
    """The client came over https, from where the proxy says."""
    scope = ask(peer, proto(b"https"), client(b"203.0.113.7"))
    assert (scope["scheme"], scope["client"][0]) == ("https", "203.0.113.7")


def test_a_client_cannot_speak_for_the_proxy():
    """What it sent itself comes before what the proxy added: the last word counts."""
    scope = ask(PROXY, proto(b"https"), client(b"127.0.0.1, 198.51.100.1, 10.1.0.1"))
    assert scope["client"][0] == "198.51.100.1"
    assert ask(PROXY, proto(b"http, https"))["scheme"] == "https"
    assert ask(PROXY, proto(b"https, http")) == 403
    assert ask(PROXY, proto(b"https"), proto(b"http")) == 403


@pytest.mark.parametrize("word", [b"http", b"", b"HTTPS", b"wss", b"https "])
def test_what_is_not_https_is_refused(word):
    """Nothing of payments goes in the clear, whatever else the word is; blanks around it are none."""
    expected = "https" if word.strip() == b"https" else 403
    found = ask(PROXY, proto(word))
    assert (found if isinstance(found, int) else found["scheme"]) == expected


def test_a_proxy_that_says_nothing_is_refused():
    """It may be listening on port 80 too; so may one on this machine."""
    assert ask(PROXY) == 403
    assert ask("127.0.0.1", addresses=["127.0.0.1"]) == 403


@pytest.mark.parametrize("peer", ["10.0.0.6", "203.0.113.7", "unknown", "", None])
def test_others_are_refused_whatever_they_say(peer):
    """A client that goes around the proxy."""
    assert ask(peer, proto(b"https"), client(b"127.0.0.1")) == 403


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_this_machine_may_come_in_the_clear(peer):
    """It is not believed either, unless it is the proxy."""
    scope = ask(peer, proto(b"https"), client(b"203.0.113.7"))
    assert (scope["scheme"], scope["client"][0]) == ("http", peer)
    scope = ask("127.0.0.1", proto(b"https"), client(b"203.0.113.7"), addresses=["127.0.0.1"])
    assert (scope["scheme"], scope["client"][0]) == ("https", "203.0.113.7")
    assert ask("127.0.0.1", proto(b"http"), addresses=["127.0.0.1"]) == 403


def test_what_the_application_notes_is_seen_in_front():
    """The log of requests stands there, and reads in the scope who paid how much."""

    async def app(scope, _receive, _send):
        scope["noted"] = True

    scope = {"type": "http", "scheme": "http", "client": (PROXY, 1234), "headers": [proto(b"https")]}
    asyncio.run(BehindProxy(app, [PROXY])(scope, None, None))
    assert scope["noted"]


@pytest.mark.parametrize("forwarded", [b"", b"unknown", b"203.0.113.7, _hidden", b"10.0.0.5"])
def test_a_client_that_is_not_told_is_the_proxy(forwarded):
    """What is no address stands for none."""
    assert ask(PROXY, proto(b"https"), client(forwarded))["client"][0] == PROXY


@pytest.mark.parametrize("address", ["proxy", "10.0.0.1/8", "10.0.0.0/33", ""])
def test_what_is_no_address_is_refused(address):
    """UsageError when the gateway starts."""
    with pytest.raises(UsageError):
        BehindProxy(lambda *_: None, [address])
