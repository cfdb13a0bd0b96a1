"""The reverse proxy: whether its upstream is the gateway itself."""

from __future__ import annotations

import pytest

from microwallet.http402.serving.proxy import ReverseProxy


@pytest.mark.parametrize(
    ("upstream", "host", "port"),
    [
        ("http://127.0.0.1:8402", "127.0.0.1", 8402),
        ("http://[0:0:0:0:0:0:0:1]:8402", "::1", 8402),
        ("http://localhost:8402", "127.0.0.1", 8402),
        ("http://127.0.0.1:8402", "localhost", 8402),
        ("http://127.0.0.2:8402", "0.0.0.0", 8402),
        ("http://10.0.0.1:8402", "10.0.0.1", 8402),
        ("http://shop.example:8402", "shop.example", 8402),
        ("http://localhost", "localhost", 80),
        ("https://localhost", "localhost", 443),
    ],
)
def test_an_upstream_that_is_the_gateway(upstream, host, port):
    """By an address, by a name, or by one of all that it listens on."""
    assert ReverseProxy(upstream).leads_to(host, port)


@pytest.mark.parametrize(
    ("upstream", "host", "port"),
    [
        ("http://127.0.0.1:9000", "127.0.0.1", 8402),
        ("http://127.0.0.2:8402", "127.0.0.1", 8402),
        ("http://10.0.0.1:8402", "10.0.0.2", 8402),
        ("http://10.0.0.1:8402", "0.0.0.0", 8402),
        ("http://10.0.0.1:8402", "localhost", 8402),
        ("http://shop.example:8402", "127.0.0.1", 8402),
        ("http://shop.example:8402", "api.example", 8402),
        ("https://localhost", "localhost", 80),
        ("http://localhost", "localhost", 443),
    ],
)
def test_an_upstream_that_may_be_another(upstream, host, port):
    """Another port or address; of names that are not the same it cannot be told."""
    assert not ReverseProxy(upstream).leads_to(host, port)
