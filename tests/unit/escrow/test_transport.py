"""RPC addresses: what is accepted, and what is shown of them."""

from __future__ import annotations

import threading

import pytest

from microwallet.errors import UsageError
from microwallet.escrow.transport import Deadline, Endpoint, NoRpcAddress, TransportError, redacted

KEY = "Ab3dEf6hIj9kLm2nOp5qRs8tUv1wXy4z"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://127.0.0.1:8545", "http://127.0.0.1:8545"),
        ("https://sepolia.base.org", "https://sepolia.base.org"),
        (f"https://x.example/v2/{KEY}", "https://x.example/v2/…"),
        (f"https://user:{KEY}@x.example:9000/rpc", "https://x.example:9000/rpc"),
        (f"https://x.example/rpc?apikey={KEY}", "https://x.example/rpc?…"),
        (f"https://us@er:{KEY}@x.example/{KEY}/{KEY}?a=b", "https://x.example/…/…?…"),
    ],
)
def test_secrets_of_an_address_are_not_shown(url, shown):
    """User, password, API keys and query never reach a message."""
    assert redacted(url) == shown
    assert Endpoint(url).shown == shown


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:8545",
        "ftp://x.example",
        "http://",
        "http://x.example:port",
        "http://x.example:99999",
        "http://x.example/a b",
        "http://x.example/\r\nHost: evil",
        "http://[::1",
        "http://x.ex\u0430mple",
        "file:///etc/passwd",
    ],
)
def test_what_is_no_address_is_refused(url):
    """Anything but http or https with a host is a usage error, before a connection is opened."""
    with pytest.raises(UsageError, match="no RPC address"):
        Endpoint(url)


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("localhost:18545", "http://localhost:18545"),
        ("ws://127.0.0.1:18545", "http://127.0.0.1:18545"),
        ("wss://x.example/v2/0123456789abcdef", "http://127.0.0.1:8545"),
        ("foo", "http://127.0.0.1:8545"),
    ],
)
def test_a_refused_address_is_completed(url, meant):
    """With the host and the port that were given, but for one that holds a key."""
    with pytest.raises(NoRpcAddress) as caught:
        Endpoint(url)
    assert caught.value.meant == meant
    assert caught.value.hint == f"write it like {meant}"


@pytest.mark.parametrize(
    "url",
    [
        "http://user:secret@x.example/a b",
        "http://user:secret@x.example:99999/",
        "http://user:secret@[::1/",
        "http://user:se/secret@x.example/",
        "http://user:secret/more@x.example:1/",
        "http://user:secret?more@x.example/",
        "http://user:secret#more@x.example/",
        "http:/user:secret@x.example",
        "user:secret@x.example",
    ],
)
def test_a_refused_address_is_shown_without_its_password(url):
    """Even a wrong address does not give its password away, not even where that breaks the address."""
    with pytest.raises(UsageError) as caught:
        Endpoint(url)
    assert "secret" not in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize(
    "proxy",
    [
        "http://u:secret@[::1",
        "http://x.example:99999",
        "x.example:port",
        "socks5://u:secret@x.example:1",
        "://",
    ],
)
def test_a_proxy_that_cannot_be_used_is_refused(proxy, monkeypatch):
    """A proxy variable that is no address or of another kind is named, without its password."""
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(UsageError, match="no proxy") as caught:
        Endpoint("http://x.example")
    assert "secret" not in caught.value.message


def test_a_proxy_that_fails_is_named(monkeypatch):
    """What refused the connection was the proxy; its password is not shown."""
    monkeypatch.setenv("http_proxy", "http://user:secret@127.0.0.1:1")
    with pytest.raises(TransportError, match=r"refused .*\(through the proxy http://127\.0\.0\.1:1\)"):
        Endpoint("http://x.example").post(b"{}", Deadline(5), reuse=False)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8545", "http://localhost:1", "http://[::1]:8545"])
def test_this_machine_is_known(url):
    """Loopback addresses are local: no proxy is asked, and an old newest block is no fault."""
    assert Endpoint(url).is_local
    assert not Endpoint("https://sepolia.base.org").is_local


def test_a_thread_that_cannot_be_had(monkeypatch):
    """Nothing was sent, and nobody was asked."""

    def fail(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(TransportError, match="can't start new thread") as raised:
        Endpoint("http://127.0.0.1:9").post(b"{}", Deadline(5), reuse=False)
    assert raised.value.sent is False
