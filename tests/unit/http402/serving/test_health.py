"""`/healthz`: what is told, how often it is found out, and what it keeps from nobody else."""

from __future__ import annotations

import asyncio
import json

import pytest

from microwallet.errors import LedgerBusy, NetworkError
from microwallet.http402.serving import health
from microwallet.http402.serving.health import Health


class Checked:
    """A check that can be made to fail, and counts."""

    def __init__(self):
        self.count = 0
        self.error = None

    async def __call__(self):
        self.count += 1
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error


async def behind(_scope, _receive, send):
    await send({"type": "http.response.start", "status": 299, "headers": []})


async def ask(front, path="/healthz", method="GET"):
    sent = []

    async def send(message):
        sent.append(message)

    await front({"type": "http", "method": method, "raw_path": path.encode()}, None, send)
    return sent[0]["status"], sent[1]["body"] if len(sent) > 1 else None


@pytest.fixture
def checks():
    return {"ledger": Checked(), "chain": Checked()}


def test_all_is_well(checks):
    """200, and each part by its name; a HEAD has no body."""
    front = Health(behind, checks)
    status, body = asyncio.run(ask(front))
    assert (status, json.loads(body)) == (200, {"status": "ok", "ledger": "ok", "chain": "ok"})
    assert asyncio.run(ask(Health(behind, checks), method="HEAD")) == (200, b"")


def test_what_is_wrong_is_named_by_its_code(checks):
    """503 and no message: those have paths and addresses in them."""
    checks["chain"].error = NetworkError("http://user:secret@chain does not answer")
    checks["ledger"].error = LedgerBusy("/home/bob/ledger is busy")
    status, body = asyncio.run(ask(Health(behind, checks)))
    assert status == 503
    assert json.loads(body) == {"status": "failing", "ledger": "ledger-busy", "chain": "network"}


def test_a_check_that_hangs_is_silent(checks, monkeypatch):
    """The answer does not wait for the chain for ever."""
    monkeypatch.setattr(health, "PATIENCE_SECONDS", 0.01)

    async def hang():
        await asyncio.sleep(10)

    status, body = asyncio.run(ask(Health(behind, {**checks, "chain": hang})))
    assert (status, json.loads(body)["chain"]) == (503, "silent")


def test_asking_often_costs_nothing(checks):
    """A hundred askers at once, and again, are told what was found once."""

    async def crowd():
        front = Health(behind, checks)
        first = await asyncio.gather(*(ask(front) for _ in range(100)))
        return {*first, await ask(front)}

    assert len(asyncio.run(crowd())) == 1
    assert (checks["ledger"].count, checks["chain"].count) == (1, 1)


@pytest.mark.parametrize("path", ["/", "/healthz/", "/Healthz", "/healthz/x", "/%68ealthz", "//healthz"])
def test_every_other_path_goes_on(checks, path):
    """Only the very path is the gateway's own."""
    assert asyncio.run(ask(Health(behind, checks), path)) == (299, None)
