"""`serve` by the real command: it sells, settles, tells, and stops without losing anything."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from unittest.mock import ANY

import httpx
import pexpect
import pytest
from certificates import Authority
from gate import Gate
from http402.running import PRICE
from http402.signing_payer import PayingShop
from migrated import migrate

from microwallet import selling
from microwallet.cli.serve_view import serve_line
from microwallet.domain.identifiers import hexed
from microwallet.errors import LedgerUnwritable
from microwallet.escrow.reader import EscrowReader
from microwallet.escrow.rpc import RpcError
from microwallet.http402.charging.request_log import request_line
from microwallet.http402.wire.challenge import offered_challenges
from microwallet.ledger import database
from microwallet.payee.exclusive import is_held, settling_lock
from microwallet.wallet import Wallet


@pytest.fixture
def pay(alice):
    """Alice fetches, and says yes to a channel of 1 USDC."""

    def fetch(url, *arguments, **options):
        words = ("fetch", url, "--deposit", "1 USDC", "--yes", "--json", *arguments)
        return alice.run(*words, **options)

    return fetch


def channels(home):
    """A payee's channels, as its ledger has them."""
    with Wallet.open(environment=home.environment) as wallet:
        return wallet.ledger.vouchers.list(finalized=True)


def listens(url):
    """Whether somebody takes connections there."""
    with suppress(OSError), socket.create_connection((httpx.URL(url).host, httpx.URL(url).port)):
        return True
    return False


def fails(bob, *arguments, **options):
    """The error of a `serve` that does not start; it printed nothing on stdout."""
    done = bob.run("serve", *arguments, "--json", **options)
    assert done.stdout == "", done
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert error["exitCode"] == done.exit_code
    return error


