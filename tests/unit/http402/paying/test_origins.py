"""Whom a credential may be sent to."""

from __future__ import annotations

import pytest

from microwallet.errors import UsageError
from microwallet.http402.paying.origins import Origin


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://Example.com/a?b#c", "https://example.com"),
        ("https://example.com:443", "https://example.com"),
        ("https://example.com.:8443/", "https://example.com:8443"),
        ("http://127.0.0.1:8402/", "http://127.0.0.1:8402"),
        ("HTTP://[::1]:80/x", "http://[::1]"),
        ("http://example.com:443", "http://example.com:443"),
        ("http://example.com:0", "http://example.com:0"),
    ],
)
def test_an_origin_is_scheme_host_and_port(url, origin):
    """Whatever the spelling."""
    assert str(Origin.of(url)) == origin
    assert Origin.of(str(Origin.of(url))) == Origin.of(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "/path",
        "ftp://example.com",
        "https://",
        "https:///path",
        "https://example.com:port",
        "https://example.com:70000",
        "http://[::1",
        "https://user@example.com",
        "https://user:secret@example.com",
        "https://127.0.0.1@evil.example",
        "ftp://user:secret@example.com",
        "https://user:secret@[::1",
        "https://user:secret@example.com:port",
        "https://@example.com",
    ],
)
def test_what_is_no_origin(url):
    """No scheme, no host, no such port, or a name that hides another; no secret is repeated."""
    with pytest.raises(UsageError) as raised:
        Origin.of(url)
    assert "secret" not in raised.value.message


@pytest.mark.parametrize(
    ("url", "private"),
    [
        ("https://example.com", True),
        ("http://example.com", False),
        ("http://127.0.0.1:8402", True),
        ("http://127.8.9.1", True),
        ("http://[::1]:8402", True),
        ("http://localhost:9000", True),
        ("http://localhost.example.com", False),
        ("http://127.0.0.1.example.com", False),
        ("http://192.168.1.1", False),
        ("http://0.0.0.0", False),
        ("http://2130706433", False),
    ],
)
def test_only_tls_and_this_machine_are_private(url, private):
    """A plain connection elsewhere can be listened to; of names only localhost is believed to be here."""
    assert Origin.of(url).is_private is private


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("example.com/a", "https://example.com/a"),
        ("127.0.0.1:8402/a", "http://127.0.0.1:8402/a"),
        ("localhost:8402", "http://localhost:8402"),
        ("ftp://example.com", "https://example.com/path"),
        ("", "https://example.com/path"),
    ],
)
def test_a_scheme_that_was_left_out(typed, hint):
    """The hint has it."""
    with pytest.raises(UsageError) as raised:
        Origin.of(typed)
    assert raised.value.hint == f"write it whole: {hint}"
