"""Which hosts are this very machine."""

import pytest

from microwallet.http402.loopback import is_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost", "::ffff:127.0.0.1"])
def test_this_machine(host):
    """Addresses that only this machine reaches, IPv4 in IPv6 included."""
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "10.0.0.1", "::ffff:10.0.0.1", "example.org", "127.0.0.1.example.org", "127.1", ""],
)
def test_other_hosts(host):
    """Addresses of all, of others, and names, whatever they look like."""
    assert not is_loopback(host)