class TestSelling:
    def test_what_is_behind_is_paid_for(self, serve, pay, bob, upstream):
        """The lines of a first use: it listens, is paid, tells each request, and ends with 0."""
        gateway = serve("--free", "/free")
        listening = gateway.events.seen[0]
        assert (listening["upstream"], listening["payee"]) == (upstream.url, bob.address)
        assert httpx.get(gateway.url + "/free").text == "you asked for /free"
        unpaid = httpx.get(gateway.url + "/a?token=secret")
        (challenge,) = offered_challenges(unpaid.headers.get_list("www-authenticate")).challenges
        assert (unpaid.status_code, challenge.realm) == (402, gateway.url.removeprefix("http://"))
        paid = pay(gateway.url + "/a?token=secret").data
        assert (paid["status"], paid["body"]) == (200, "you asked for /a?token=secret")
        assert isinstance(paid["headers"]["date"], str), "one date, not the upstream's too"
        assert paid["payment"]["amount"] == "1000"
        path, fields = upstream.asked[-1]
        assert (path, fields["x-payment-amount"]) == ("/a?token=secret", "1000")
        assert fields["x-payment-channel"] == paid["payment"]["channelId"]
        assert gateway.end() == 0
        (stopped,) = [line for line in gateway.events.seen if line["event"] == "stopped"]
        assert stopped["unsettled"] == [{"asset": "USDC", "decimals": 6, "unsettled": "1000", "channels": 1}]
        assert [line["event"] for line in gateway.events.seen] == ["listening", "stopped"]
        told = [(line["path"], line["status"], line.get("cost")) for line in gateway.requests.seen]
        assert told == [("/free", 200, None), ("/a", 402, None), ("/a", 402, None), ("/a", 200, "1000")]
        assert gateway.requests.seen[-1]["channelId"] == paid["payment"]["channelId"]
        everything = json.dumps(gateway.requests.seen + gateway.events.seen)
        assert "secret" not in everything
        assert "Payment " not in everything

    def test_a_file_says_what_is_sold(self, bob, tmp_path, upstream):
        """Told by --dry-run, as a document and as a table; nothing listens, no key is touched."""
        file = tmp_path / "gateway.toml"
        file.write_text(
            f"""
            upstream = "{upstream.url}"
            port = 9402
            settle-idle = "1d"
            [[routes]]
            path = "/docs/**"
            free = true
            [[routes]]
            method = "POST"
            path = "/ask"
            price = "0.002 USDC"
            per = "header"
            units-header = "X-Tokens"
            max-units = 4000
            """
        )
        locked = {"MICROWALLET_PASSWORD_FILE": ""}
        told = bob.run("serve", "--config", file, "--port", "8000", "--dry-run", "--json", env=locked).data
        assert (told["upstream"], told["port"], told["settleIdle"]) == (upstream.url, 8000, 86400)
        assert told["dryRun"] is True
        assert (told["payee"], told["network"]) == (bob.address, "anvil")
        assert list(told["settleAbove"].values()) == ["1000000"]
        free, ask = told["routes"]
        assert (free["path"], free["free"]) == ("/docs/**", True)
        assert (ask["method"], ask["path"], ask["price"], ask["per"]) == ("POST", "/ask", "2000", "header")
        assert (ask["unitsHeader"], ask["maxUnits"]) == ("x-tokens", 4000)
        table = bob.run("serve", "--config", file, "--dry-run").succeeded().stdout
        assert "POST    /ask      0.002 USDC  header" in table
        assert "*       /docs/**  free" in table

    def test_a_route_that_no_request_reaches_is_told(self, bob, serve, tmp_path):
        """By --dry-run, in words and in the document, and when it starts."""
        file = tmp_path / "gateway.toml"
        file.write_text(
            """
            routes = [{ path = "/**", price = "0.001 USDC" }, { method = "GET", path = "/docs", free = true }]
            """
        )
        words = ("serve", "--config", file, "--upstream", "http://127.0.0.1:9000", "--dry-run")
        said = "no request reaches route 2, GET /docs: route 1, * /**, comes first"
        assert bob.run(*words).succeeded().stderr == f"warning: {said}\n"
        document = bob.run(*words, "--json").data
        assert [route.get("unreachable") for route in document["routes"]] == [None, said.partition(": ")[2]]
        gateway = serve("--config", file, sells=())
        assert gateway.events.seen[0] == {"event": "warning", "time": ANY, "message": said}

    def test_a_dry_run_refuses_what_a_start_would(self, bob):
        """An open address without TLS, or no such relayer: who tries the file out learns of it then."""
        words = ("serve", "--upstream", "http://127.0.0.1:9", "--price", "0.001 USDC")
        for wrong, said in (("--host", "0.0.0.0"), "in the clear"), (("--relayer", "nobody"), "no account"):
            for flags in ([], ["--dry-run"]):
                refused = bob.run(*words, *wrong, *flags)
                assert (refused.exit_code, said in refused.stderr) == (2, True)

    @pytest.mark.parametrize("fees", [[], ["--pay-fees-from", "1 USDC"]])
    def test_a_description_that_no_challenge_can_carry(self, bob, tmp_path, fees):
        """By --dry-run and before any worker starts: one line, and it names the route."""
        file = tmp_path / "gateway.toml"
        file.write_text(
            f'routes = [{{ path = "/a", price = "0.001 USDC", description = "{"d" * 8192}" }}]', "utf-8"
        )
        words = ("serve", "--config", file, "--upstream", "http://127.0.0.1:9", "--port", 0, *fees)
        for flags in (["--dry-run"], ["--workers", "2"]):
            refused = bob.run(*words, *flags)
            said = "error: route * /a: its challenge has "
            assert (refused.exit_code, refused.stdout, refused.stderr.count("error")) == (2, "", 1)
            assert refused.stderr.startswith(said)

    def test_an_upstream_that_is_away_is_told(self, serve, pay):
        """The line of a request says why it got a 502, and that it cost nothing; clients are not told."""
        with closing(socket.socket()) as taken:
            taken.bind(("127.0.0.1", 0))  # and does not listen
            gateway = serve("--upstream", f"http://127.0.0.1:{taken.getsockname()[1]}")
            answer = pay(gateway.url).data
        assert (answer["status"], "refused" in answer["body"]) == (502, False)
        offered, failed = gateway.requests.next("request"), gateway.requests.next("request")
        assert (offered["status"], "warning" in offered) == (402, False)
        assert (failed["status"], failed["cost"]) == (502, "0")
        assert failed["warning"] == "the upstream cannot be reached"
        assert request_line("request", failed).endswith("0 USDC  warning: the upstream cannot be reached")

    @pytest.mark.parametrize("status", [600, 999])
    def test_a_status_that_is_none(self, serve, pay, status):
        """As some upstreams answer whom they do not like: it is a failure of theirs. RFC 9110, section 15."""
        gateway = serve()
        assert pay(f"{gateway.url}/status/{status}").data["status"] == 502
        assert gateway.end() == 0
        [failed] = [line for line in gateway.requests.seen if line["status"] == 502]
        assert failed["cost"] == "0"
        assert failed["warning"] == f"the upstream does not answer: its status {status} is none"

    @pytest.mark.parametrize("path", ["/kept", "/large"])
    def test_what_comes_again_was_paid_before(self, serve, pay, path):
        """The same idempotency key costs nothing, which the log tells; whether the answer is kept or not."""
        gateway = serve()
        for _ in range(2):
            pay(gateway.url + path, "--idempotency-key", "k").data  # noqa: B018
        assert gateway.end() == 0
        first, again = [line for line in gateway.requests.seen if line["status"] == 200]
        assert (first["cost"], "paidBefore" in first) == ("1000", False)
        assert (again["cost"], again["paidBefore"], again["channelId"]) == ("0", True, first["channelId"])
        assert request_line("request", again).endswith(f"  {again['channelId'][:10]}  paid before")
        assert request_line("request", first).endswith("  0.001 USDC")

    def test_what_comes_again_has_one_date(self, serve, pay):
        """That of the answer that is kept, without another one of now."""
        gateway = serve()
        words = (gateway.url + "/kept", "--idempotency-key", "k")
        first, again = (pay(*words).data["headers"]["date"] for _ in range(2))
        assert isinstance(first, str)
        assert again == first

    def test_text_is_for_people(self, bob, upstream):
        """Without --json one line when it listens and one when it stops; --quiet drops the requests'."""
        process = bob.start(
            *("serve", "--upstream", upstream.url, *PRICE, "--port", "0", "--quiet"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        line = process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:")
        assert f"for {upstream.url}, paid to {bob.address} on anvil" in line
        assert httpx.get(line.split()[2]).status_code == 402
        process.send_signal(signal.SIGINT)
        rest, chatter = process.communicate(timeout=30)
        assert (process.returncode, rest, chatter) == (0, "stopped\n", "")

    def test_vouchers_for_a_stream_are_told_from_requests(self, serve, pay):
        """In the log: each of them is a request that costs nothing by itself."""
        gateway = serve(sells=("--price", "0.001 USDC", "--per", "event"))
        pay(gateway.url + "/stream").data  # noqa: B018
        told = []
        while not told or told[-1].get("cost") != "5000":
            told.append(gateway.requests.next("request"))
        heads = [one for one in told if one["method"] == "HEAD"]
        assert heads
        assert all(one["handedOver"] and "cost" not in one for one in heads)
        assert "handed over" in request_line("request", heads[0])
        assert not any("handedOver" in one for one in told if one["method"] == "GET")


class TestRefusals:
    """What does not start says why, and how to go on."""

    def test_settings_that_make_no_sense(self, bob, tmp_path):
        """Exit 2: no upstream, none that could be one, no price, a file with a slip."""
        assert fails(bob, *PRICE)["hint"] == "--upstream http://127.0.0.1:9000"
        for url in (
            "nonsense",
            "ftp://127.0.0.1",
            "http://127.0.0.1/path",
            "http://user@127.0.0.1",
            "http://x:y",
        ):
            assert fails(bob, "--upstream", url, *PRICE)["code"] == "usage", url
        bare = fails(bob, "--upstream", "127.0.0.1:19000", *PRICE)
        assert bare["hint"] == "--upstream http://127.0.0.1:19000"
        file = tmp_path / "gateway.toml"
        file.write_text("prot = 1")
        assert "did you mean port or" in fails(bob, "--config", file)["message"]
        for arguments in ([], ["--price", "cheap"], ["--price", "1 EUROS"], [*PRICE, "--free", "free"]):
            assert fails(bob, "--upstream", "http://127.0.0.1:9000", *arguments)["exitCode"] == 2
        twice = ("--settle-above", "5 USDC", "--settle-above", "6 USDC")
        said = fails(bob, "--upstream", "http://127.0.0.1:9000", *PRICE, *twice)["message"]
        assert said == "--settle-above has two sums for one token"

    @pytest.mark.parametrize("key", ["account", "network", "relayer"])
    def test_a_name_that_is_none_is_told_where_it_was_written(self, bob, tmp_path, key):
        """By its file and key, or by its flag, before what there is: a file holds many names. What settings
        name is not of the file."""
        file = tmp_path / "gateway.toml"
        routes = 'upstream = "http://127.0.0.1:9000"\nroutes = [{ path = "/**", price = "1 USDC" }]\n'
        file.write_text(f'{key} = "nobody"\n{routes}')
        noun = "network" if key == "network" else "account"
        filed = fails(bob, "--config", file)
        assert filed["message"].startswith(f"{file}: {key}: there is no {noun} 'nobody'")
        flagged = fails(bob, "--config", file, f"--{key}", "no-one")
        assert flagged["message"].startswith(f"--{key}: there is no {noun} 'no-one'")
        file.write_text(routes)
        setting = {f"MICROWALLET_{key.upper()}": "nobody"}
        told = fails(bob, "--config", file, env=setting)
        assert told["message"].startswith(f"there is no {noun} 'nobody'")

    def test_nothing_to_be_paid_to(self, make_home, chain):
        """Exit 2 without an account, and how to make one."""
        nobody = make_home("nobody", chain)
        error = fails(nobody, "--upstream", "http://127.0.0.1:9000", *PRICE)
        assert (error["exitCode"], error["hint"]) == (2, "microwallet account create main")
        assert error["message"] == f"this wallet, {nobody.path}, has no account yet"

    def test_a_locked_key_is_found_out_at_once(self, bob):
        """Exit 6, not when a close is due."""
        error = fails(
            bob,
            *("--upstream", "http://127.0.0.1:9000", *PRICE, "--port", "0"),
            env={"MICROWALLET_PASSWORD_FILE": ""},
        )
        assert error["exitCode"] == 6

    def test_a_port_that_is_taken(self, bob):
        """Exit 3, and the flag that finds a free one."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            error = fails(bob, "--upstream", "http://127.0.0.1:9000", *PRICE, "--port", port)
        assert (error["code"], error["exitCode"]) == ("port-taken", 3)
        assert "--port 0" in error["hint"]

    def test_payments_do_not_go_in_the_clear(self, bob):
        """Exit 2 for an address of others without TLS; the hint names both ways."""
        error = fails(bob, "--upstream", "http://127.0.0.1:9000", *PRICE, "--host", "0.0.0.0")
        assert error["exitCode"] == 2
        assert "--tls-cert" in error["hint"]
        assert "--behind-tls-proxy" in error["hint"]


class TestTransport:
    def test_tls(self, serve, tmp_path):
        """Https with a certificate of one's own; the clear is not spoken on the same port."""
        authority = Authority(tmp_path)
        certificate, key = authority.issue()
        gateway = serve("--tls-cert", certificate, "--tls-key", key)
        assert gateway.url.startswith("https://")
        context = ssl.create_default_context(cafile=authority.certificate)
        assert httpx.get(gateway.url, verify=context).status_code == 402
        with pytest.raises(httpx.HTTPError):
            httpx.get(gateway.url.replace("https", "http"))
        assert gateway.end() == 0

    def test_a_certificate_that_is_renewed(self, serve, tmp_path):
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

    def test_a_certificate_that_is_none(self, bob, tmp_path):
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
    def test_a_certificate_out_of_its_time(self, serve, bob, tmp_path, days, said):
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

    def test_behind_a_proxy_that_does_tls(self, serve, upstream):
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


class TestSettling:
    """A gateway looks at its channels when it starts, and every few seconds then."""

    def test_above_a_sum_it_settles(self, serve, pay, bob, chain):
        """Without anybody asking, what was charged and no more; the channel stays open."""
        gateway = serve()
        channel_id = pay(gateway.url + "/1").data["payment"]["channelId"]
        pay(gateway.url + "/2").data  # noqa: B018
        gateway.end()
        gateway = serve("--settle-above", "0.002001 USDC")
        assert gateway.end() == 0
        gateway = serve("--settle-above", "0.002 USDC")
        settled = gateway.events.next("settled")
        assert (settled["channelId"], settled["captured"]) == (channel_id, "2000")
        assert EscrowReader(chain.rpc, chain.escrow_contract).token_balance(chain.token, bob.address) == (
            10**9 + 2000
        )
        assert pay(gateway.url + "/3").data["payment"]["channelId"] == channel_id
        assert gateway.end() == 0
        assert len([line for line in gateway.events.seen if line["event"] == "settled"]) == 1

    def test_while_it_runs_it_settles(self, serve, pay):
        """What was not paid from for so long."""
        gateway = serve("--settle-idle", "1s")
        pay(gateway.url).data  # noqa: B018
        assert gateway.events.next("settled")["captured"] == "1000"

    def test_a_payer_closes_through_it(self, serve, pay, alice):
        """Paid and refunded in one transaction, which the gateway sends and tells of."""
        gateway = serve("--workers", "2")
        channel_id = pay(gateway.url).data["payment"]["channelId"]
        closed = alice.run("channel", "close", channel_id, "--yes", "--json").data
        told = gateway.events.next("closed")
        assert (told["channelId"], told["captured"], told["refunded"]) == (channel_id, "1000", "999000")
        assert closed["transactionHash"] == told["transactionHash"]
        assert pay(gateway.url).data["payment"]["channelId"] != channel_id
        assert gateway.end() == 0

    def test_a_password_that_is_changed_while_it_runs(self, serve, pay, alice, bob, tmp_path):
        """Its key was unlocked as it started: what payers owe is taken all the same."""
        gateway = serve()
        channel_id = pay(gateway.url).data["payment"]["channelId"]
        another = tmp_path / "another"
        another.write_text("another password\n")
        another.chmod(0o600)
        bob.run("account", "password", "bob", "--new-password-file", another).succeeded()
        alice.run("channel", "close", channel_id, "--yes").succeeded()
        assert gateway.events.next("closed", "failed")["event"] == "closed"
        assert gateway.end() == 0

    def test_a_requested_close_is_answered(self, serve, pay, alice):
        """The payer goes to the chain: what it owes is taken before the grace period ends."""
        gateway = serve()
        channel_id = pay(gateway.url).data["payment"]["channelId"]
        gateway.end()
        alice.run("channel", "close", channel_id, "--yes").succeeded()
        again = serve()
        assert again.events.next("closed")["captured"] == "1000"

    def test_a_withdrawal_that_a_list_saw_first_is_told(self, serve, pay, alice, bob, chain):
        """While no gateway ran: the next one tells what was lost, and the one after it does not."""
        gateway = serve()
        channel_id = pay(gateway.url).data["payment"]["channelId"]
        gateway.end()
        alice.run("channel", "close", channel_id, "--yes").succeeded()
        chain.node.advance(900)
        alice.run("channel", "withdraw", channel_id, "--yes").succeeded()
        [listed] = bob.run("payee", "list", "--all", "--json").data["channels"]
        assert listed["status"] == "finalized"
        again = serve()
        lost = again.events.next("finalized")
        assert (lost["channelId"], lost["unsettled"]) == (channel_id, "1000")
        again.end()
        third = serve()
        time.sleep(2)
        third.end()
        assert [line["event"] for line in third.events.end()] == ["listening", "stopped"]

    def test_a_close_that_a_reorganisation_undid(self, serve, pay, alice, bob, chain):
        """Anybody can have it mined again: the gateway does, and sells nothing on the channel until then."""
        gateway = serve()
        channel_id = pay(gateway.url).data["payment"]["channelId"]
        alice.run("channel", "close", channel_id, "--yes").succeeded()
        first = gateway.events.next("closed")
        with Wallet.open(environment=bob.environment) as wallet:
            [closing] = wallet.ledger.journal.beginning_with("close-")
        chain.rpc.call("evm_setAutomine", [False])
        try:
            chain.rpc.call("anvil_reorg", [1, []])
            gateway.events.next("reorganised")
            alice.run("channel", "list").succeeded()
            pay(gateway.url + "/2", "--timeout", "5", env={"MICROWALLET_WAIT_SECONDS": "1"})
            with suppress(RpcError):  # a node that has it
                chain.rpc.call("eth_sendRawTransaction", [hexed(closing.transaction.raw)])
        finally:
            chain.rpc.call("evm_setAutomine", [True])
        chain.rpc.call("evm_mine")
        state = EscrowReader(chain.rpc, chain.escrow_contract).channel_state(channel_id)
        spent = {one.channel_id: one.spent for one in channels(bob)}
        assert (state.finalized, state.settled, spent[channel_id]) == (True, 1000, 1000)
        again = gateway.events.next("closed")
        assert [again[one] for one in ("transactionHash", "captured")] == [first["transactionHash"], "1000"]

    def test_a_purse_without_coin_is_told(self, serve, pay, bob, chain):
        """It goes on selling; what is owed is kept."""
        gateway = serve()
        pay(gateway.url).data  # noqa: B018
        gateway.end()
        chain.rpc.call("anvil_setBalance", [bob.address, "0x0"])
        gateway = serve("--settle-above", "0.001 USDC")
        assert gateway.events.next("failed")["code"] == "insufficient-funds"
        pay(gateway.url).data  # noqa: B018
        assert gateway.end() == 0
        assert gateway.events.next("stopped")["unsettled"][0]["unsettled"] == "2000"

    def test_another_process_of_the_payee(self, serve, pay, bob):
        """`payee list`, `settle` and `close` beside a running gateway; a closed channel sells no more."""
        gateway = serve()
        channel_id = pay(gateway.url).data["payment"]["channelId"]
        listed = bob.run("payee", "list", "--json")
        assert [one["channelId"] for one in listed.data["channels"]] == [channel_id]
        assert "unwatched" not in listed.stderr
        assert (
            bob.run("payee", "settle", channel_id, "--yes", "--json").data["channels"][0]["captured"]
            == "1000"
        )
        pay(gateway.url + "/2").data  # noqa: B018
        closed = bob.run("payee", "close", "--all", "--yes", "--json").data
        assert closed["channels"][0]["captured"] == "1000"
        other = pay(gateway.url + "/3").data["payment"]["channelId"]
        assert other != channel_id

    def test_an_imported_channel_pays_at_once(self, serve, pay, bob, tmp_path):
        """The import could not ask the chain; a gateway that runs does, when the first request comes."""
        gateway = serve()
        channel_id = pay(gateway.url).data["payment"]["channelId"]
        assert gateway.end() == 0
        backup = tmp_path / "vouchers.jsonl"
        bob.run("payee", "export", backup).succeeded()
        for file in bob.path.glob("ledger*"):
            file.unlink()
        gateway = serve()
        away = {"MICROWALLET_RPC_URL": "http://127.0.0.1:9", "MICROWALLET_RPC_TIMEOUT": "1"}
        assert "was not asked" in bob.run("payee", "import", backup, env=away).succeeded().stderr
        paid = pay(gateway.url).data["payment"]
        assert (paid["channelId"], paid["deposited"], paid["receiptProblems"]) == (channel_id, False, [])
        assert gateway.end() == 0
        assert [line["status"] for line in gateway.requests.end()] == [402, 200]

    @pytest.mark.parametrize("workers", ["1", "2"])
    def test_a_second_gateway_says_whose_settings_count(self, serve, bob, chain, workers):
        """One of a home settles; of several workers of one gateway nothing is said."""
        first, lock = serve("--workers", workers), settling_lock(bob.path, chain.chain_id, bob.address)
        while not is_held(lock):
            time.sleep(0.01)
        second = serve()
        assert [one["event"] for one in first.events.seen] == ["listening"]
        [warning, _listening] = second.events.seen
        assert warning["message"].startswith("another gateway with this account")


class TestEnding:
    @pytest.mark.parametrize("workers", ["1", "2"])
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
    def test_a_request_in_hand_is_finished(self, serve, pay, upstream, number, workers):
        """It is waited for; nobody new is let in; what was paid is kept."""
        gateway = serve("--workers", workers)
        pay(gateway.url + "/first").data  # noqa: B018
        done = []
        thread = threading.Thread(target=lambda: done.append(pay(gateway.url + "/slow")))
        thread.start()
        while upstream.asked[-1][0] != "/slow":
            time.sleep(0.01)
        gateway.process.send_signal(number)
        time.sleep(0.5)
        with pytest.raises(httpx.ConnectError):
            httpx.get(gateway.url)
        upstream.slow.set()
        thread.join()
        assert done[0].data["body"] == "you asked for /slow"
        assert gateway.process.wait(timeout=20) == 0
        assert gateway.events.next("stopped")["unsettled"][0]["unsettled"] == "2000"

    def test_a_stream_that_would_need_a_voucher_breaks_off(self, serve, alice, bob, upstream):
        """None can come any more: the payer is told what the stream cost by then."""
        gateway = serve(sells=(*PRICE, "--per", "event"))
        stream = alice.start(
            *("fetch", gateway.url + "/halting", "--deposit", "1 USDC", "--max-amount", "0.005 USDC"),
            *("--yes", "--json"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        while not channels(bob) or channels(bob)[0].spent < 1000:
            time.sleep(0.05)
        gateway.process.send_signal(signal.SIGTERM)
        while listens(gateway.url):
            time.sleep(0.05)
        upstream.slow.set()
        said = json.loads(stream.communicate(timeout=20)[0])["error"]
        assert (stream.returncode, said["code"]) == (3, "network")
        assert "its receipt tells what it has cost" in said["message"]
        assert gateway.process.wait(timeout=20) == 0
        [paying] = alice.run("channel", "list", "--json").data["channels"]
        assert (paying["spent"], channels(bob)[0].spent) == ("1000", 1000)

    @pytest.mark.parametrize("workers", ["1", "2"])
    def test_a_hangup_that_is_ignored(self, serve, pay, workers):
        """Under `nohup` it goes on."""
        gateway = serve("--workers", workers, program=Path(__file__).with_name("without_hangups.py"))
        gateway.process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert pay(gateway.url).data["status"] == 200
        assert gateway.end() == 0

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
    def test_told_again_and_again(self, serve, number):
        """It ends once, in order."""
        gateway = serve("--workers", "3")
        while gateway.process.poll() is None:
            gateway.process.send_signal(number)
            time.sleep(0.02)
        assert gateway.process.returncode == 0
        assert gateway.events.end()[-1]["event"] == "stopped"

    def test_what_fails_while_the_ledger_is_locked_is_given_back_at_the_end(self, serve, pay, upstream, bob):
        """It ends when that is done: the client has its answer long since."""
        gateway = serve(program=Path(__file__).with_name("impatient.py"))
        pay(gateway.url + "/first").data  # noqa: B018
        thread = threading.Thread(target=lambda: pay(gateway.url + "/slow/status/503"))
        thread.start()
        while upstream.asked[-1][0] != "/slow/status/503":
            time.sleep(0.01)
        with closing(sqlite3.connect(bob.path / "ledger.sqlite3", isolation_level=None)) as locks:
            locks.execute("BEGIN IMMEDIATE")
            upstream.slow.set()
            time.sleep(0.5)
            gateway.process.send_signal(signal.SIGTERM)
            thread.join()
            time.sleep(1.5)
            assert gateway.process.poll() is None
        assert gateway.process.wait(timeout=60) == 0
        assert channels(bob)[0].spent == 1000

    def test_a_second_interrupt_forces_the_end(self, serve, pay, upstream, bob):
        """130 at once; the request that was not answered costs nothing, and is told so."""
        gateway, done = serve(), []
        pay(gateway.url + "/first").data  # noqa: B018
        thread = threading.Thread(target=lambda: done.append(pay(gateway.url + "/slow")))
        thread.start()
        while upstream.asked[-1][0] != "/slow":
            time.sleep(0.01)
        gateway.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert gateway.process.poll() is None
        begun = time.monotonic()
        assert gateway.end(signal.SIGINT) == 130
        assert time.monotonic() - begun < 5
        assert channels(bob)[0].spent == 1000
        thread.join()
        told = done[0].data
        assert (told["status"], told["payment"]) == (503, None)
        assert json.loads(told["body"])["detail"] == "the server ends; nothing was charged"
        assert gateway.requests.end()[-2]["status"] == 503
        last = gateway.events.end()[-1]
        assert (last["event"], [one["unsettled"] for one in last["unsettled"]]) == ("stopped", ["1000"])

    def test_what_is_free_and_was_not_answered_is_told_that_it_ends(self, serve, upstream):
        """As what is paid for is: 503, not 500, which would be a defect of the upstream's."""
        gateway, done = serve("--free", "/slow"), []
        thread = threading.Thread(target=lambda: done.append(httpx.get(gateway.url + "/slow", timeout=30)))
        thread.start()
        while not upstream.asked or upstream.asked[-1][0] != "/slow":
            time.sleep(0.01)
        gateway.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert gateway.end(signal.SIGINT) == 130
        thread.join()
        assert done[0].status_code == 503
        assert done[0].json()["detail"] == "the server ends; nothing was charged"
        assert gateway.requests.end()[-2]["status"] == 503

    def test_a_settlement_that_is_not_mined_is_finished_by_the_next(self, serve, pay, bob, chain):
        """Stopped while it waits, it ends in time with 0; started again, it sends nothing twice."""
        gateway = serve()
        pay(gateway.url).data  # noqa: B018
        gateway.end()
        chain.rpc.call("evm_setAutomine", [False])
        gateway = serve("--settle-above", "0.001 USDC")
        while not unfinished(bob):
            time.sleep(0.05)
        begun = time.monotonic()
        assert gateway.end() == 0
        assert time.monotonic() - begun < 15
        assert gateway.events.next("interrupted")["code"] == "outcome-unknown"
        chain.rpc.call("evm_setAutomine", [True])
        again = serve("--settle-above", "0.001 USDC")
        chain.rpc.call("evm_mine", [])
        deadline = time.monotonic() + 20
        while unfinished(bob) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert again.end() == 0
        assert int(chain.rpc.call("eth_getTransactionCount", [bob.address, "latest"]), 16) == 1
        assert channels(bob)[0].state.settled == 1000


def unfinished(home):
    """Transactions of a home whose outcome is not known."""
    with Wallet.open(environment=home.environment) as wallet:
        return wallet.ledger.journal.unfinished(wallet.network.chain_id)


def test_a_stream_whose_upstream_dies(serve, alice, bob):
    """The payer is told what it cost by then: both have the same books, though it is no success."""
    gateway = serve(sells=(*PRICE, "--per", "event"))
    words = ("fetch", gateway.url + "/dying", "--deposit", "1 USDC", "--max-amount", "0.005 USDC", "--yes")
    broken = alice.run(*words, "--json")
    assert (broken.exit_code, broken.error["code"]) == (3, "network")
    assert "its receipt tells what it has cost" in broken.error["message"]
    assert "another stream" in broken.error["hint"]
    [paying] = alice.run("channel", "list", "--json").data["channels"]
    assert (paying["spent"], channels(bob)[0].spent) == ("2000", 2000)


def test_what_is_unchanged_may_tell_a_length(serve, pay):
    """By a 304: the connection goes on, and it is had again under its key."""
    gateway = serve()
    again = ("--idempotency-key", "again", "-H", "If-None-Match: x")
    for _ in range(2):
        paid = pay(gateway.url + "/unchanged", *again).data
        assert (paid["status"], paid["body"], paid["payment"]["amount"]) == (304, "", "1000")
    gateway.end()
    assert [one.get("error") for one in gateway.requests.end()] == [None] * 4


@pytest.mark.parametrize("after", [1_000, 200_000])
def test_what_nobody_reads_any_more_is_broken_off(serve, upstream, after):
    """An answer without end would keep its connection to the upstream for ever, and there are 200 of them."""
    gateway = serve(sells=(*PRICE, "--free", "/endless"))
    with httpx.stream("GET", gateway.url + "/endless") as answer:
        size = 0
        for chunk in answer.iter_raw():
            if (size := size + len(chunk)) > after:
                break
    assert upstream.was_left.wait(10)
    assert gateway.requests.next("request")["status"] == 200


@pytest.mark.parametrize("workers", [1, 2])
def test_a_close_beside_it_waits_for_what_is_being_served(serve, pay, bob, upstream, workers):
    """What is given back in the end is not taken, though it was reserved when `payee close` began."""
    gateway = serve("--workers", workers)
    channel_id = pay(gateway.url).data["payment"]["channelId"]
    with ThreadPoolExecutor() as pool:
        failing = pool.submit(pay, gateway.url + "/slow/status/500")
        while not any(path.startswith("/slow") for path, _ in upstream.asked):
            time.sleep(0.01)
        assert channels(bob)[0].spent == 2000
        assert (
            bob.run("payee", "settle", channel_id, "--yes", "--json").data["channels"][0]["captured"]
            == "1000"
        )
        close = bob.start("payee", "close", channel_id, "--yes", "--json", stdout=subprocess.PIPE)
        time.sleep(2)
        assert close.poll() is None
        upstream.slow.set()
        assert failing.result().data["status"] == 500
    told = json.loads(close.communicate(timeout=60)[0])["data"]["channels"]
    assert [one["captured"] for one in told] == ["0"]
    assert (channels(bob)[0].state.settled, channels(bob)[0].spent) == (1000, 1000)
    assert gateway.end() == 0
    assert not list(bob.path.glob("payee-in-hand-*"))


def test_it_watches_again_once_files_can_be_opened(bob, chain, monkeypatch):
    """Clients may take all that a process may have open: payers do not withdraw unseen after that."""
    monkeypatch.setattr(selling, "LOOK_SECONDS", 0.05)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def scene(shop, lock):
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        looking = asyncio.create_task(shop.shop.look())
        await asyncio.sleep(0.3)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(200):
            if looking.done() or is_held(lock):
                break
            await asyncio.sleep(0.05)
        assert is_held(lock)
        looking.cancel()

    with closing(PayingShop(bob, chain)) as shop:
        try:
            asyncio.run(scene(shop, settling_lock(bob.path, chain.chain_id, shop.payee)))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        told = [(event, details.get("code")) for event, details in shop.events]
    assert told == [("interrupted", "ledger-unwritable"), ("resumed", None)]


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
    assert [event["event"] for event in gateway.events.end()] == ["listening", "interrupted"]
    (bob.path / "before").rename(ledger)
    assert serve().end() == 0


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


class TestWorkers:
    def test_two_workers_sell_from_one_ledger(self, serve, pay, bob):
        """Parallel payments from one channel: every one is served by some worker, and the books agree."""
        gateway = serve("--workers", "2")
        assert len(gateway.workers()) == 2
        pay(gateway.url).data  # noqa: B018
        done = []
        threads = [
            threading.Thread(target=lambda: done.append(pay(gateway.url + "/again").exit_code))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert done == [0] * 6
        assert gateway.end() == 0
        assert [line["event"] for line in gateway.events.seen] == ["listening", "stopped"]
        (channel,) = channels(bob)
        assert (channel.authorized, channel.spent) == (7000, 7000)

    def test_a_close_waits_for_what_another_worker_serves(self, serve, pay, alice, upstream):
        """It takes what was charged in the end, not what was reserved when it was asked for."""
        gateway = serve("--workers", "2")
        channel_id = pay(gateway.url).data["payment"]["channelId"]
        serving, closing = gateway.workers()
        os.kill(closing, signal.SIGSTOP)
        paying = threading.Thread(target=lambda: pay(gateway.url + "/slow/status/503"))
        paying.start()
        while upstream.asked[-1][0] != "/slow/status/503":
            time.sleep(0.01)
        os.kill(serving, signal.SIGSTOP)
        os.kill(closing, signal.SIGCONT)
        done = []
        words = ("channel", "close", channel_id, "--yes", "--json")
        asking = threading.Thread(target=lambda: done.append(alice.run(*words)))
        asking.start()
        time.sleep(1.5)
        assert [line["event"] for line in gateway.events.seen] == ["listening"]
        os.kill(serving, signal.SIGCONT)
        upstream.slow.set()
        paying.join()
        asking.join()
        assert done[0].exit_code == 0, done
        assert gateway.events.next("closed")["captured"] == "1000"

    def test_a_killed_worker_is_replaced(self, serve):
        """And told of; the others serve meanwhile."""
        gateway = serve("--workers", "2")
        before = gateway.workers()
        os.kill(before[0], signal.SIGKILL)
        replaced = gateway.events.next("worker-replaced")
        assert "SIGKILL" in replaced["message"]
        line = serve_line("worker-replaced", {"worker": 0, "message": replaced["message"]})
        assert line.endswith("  worker replaced  worker 0  the one before was killed by SIGKILL")
        while len(after := gateway.workers()) < 2:
            time.sleep(0.01)
        assert before[0] not in after
        assert httpx.get(gateway.url).status_code == 402
        assert gateway.end(signal.SIGINT) == 0

    def test_one_that_fails_by_itself_ends_all(self, bob):
        """It has said why, and its exit code is the command's."""
        bob.path.mkdir(exist_ok=True)
        (bob.path / "ledger.sqlite3").write_text("this is no ledger at all")
        sells = ("--upstream", "http://127.0.0.1:9000", *PRICE, "--port", "0")
        assert fails(bob, *sells, "--workers", "2")["code"] == "ledger-corrupt"

    def test_it_gives_up_when_they_are_killed_again_and_again(self, serve):
        """Eleven within a minute: exit 1, and nobody is left."""
        gateway = serve("--workers", "2")
        killed = set()
        while gateway.process.poll() is None:
            for worker in set(gateway.workers()) - killed:
                os.kill(worker, signal.SIGKILL)
                killed.add(worker)
            time.sleep(0.01)
        assert gateway.process.wait() == 1
        assert len(killed) >= 11
        assert "giving up" in gateway.requests.end()[-1]["error"]["message"]

    def test_at_a_terminal(self, bob, upstream):
        """The password is asked for once, before there are several; Ctrl-C is one interrupt, not three."""
        arguments = ["serve", "--upstream", upstream.url, *PRICE, "--port", "0", "--workers", "2"]
        terminal = pexpect.spawn(
            sys.executable,
            ["-m", "microwallet", *arguments],
            env={**bob.environment, "MICROWALLET_PASSWORD_FILE": ""},
            cwd=str(bob.path.parent),
            encoding="utf-8",
            timeout=30,
        )
        terminal.expect("Password for the key of account bob: ")
        terminal.sendline(bob.password_file.read_text().strip())
        terminal.expect("listening on (http://[^ ]+) ")
        assert httpx.get(terminal.match[1]).status_code == 402
        terminal.sendintr()
        terminal.expect("stopped")
        terminal.expect(pexpect.EOF)
        terminal.close()
        assert terminal.exitstatus == 0
        assert "Password" not in terminal.before

    def test_workers_end_with_their_parent(self, serve):
        """However it ends: nobody goes on serving."""
        gateway = serve("--workers", "2")
        gateway.process.kill()
        gateway.process.wait()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                httpx.get(gateway.url)
            except httpx.ConnectError:
                return
            except httpx.TransportError:  # a worker that ended in the middle of it
                continue
            time.sleep(0.05)
        pytest.fail("a worker still serves")
