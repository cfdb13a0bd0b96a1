"""What is no proxy is answered with the one that was meant."""

from __future__ import annotations

import pytest

from microwallet.cli.fetch_proxy import check_proxy
from microwallet.errors import UsageError


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("localhost:3128", "--proxy http://localhost:3128"),
        ("proxy.example", "--proxy http://proxy.example"),
        ("socks.example:3128", "--proxy http://socks.example:3128"),
        ("socks4a://proxy.example:1080", "--proxy socks5://proxy.example:1080"),
        ("socks://localhost:1080", "--proxy socks5://localhost:1080"),
        ("me:secret@10.0.0.1:3128", '--proxy "http://$PROXY_USER@10.0.0.1:3128"'),
        ("http://me:secret@x:port", "--proxy socks5://127.0.0.1:1080"),
        ("nonsense", "--proxy socks5://127.0.0.1:1080"),
    ],
)
def test_a_proxy_is_completed(url, hint):
    """With its host and port, and without its password; an example where nothing can be guessed."""
    with pytest.raises(UsageError, match="is no proxy: http://") as caught:
        check_proxy(url)
    assert caught.value.hint == hint
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("url", ["http://x", "https://x:1", "socks5://me:secret@127.0.0.1:1", "socks5h://x"])
def test_a_whole_url_is_a_proxy(url):
    """Of every scheme that is spoken."""
    check_proxy(url)
