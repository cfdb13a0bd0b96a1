"""A certificate that is renewed: what connections get whose process was forked before."""

from __future__ import annotations

import asyncio
import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from certificates import Authority

from microwallet.http402.serving import renewal
from microwallet.http402.serving.renewal import Certificate
from microwallet.http402.serving.settings import Settings


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Those of a certificate that is there; it is looked at often."""
    monkeypatch.setattr(renewal, "RENEWAL_SECONDS", 0.02)
    settings = Settings(tls_cert=str(tmp_path / "cert.pem"), tls_key=str(tmp_path / "key.pem"))
    write(settings, issue(settings))
    return settings


def test_what_was_renewed_before_it_is_kept(settings):
    """As for a worker that takes the place of another one: its parent has loaded the files long ago."""
    certificate = Certificate.load(settings)
    renewed = issue(settings)
    write(settings, renewed)
    assert served(certificate) == (renewed[0], ["certificate-renewed"])


def test_one_that_is_out_of_its_time(settings):
    """It is served as it is what there is, and told: no client will take it."""
    certificate = Certificate.load(settings)
    renewed = issue(settings, valid=(timedelta(days=-2), timedelta(days=-1)))
    write(settings, renewed)
    assert served(certificate) == (renewed[0], ["certificate-renewed", "warning"])


def test_links_that_lead_elsewhere(settings, tmp_path):
    """A directory of links, as certbot has one: each is replaced by itself."""
    names = (settings.tls_cert, settings.tls_key)
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        for name, content in zip(names, issue(settings), strict=True):
            (tmp_path / version / Path(name).name).write_bytes(content)
    for name in names:
        link(Path(name), "1")
    certificate = Certificate.load(settings)
    link(Path(names[0]), "2")
    first = tmp_path / "1" / "cert.pem"
    assert served(certificate) == (first.read_bytes(), ["warning"])  # once, however long it stays so
    link(Path(names[1]), "2")
    assert served(certificate) == ((tmp_path / "2" / "cert.pem").read_bytes(), ["certificate-renewed"])


def test_what_stays_as_it_is(settings):
    """It is not loaded again, and nothing is told."""
    certificate = Certificate.load(settings)
    assert served(certificate) == (Path(settings.tls_cert).read_bytes(), [])


def test_no_tls():
    """There is nothing to keep."""
    assert Certificate.load(Settings()) is None


def served(certificate):
    """The certificate that a new connection gets after some looks, in PEM, and the events told meanwhile."""
    told = []

    async def run():
        keeping = asyncio.create_task(certificate.keep_renewed(lambda event, _details: told.append(event)))
        context = certificate.context
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
        async with server:
            await asyncio.sleep(0.2)
            address = server.sockets[0].getsockname()
            found = await asyncio.to_thread(ssl.get_server_certificate, address, timeout=5)
        keeping.cancel()
        return found.encode()

    return asyncio.run(run()), told


def link(path, version):
    """Let a name lead to a version of its file, in one step."""
    made = path.with_suffix(".link")
    made.symlink_to(Path(version) / path.name)
    made.replace(path)


def write(settings, contents):
    """Put a certificate and its key in place."""
    for name, content in zip((settings.tls_cert, settings.tls_key), contents, strict=True):
        Path(name).write_bytes(content)


def issue(settings, **options):
    """A certificate of its own, and its key, in PEM."""
    return [path.read_bytes() for path in Authority(Path(settings.tls_cert).parent).issue(**options)]
