"""`serve` over TLS, of its own or of a proxy in front."""

from __future__ import annotations

import socket
import ssl
import time
from datetime import timedelta

import httpx
import pytest
from certificates import Authority
from http402.running import PRICE, fails

from microwallet.http402.wire.challenge import offered_challenges


def test_tls(serve, tmp_path):
    """Https with a certificate of one's own, and TLS 1.3; the clear is not spoken on the same port."""
    authority = Authority(tmp_path)
    certificate, key = authority.issue()
    gateway = serve("--tls-cert", certificate, "--tls-key", key)
    assert gateway.url.startswith("https://")
    context = ssl.create_default_context(cafile=authority.certificate)
    assert httpx.get(gateway.url, verify=context).status_code == 402
    port = int(gateway.url.rpartition(":")[2])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        assert secured.version() == "TLSv1.3"
    with pytest.raises(httpx.HTTPError):
        httpx.get(gateway.url.replace("https", "http"))
    assert gateway.end() == 0


def test_a_certificate_that_is_renewed(serve, tmp_path):
    """New connections get it from every worker, without a start anew; until there is a pair the old one
    stays in use."""
    authority = Authority(tmp_path)
    certificate, key = authority.issue()
    gateway = serve("--tls-cert", certificate, "--tls-key", key, "--workers", "2")
    port = int(gateway.url.rpartition(":")[2])

    def served():
        return {ssl.get_server_certificate(("127.0.0.1", port), timeout=5) for _ in range(8)}

    usual = key.read_bytes()
    assert served() == {certificate.read_text()}
    old = served()
    authority.issue()
    renewed_key = key.read_bytes()
    key.write_bytes(usual)
    assert "no certificate and its key" in gateway.events.next("warning")["message"]
    assert served() == old
    key.write_bytes(renewed_key)
    assert gateway.events.next("certificate-renewed")["message"] == str(certificate)
    deadline = time.monotonic() + 15  # for the other worker
    while served() != {certificate.read_text()}:
        assert time.monotonic() < deadline
    assert gateway.end() == 0


def test_a_certificate_that_is_none(bob, tmp_path):
    """Exit 2 before anything listens, in a dry run too; an encrypted key asks nobody at the terminal."""
    folders = [tmp_path / name for name in ("usual", "encrypted", "other")]
    for folder in folders:
        folder.mkdir()
    usual, locked, another = (Authority(folder) for folder in folders)
    certificate, key = usual.issue()
    encrypted, other = locked.issue(password="secret")[1], another.issue()[1]
    sells = ("--upstream", "http://127.0.0.1:9000", *PRICE, "--port", "0")
    for pair, said, hint in (
        ((key, certificate), "they are swapped", f"--tls-cert {certificate} --tls-key {key}"),
        ((key, key), "no certificate in PEM", f"head -n 1 {key}"),
        ((certificate, certificate), "no private key in PEM", f"head -n 1 {certificate}"),
        ((certificate, encrypted), "is encrypted", f"openssl pkey -in {encrypted} "),
        ((certificate, other), "KEY_VALUES_MISMATCH", "openssl x509 -noout -pubkey "),
        ((certificate, tmp_path / "missing"), "missing cannot be read", f"ls -l {tmp_path}"),
        ((tmp_path, key), "Is a directory", f"ls -l {tmp_path}"),
    ):
        files = ("--tls-cert", pair[0], "--tls-key", pair[1])
        dry = bob.run("serve", *sells, *files, "--dry-run", "--json").error
        for error in (fails(bob, *sells, *files), dry):
            assert (error["exitCode"], said in error["message"]) == (2, True)
            assert error["hint"].startswith(hint)


@pytest.mark.parametrize(
    ("days", "said"), [((-2, -1), "expired at "), ((1, 2), "is not valid before ")], ids=["old", "early"]
)
def test_a_certificate_out_of_its_time(serve, bob, tmp_path, days, said):
    """It serves, as its clock may be wrong; and says, in a dry run too, that clients will refuse it."""
    certificate, key = Authority(tmp_path).issue(valid=(timedelta(days[0]), timedelta(days[1])))
    files = ("--tls-cert", certificate, "--tls-key", key)
    gateway = serve(*files)
    (warning,) = [line for line in gateway.events.seen if line["event"] == "warning"]
    assert f"the certificate in {certificate} {said}" in warning["message"]
    assert gateway.end() == 0
    sells = ("--upstream", "http://127.0.0.1:9000", *PRICE, "--dry-run")
    assert (
        f"warning: the certificate in {certificate} {said}"
        in bob.run("serve", *sells, *files).succeeded().stderr
    )


def test_behind_a_proxy_that_does_tls(serve, upstream):
    """The proxy's word counts: who came over https is told the price, who did not is sent away."""
    gateway = serve("--behind-tls-proxy", "127.0.0.1", "--realm", "api.example.org", "--free", "/free")
    secure = {"x-forwarded-proto": "https", "x-forwarded-for": "203.0.113.7"}
    answer = httpx.get(gateway.url, headers=secure)
    (challenge,) = offered_challenges(answer.headers.get_list("www-authenticate")).challenges
    assert (answer.status_code, challenge.realm) == (402, "api.example.org")
    refused = httpx.get(gateway.url, headers={"x-forwarded-proto": "http"})
    assert (refused.status_code, "www-authenticate" in refused.headers) == (403, False)
    httpx.get(gateway.url + "/free", headers={**secure, "x_forwarded_for": "forged"})
    fields = upstream.asked[-1][1]
    assert "x_forwarded_for" not in fields
    assert (fields["x-forwarded-proto"], fields["x-forwarded-for"]) == ("https", "203.0.113.7")
