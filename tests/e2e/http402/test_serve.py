"""`serve` by the real command: what it sells and says, and the settings that it refuses."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from contextlib import closing
from unittest.mock import ANY

import httpx
import pytest
from http402.running import PRICE, channels, fails
from odd_tokens import RECEIVE, put_without

from microwallet.http402.serving.request_log import request_line
from microwallet.http402.wire.challenge import offered_challenges


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

    def test_gas_is_paid_for_signed_deposits_alone(self, bob, chain):
        """A challenge for a token that takes none would ask for what nobody could carry out."""
        token = put_without(chain, RECEIVE, owner=bob.address)
        bob.run("network", "token", "add", token, "--alias", "PLAIN", "--json").succeeded()
        words = ("serve", "--upstream", "http://127.0.0.1:9", "--price", "0.001 PLAIN", "--port", 0)
        refused = bob.run(*words, "--pay-fees-from", "1 PLAIN")
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert f"the token {token} takes no signed transfers (EIP-3009)" in refused.stderr

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

    def test_no_other_protocol_is_spoken(self, serve, upstream):
        """A WebSocket would be passed on without being charged for: the upstream gets a plain GET."""
        gateway = serve("--free", "/socket")
        fields = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        answer = httpx.get(gateway.url + "/socket", headers={**fields, "Sec-WebSocket-Key": "a" * 22 + "=="})
        assert answer.status_code == 200
        [(path, sent)] = upstream.asked
        assert (path, "upgrade" in sent, "upgrade" in sent.get("connection", "")) == ("/socket", False, False)

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
        everywhere = ("--host", "::", "--port", "80")
        for url, more in (("http://localhost:8402", ()), ("http://[::1]", everywhere)):
            itself = fails(bob, "--upstream", url, *PRICE, *more)["message"]
            assert itself == f"--upstream: {url} is where the gateway itself listens"
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
