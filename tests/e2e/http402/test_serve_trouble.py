"""`serve` in trouble: chain or disk away, a ledger that was migrated or moved; what it says of its health."""

from __future__ import annotations

import asyncio
import errno
import resource
import subprocess
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from gate import Gate
from http402.running import PRICE, channels
from http402.signing_payer import PayingShop
from migrated import migrate

from microwallet.errors import LedgerReplaced, LedgerUnwritable
from microwallet.escrow import reader
from microwallet.ledger import database


class TestHealth:
    def test_it_says_what_is_wrong(self, serve):
        """While the chain does not answer: 503, by name, and nothing of where it is."""
        gateway = serve()
        assert httpx.get(gateway.url + "/healthz").json() == {"status": "ok", "ledger": "ok", "chain": "ok"}
        gateway.end()
        gateway = serve(env={"MICROWALLET_RPC_URL": "http://127.0.0.1:9", "MICROWALLET_RPC_TIMEOUT": "1"})
        sick = httpx.get(gateway.url + "/healthz")
        assert sick.status_code == 503
        assert sick.json() == {"status": "failing", "ledger": "ok", "chain": "network"}
        assert httpx.get(gateway.url).status_code == 402
        assert gateway.end() == 0

    @pytest.mark.parametrize(("workers", "is_alone"), [(1, False), (2, True)])
    def test_a_chain_that_is_away_is_told_once(self, serve, pay, chain, workers, is_alone):
        """At the start, where another gateway looks after settling too: what works, and that it is back."""
        if not is_alone:
            pay(serve().url).data  # noqa: B018
        with closing(Gate(chain.rpc_url)) as gate:
            gate.shut()
            env = {"MICROWALLET_RPC_URL": gate.url, "MICROWALLET_RPC_TIMEOUT": "1"}
            gateway = serve("--workers", workers, env=env)
            told = gateway.events.next("interrupted")
            assert told["code"] == "network"
            assert "asked about in the last 5 minutes pay on" in told["message"]
            assert is_alone or pay(gateway.url).data["status"] == 503
            time.sleep(1)
            gate.open()
            gateway.events.next("resumed")
            assert is_alone or pay(gateway.url).data["status"] == 200
            assert gateway.end() == 0
        said = [event["event"] for event in gateway.events.end() if event["event"] != "warning"]
        assert said == ["listening", "interrupted", "resumed", "stopped"]

    def test_it_says_that_the_chain_stands_still(self, bob, chain, monkeypatch):
        """A node answers, and its newest block is old: what payers do on the chain since is not seen."""
        monkeypatch.setattr("microwallet.selling.AWAY_SECONDS", 0.05)
        monkeypatch.setenv("NO_PROXY", "*")
        url = chain.rpc_url.replace("127.0.0.1", "127.1")  # not taken for a chain of this machine's own
        there = replace(bob, settings={**bob.settings, "MICROWALLET_RPC_URL": url})

        async def ask():
            transport = httpx.ASGITransport(app=shop.shop.front(shop.app))
            async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
                return (await client.get("/healthz")).json()

        async def run():
            assert (await ask())["chain"] == "ok"
            with monkeypatch.context() as patched:
                patched.setattr(reader, "OLDEST_HEAD", -(10**9))
                assert (await ask())["chain"] == "ok"  # by its id it is one for tests, which sleeps
                patched.setattr(reader, "LOCAL_CHAIN_ID", 0)
                watching = asyncio.create_task(shop.shop.watch_chain())
                assert await ask() == {"status": "failing", "ledger": "ok", "chain": "chain-stands-still"}
                await asyncio.sleep(0.2)
            await asyncio.sleep(0.2)
            watching.cancel()

        with closing(PayingShop(there, chain)) as shop:
            asyncio.run(run())
        (interrupted, about), resumed = shop.events
        assert (interrupted, about["code"], resumed) == ("interrupted", "chain-stands-still", ("resumed", {}))
        assert about["message"].endswith("no payer's request to close is seen")

    def test_it_says_that_the_disk_has_failed(self, bob, chain, monkeypatch):
        """Until the program is started again it sells nothing: a disk that answers again does not help."""

        def fail(_):
            raise OSError(errno.EIO, "Input/output error")

        async def ask():
            transport = httpx.ASGITransport(app=selling.shop.front(selling.app))
            async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
                return (await client.get("/healthz")).json()

        with closing(PayingShop(bob, chain)) as selling:
            assert asyncio.run(ask())["ledger"] == "ok"
            with monkeypatch.context() as patched, pytest.raises(LedgerUnwritable):
                patched.setattr(database, "_sync", fail)
                selling.wallet.ledger.sessions.sync()
            assert asyncio.run(ask()) == {"status": "failing", "ledger": "ledger-unwritable", "chain": "ok"}

    def test_it_says_that_nothing_can_be_recorded(self, serve, pay, bob):
        """A file that cannot grow, as on a full disk: told of health and of each request; nobody pays."""
        gateway = serve()
        pay(gateway.url).data  # noqa: B018
        ledger = bob.path / "ledger.sqlite3"
        log = ledger.with_name(ledger.name + "-wal")
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (log.stat().st_size, hard))
        assert pay(gateway.url).data["status"] == 503
        while (told := gateway.requests.next("request"))["status"] != 503:
            continue
        assert f"the ledger {ledger} cannot be written" in told["warning"]
        sick = httpx.get(gateway.url + "/healthz")
        assert sick.status_code == 503
        assert sick.json() == {"status": "failing", "ledger": "ledger-unwritable", "chain": "ok"}
        resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        assert pay(gateway.url).data["status"] == 200
        assert channels(bob)[0].spent == 2000

    def test_a_route_by_that_name_takes_its_place(self, serve):
        """Whoever sells /healthz, or gives it away, has it."""
        gateway = serve("--free", "/healthz")
        assert httpx.get(gateway.url + "/healthz").text == "you asked for /healthz"


