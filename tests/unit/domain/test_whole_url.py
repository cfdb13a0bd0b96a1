"""What was meant by a part of a URL."""

from __future__ import annotations

import pytest

from microwallet.domain.whole_url import whole_url

EXAMPLE = "http://127.0.0.1:9000"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("127.0.0.1:19000", "http://127.0.0.1:19000"),
        ("localhost", "http://localhost"),
        ("[::1]:80", "http://[::1]:80"),
        ("ws://127.0.0.1:8545", "http://127.0.0.1:8545"),
        ("wss://rpc.example/path", "https://rpc.example/path"),
        ("ws://rpc.example", "http://rpc.example"),
        ("wss://localhost:1", "http://localhost:1"),
        ("rpc.example", "https://rpc.example"),
        ("rpc.example:443/a", "https://rpc.example:443/a"),
        ("app:8000", "http://app:8000"),
        ("ftp://files.example", "https://files.example"),
    ],
)
def test_a_url_is_completed(typed, meant):
    """A host keeps its port and its path; a scheme of sockets has its counterpart."""
    assert whole_url(typed, otherwise=EXAMPLE) == meant


def test_a_proxy_is_spoken_to_in_the_clear():
    """Unless it says otherwise, wherever it is."""
    assert whole_url("proxy.example", otherwise=EXAMPLE, is_clear=True) == "http://proxy.example"


@pytest.mark.parametrize(
    "typed", ["", "foo", "http://", "http://x:port", "a b", "me:secret@x:1", "file:///a"]
)
def test_what_is_no_part_of_a_url_is_not_guessed(typed):
    """A word could be anything, and a user has a password."""
    assert whole_url(typed, otherwise=EXAMPLE) == EXAMPLE