class TestMigratedMeanwhile:
    """A newer microwallet has migrated the ledger of a gateway that runs."""

    @pytest.mark.parametrize("workers", [1, 2])
    def test_it_charges_nobody_and_ends(self, serve, pay, bob, workers):
        """Whoever pays gets 503, or nobody to talk to; it says why, once, and ends with 7."""
        gateway = serve("--workers", workers)
        pay(gateway.url).data  # noqa: B018
        charged = channels(bob)
        migrate(bob.path / "ledger.sqlite3")
        done = pay(gateway.url)
        assert done.exit_code in (0, 3, 5), done
        if done.exit_code == 0:
            assert (done.data["status"], done.data["payment"]) == (503, None)
        assert gateway.process.wait(timeout=20) == 7
        last = gateway.requests.end()[-1]["error"]
        assert (last["code"], last["exitCode"]) == ("ledger-too-new", 7)
        assert str(bob.path / "ledger.sqlite3") in last["message"]
        assert "start this again" in last["hint"]
        assert [line for line in gateway.requests.seen if line.get("event") != "request"] == [
            {"schema": 1, "ok": False, "error": last}
        ]
        listening, ended = gateway.events.end()
        assert (listening["event"], ended["event"]) == ("listening", "interrupted")
        assert (ended["code"], ended["message"]) == (last["code"], last["message"])
        migrate(bob.path / "ledger.sqlite3", by=0)
        assert channels(bob) == charged

    @pytest.mark.parametrize("workers", [1, 2])
    def test_text_is_for_people(self, bob, upstream, workers):
        """One line where its other events are, one with a hint on stderr; nobody has to ask for anything."""
        process = bob.start(
            *("serve", "--upstream", upstream.url, *PRICE, "--port", "0", "--workers", workers),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout.readline().startswith("listening")
        migrate(bob.path / "ledger.sqlite3")
        events, chatter = process.communicate(timeout=30)
        assert process.returncode == 7
        assert "interrupted  ledger-too-new  the ledger " in events
        assert events.count("\n") == 1
        error, hint = chatter.splitlines()
        assert error.startswith("error: the ledger ")
        assert hint.startswith("hint: upgrade microwallet")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_ledger_that_is_moved_away(serve, bob, workers):
    """What were sold would be recorded in a file that nobody opens again: it ends with 7 and says why."""
    ledger = bob.path / "ledger.sqlite3"
    gateway = serve("--workers", workers)
    ledger.rename(bob.path / "before")
    assert gateway.process.wait(timeout=20) == 7
    told = [line["error"] for line in gateway.requests.end() if "error" in line]
    assert [error["code"] for error in told] == ["ledger-replaced"]
    assert f"the ledger {ledger} was moved or replaced" in told[0]["message"]
    said = [(event["event"], event.get("code")) for event in gateway.events.end()]
    assert said == [("listening", None), ("interrupted", "ledger-replaced")]
    (bob.path / "before").rename(ledger)
    assert serve().end() == 0


def test_a_ledger_that_is_moved_away_before_the_first_look(bob, chain):
    """Whoever settles opens the ledger for itself: that it finds none is not told beside what is wrong."""
    with closing(PayingShop(bob, chain)) as selling:
        ledger = bob.path / "ledger.sqlite3"
        ledger.rename(bob.path / "before")
        with pytest.raises(LedgerReplaced):
            asyncio.run(asyncio.wait_for(selling.shop.look(), timeout=10))
        (bob.path / "before").rename(ledger)
    assert "interrupted" not in [event for event, _ in selling.events]


class TestFailedDisk:
    """What was written may be lost, and what were written behind it too: the system tells that once."""

    @pytest.mark.parametrize("workers", [1, 2])
    def test_it_ends_and_says_why(self, serve, pay, tmp_path, workers):
        """All workers, with 7; started again it sells on, and nobody is charged for what was not served."""
        fails_while = tmp_path / "failing"
        gateway = serve(
            *("--workers", workers),
            program=Path(__file__).with_name("failing_disk.py"),
            env={"FAILING_DISK": str(fails_while)},
        )
        channel_id = pay(gateway.url).data["payment"]["channelId"]
        fails_while.touch()
        assert pay(gateway.url + "/failed").exit_code in (0, 3, 5)
        assert gateway.process.wait(timeout=20) == 7
        told = [
            line["error"] for line in gateway.requests.end() if "error" in line and "code" in line["error"]
        ]
        assert [error["code"] for error in told] == ["ledger-unwritable"]
        assert "the disk failed" in told[0]["message"]
        said = [event for event in gateway.events.end() if event["event"] != "listening"]
        assert [(event["event"], event["code"]) for event in said] == [("interrupted", "ledger-unwritable")]
        fails_while.unlink()
        again = pay(serve().url).data["payment"]
        assert again["channelId"] == channel_id
        assert again["receiptProblems"] == []
