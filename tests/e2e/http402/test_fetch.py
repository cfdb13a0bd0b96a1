"""Fetching what has a price: open, pay, and what a user of curl expects around it."""

from __future__ import annotations

import socket
import sys
import threading
from dataclasses import replace

import pexpect
import pytest
from http402.payee_double import PAID_BODY
from local_server import Handler, LocalServer

from microwallet.domain.money import Amount
from microwallet.errors import NetworkError
from microwallet.escrow.reader import EscrowReader
from microwallet.payer.deposit import make_deposit
from microwallet.payer.open import plan_open
from microwallet.wallet import Wallet


def test_opens_and_pays_then_pays_from_it(fetch, payee):
    """The first fetch opens a channel and pays; the next one pays from it; both tell the payment."""
    first = fetch("--deposit", "1 USDC").data
    assert first["status"] == 200
    assert (first["body"], first["bodyEncoding"]) == (PAID_BODY.decode(), None)
    payment = first["payment"]
    assert (payment["amount"], payment["cumulativeAmount"], payment["spent"]) == ("1000", "1000", "1000")
    assert (payment["method"], payment["intent"], payment["payee"]) == ("evm", "session", payee.address)
    assert payment["receipt"]["acceptedCumulative"] == "1000"
    assert payment["receiptProblems"] == []
    second = fetch(yes=False).data["payment"]
    assert second["channelId"] == payment["channelId"]
    assert (second["amount"], second["cumulativeAmount"], second["spent"]) == ("1000", "2000", "2000")
    assert payee.reader.channel_state(payment["channelId"]).deposit == 1_000_000


def begin_open(wallet, payee, amount):
    """Order an open by hand, of which nothing is sent."""

    class Away(EscrowReader):
        def channel_states(self, *_):
            raise NetworkError("away")

    account = wallet.paying_account()
    plan = plan_open(account, payee.address, Amount.parse(amount, wallet.resolve_asset("USDC")))
    with pytest.raises(NetworkError, match="away"):
        make_deposit(replace(account, reader=Away(wallet.rpc, wallet.escrow_contract)), plan)


@pytest.mark.parametrize(
    ("flags", "exit_code", "deposited"), [((), 4, []), (("--deposit", "2 USDC"), 0, [2_000_000])]
)
def test_a_deposit_that_was_begun_before_is_within_the_limits(
    fetch, alice, payee, flags, exit_code, deposited
):
    """One that was ordered by hand, of which nothing was sent, is not made by a fetch that may do less."""
    with Wallet.open(environment=alice.environment) as wallet:
        begin_open(wallet, payee, "100 USDC")
        fetched = fetch(*flags)
        channels = wallet.ledger.channels.list(finalized=False)
        states = [wallet.reader.channel_state(channel.channel_id) for channel in channels]
    assert [state.deposit for state in states if state.exists] == deposited
    assert fetched.exit_code == exit_code


@pytest.mark.parametrize("most", ["0.4 USDC", "0.3 USDC"])
def test_a_dry_run_tells_of_the_deposit_that_was_begun_before(fetch, alice, payee, most):
    """What it names is what is made, though nothing else may be deposited beside it."""
    alice.run("config", "set", "max-deposit", most).succeeded()
    with Wallet.open(environment=alice.environment) as wallet:
        begin_open(wallet, payee, "0.3 USDC")
    assert fetch("--dry-run", yes=False).data["wouldPay"]["deposit"] == "300000"
    assert fetch().data["payment"]["deposit"] == "300000"


def test_free_things_need_no_wallet(home, payee):
    """What costs nothing is fetched without an account, and leaves no ledger."""
    payee.before = lambda handler, _: bool(handler.answer(200, {"X": "1"}, b"free")) or True
    done = home.run("fetch", payee.url + "/", "-i").succeeded()
    assert done.stdout.startswith("HTTP/1.1 200 OK")
    assert done.stdout.endswith("free")
    assert not home.path.exists()


def test_a_dry_run_without_an_account_tells_the_price_and_that_one_is_missing(make_home, chain, payee):
    """As `--no-pay` would; to pay is exit 2."""
    nobody = make_home("nobody", chain)
    told = nobody.run("fetch", payee.url + "/", "--dry-run", "--json")
    would = told.data["wouldPay"]
    assert (would["amount"], would["way"], would["channelId"]) == ("1000", "open", None)
    missing = f"this wallet, {nobody.path}, has no account yet"
    assert f"{missing}: microwallet account create main" in told.stderr
    refused = nobody.run("fetch", payee.url + "/", "--json")
    assert (refused.exit_code, refused.error["message"]) == (2, missing)


def test_paying_from_a_channel_loads_nothing_slow(fetch, alice, payee):
    """A fetch that pays from an open channel imports no web3, no rich, no HTTP/2, no asyncio, and nothing
    that deposits are signed with."""
    fetch()
    slow = {"web3", "eth_account", "eth_utils", "rlp", "rich", "pygments", "click", "hpack", "asyncio"}
    assert not alice.imports("fetch", payee.url + "/", "--json") & slow


@pytest.fixture
def seen(payee):
    """What reaches a server that is free: method, headers and body of each request."""
    requests = []

    def before(handler, _action):
        requests.append((handler.command, handler.headers, handler.body))
        handler.answer(200, {"X-One": "1", "Set-Cookie": "a=b"}, b"ok\x00\xff")
        return True

    payee.before = before
    return requests


@pytest.mark.parametrize(
    ("words", "method", "kind", "body"),
    [
        ((), "GET", None, b""),
        (("DELETE",), "DELETE", None, b""),
        (("-d", "a=1", "-d", "b=2"), "POST", "application/x-www-form-urlencoded", b"a=1&b=2"),
        (("PUT", "-d", "{}", "-H", "Content-Type: application/json"), "PUT", "application/json", b"{}"),
        (("-d", "-"), "POST", "application/x-www-form-urlencoded", b"from\nstdin"),
    ],
)
def test_requests_like_curl(fetch, seen, words, method, kind, body):
    """The method, the headers and the data are what was typed."""
    assert fetch(*words, input="from\nstdin").data["bodyEncoding"] == "base64"
    [(sent, headers, got)] = seen
    assert (sent, headers["Content-Type"], got) == (method, kind, body)
    assert headers["Accept-Payment"] == "evm/session"
    assert headers["User-Agent"].startswith("microwallet/")
    assert "Idempotency-Key" not in headers


def test_files_in_body_and_form(fetch, seen, tmp_path, alice, payee):
    """@FILE is a file's bytes as they are; -F makes a multipart body; -o takes the answer's bytes."""
    file = tmp_path / "data.bin"
    file.write_bytes(b"\r\n\x00")
    fetch("-d", f"@{file}").succeeded()
    fetch("-F", "name=value", "-F", f"file=@{file};type=image/png").succeeded()
    (_, _, plain), (method, headers, form) = seen
    assert plain == b"\r\n\x00"
    assert method == "POST"
    assert headers["Content-Type"].startswith("multipart/form-data; boundary=")
    assert b'name="name"\r\n\r\nvalue' in form
    assert b'filename="data.bin"\r\nContent-Type: image/png\r\n\r\n\r\n\x00' in form
    answer = tmp_path / "answer"
    alice.run("fetch", payee.url + "/", "-o", str(answer)).succeeded()
    assert answer.read_bytes() == b"ok\x00\xff"


@pytest.mark.parametrize(
    ("options", "name", "kind"),
    [
        ("", b"data.bin", b"application/octet-stream"),
        (";filename=o.csv", b"o.csv", b"text/csv"),
        (";type=text/plain; charset=utf-8;filename=o.csv", b"o.csv", b"text/plain; charset=utf-8"),
        (';filename="o.csv";type=text/plain', b"o.csv", b"text/plain"),
    ],
)
def test_a_file_of_a_form_has_the_name_and_type_given(fetch, seen, tmp_path, options, name, kind):
    """As curl has them, in any order; the type is guessed from the name where none is given."""
    file = tmp_path / "data.bin"
    file.write_bytes(b"x")
    fetch("-F", f"file=@{file}{options}").succeeded()
    [(_, _, form)] = seen
    assert b'name="file"; filename="' + name + b'"\r\nContent-Type: ' + kind + b"\r\n\r\nx\r\n" in form


def test_headers_on_demand(seen, alice, payee):
    """-i prints the headers on stdout, -v on stderr, and no secret in them."""
    secret = ("-H", "Authorization: Bearer s3cret", "-H", "X-Api-Key: s3cret")
    said = alice.run("fetch", payee.url + "/?a=1&token=s3cret", "-v", "-o", "/dev/null", *secret)
    assert f"> GET {payee.url}/?a=1&token=...\n" in said.stderr
    assert "< x-one: 1" in said.stderr
    assert "s3cret" not in said.stderr + said.stdout
    assert seen[0][1]["Authorization"] == "Bearer s3cret"
    payee.before = lambda handler, _: handler.answer(404, {}, b"") or True
    failed = alice.run("fetch", payee.url + "/?a=1&token=s3cret", "--fail")
    assert failed.stderr == f"error: {payee.url}/?a=1&token=... answered 404\n"


def test_a_payment_in_place_of_what_the_request_says_of_itself(alice, payee):
    """There is one Authorization: who sends another one is told, and pays all the same."""
    told = "the payment takes the place of the request's own Authorization\n"
    paid = alice.run("fetch", payee.url, "-H", "Authorization: Bearer t", "--yes").succeeded()
    assert paid.stderr.count(told) == 1
    assert told not in alice.run("fetch", payee.url).succeeded().stderr


def test_verbose_of_an_answer_is_harmless_and_tells_no_secret(alice, payee):
    """Cookies and secrets of an address are left out, and what a terminal would obey."""

    def before(handler, _action):
        handler.send_response(302, "Fo\x1b[31mund")
        handler.send_header("Location", "/elsewhere?a=1&token=s3cret")
        handler.send_header("Set-Cookie", "session=s3cret")
        handler.send_header("X-Title", "\x1b]0;mine\x07 \x9b31m")
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    payee.before = before
    said = alice.run("fetch", payee.url + "/", "-v").succeeded().stderr
    assert "< location: /elsewhere?a=1&token=...\n< set-cookie: ...\n< x-title:  ]0;mine   31m\n" in said
    assert "s3cret" not in said
    assert all(char.isprintable() for char in said.replace("\n", ""))


def test_errors_tell_an_address_without_its_secrets(alice, fetch, payee):
    """Of the purchase that a key or a channel was used for, and of both targets of a redirect."""
    target = "/target?token=s3cret"

    def before(handler, _action):
        if handler.path != "/moved":
            return False
        handler.answer(302, {"Location": target}, b"")
        return True

    fetch("--idempotency-key", "mine", path="/?api_key=s3cret")
    other = fetch("--idempotency-key", "mine", path="/?api_key=other")
    assert "GET " + payee.url + "/?api_key=..., perhaps" in other.error["message"]
    payee.before = before
    fetch("-L", "--idempotency-key", "moves", path="/moved")
    target = "/other?token=s3cret"  # the server changed its mind
    led = fetch("-L", "--idempotency-key", "moves", path="/moved").error["message"]
    assert f"leads to {payee.url}/other?token=... now, and led to {payee.url}/target?token=... when" in led
    channel = fetch(path="/?api_key=s3cret").data["payment"]["channelId"]
    payee.before = lambda handler, _action: (
        handler.answer(402, {"WWW-Authenticate": "Payment id=\x9b,"}, b"") or True
    )
    unread = fetch(path="/?api_key=s3cret")
    assert f"'{payee.url}/?api_key=...'" in unread.error["hint"]
    payee.before = lambda handler, _action: handler.answer(404, {}, b"") or True
    closed = alice.run("channel", "close", channel, "--yes", "--json").succeeded()
    assert f"{payee.url}/?api_key=... no longer offers" in closed.stderr
    assert "s3cret" not in other.stdout + led + unread.stdout + closed.stdout + closed.stderr


def test_verbose_tells_every_exchange(alice, fetch, payee):
    """-v tells the request that was refused, the one that paid and both answers, with no credential in it."""
    fetch()
    said = alice.run("fetch", payee.url + "/", "-v").succeeded().stderr
    told = [line for line in said.splitlines() if line.startswith(("> GET", "> authorization", "< HTTP"))]
    sent = f"> GET {payee.url}/"
    assert told == [
        sent,
        "< HTTP/1.1 402 Payment Required",
        sent,
        "> authorization: Payment ...",
        "< HTTP/1.1 200 OK",
    ]
    assert "< www-authenticate: Payment id=" in said


def test_what_is_said_after_the_body_begins_a_line(alice, payee):
    """A body without a line break at its end is closed with one on a terminal, and nowhere else."""
    payee.before = lambda handler, _: handler.answer(404, {}, b"none") or True
    words = ("fetch", payee.url + "/", "--fail")
    assert alice.run(*words).stdout == "none"
    terminal = pexpect.spawn(
        sys.executable, ["-m", "microwallet", *words], env=alice.environment, timeout=20, encoding="utf-8"
    )
    terminal.expect(pexpect.EOF)
    assert terminal.before.startswith(f"none\r\nerror: {payee.url}/ answered 404")


def test_what_is_asked_names_the_price(fetch, payee):
    """Who agrees to a deposit sees what a request costs; no word of the payee forges a line of that, here or
    where it is too much."""
    payee.twist_request = lambda request: {**request, "unitType": "word\x1b[1m\n  fee  none"}
    asked = fetch(yes=False).error["message"].splitlines()
    assert asked[1].split() == ["deposit", "0.1", "USDC"]
    assert " ".join(asked[2].split()) == "price 0.001 USDC for each word [1m fee none"
    assert asked[3].split() == ["payee", payee.address]
    refused = fetch("--max-amount", "0.0001 USDC", yes=False).error["message"]
    assert refused.startswith("each word [1m   fee  none costs 0.001 USDC, and at most 0.0001 USDC may be")


@pytest.mark.parametrize(("typed", "said"), [("\x03", "interrupted"), ("\x04", "nothing was typed")])
def test_no_answer_to_the_question(alice, payee, typed, said):
    """Ctrl-C or Ctrl-D where a deposit is to be agreed to: one line, exit 130, nothing signed."""
    words = ["-m", "microwallet", "fetch", payee.url + "/"]
    asked = pexpect.spawn(sys.executable, words, env=alice.environment, timeout=20, encoding="utf-8")
    asked.expect_exact("Go ahead? [y/N] ")
    asked.send(typed)
    asked.expect(pexpect.EOF)
    asked.close()
    assert asked.before.removeprefix("^C") == f"\r\nerror: {said}\r\n"
    assert asked.exitstatus == 130
    assert payee.vouchers == []


@pytest.mark.parametrize(
    "words",
    [
        ("ftp://x/",),
        ("nonsense",),
        ("GE T", "http://127.0.0.1:9/"),
        ("http://user@127.0.0.1:9/",),
        ("http://127.0.0.1:99999/",),
        ("http://127.0.0.1:9/", "-H", "no colon"),
        ("http://127.0.0.1:9/", "-H", "Payment-Receipt: x"),
        ("http://127.0.0.1:9/", "-H", "Two Words: x"),
        ("http://127.0.0.1:9/", "-H", "Content-Length: 3", "-d", "abcdef"),
        ("http://127.0.0.1:9/", "-d", "x", "-F", "a=b"),
        ("http://127.0.0.1:9/", "-F", "a"),
        ("http://127.0.0.1:9/", "-d", "@/nowhere"),
        ("http://127.0.0.1:9/", "--timeout", "0"),
        ("http://127.0.0.1:9/", "--timeout", "x"),
        ("http://127.0.0.1:9/", "--max-amount", "much"),
        ("http://127.0.0.1:9/", "--max-amount", "1 DAI"),
        ("http://127.0.0.1:9/", "--deposit", "-1 USDC"),
        ("http://127.0.0.1:9/", "--proxy", "nonsense"),
        ("http://127.0.0.1:9/", "--payee", "0x12"),
        ("http://127.0.0.1:9/", "-o", "/nowhere/file"),
        ("http://127.0.0.1:9/", "--idempotency-key", "\u00fc"),
    ],
)
def test_wrong_arguments(alice, words):
    """What cannot be a request is exit 2 before anything is sent."""
    refused = alice.run("fetch", *words, "--json")
    assert (refused.exit_code, refused.stderr) == (2, "")


@pytest.mark.parametrize(
    ("header", "message", "hint"),
    [
        ("Two Words: x", "'Two Words: x' is no header", '-H "Accept: application/json"'),
        ("Content-Length: 3", "Content-Length is '3', and the body has 6 bytes", "leave it out"),
        ("Transfer-Encoding: gzip", "Transfer-Encoding is set by microwallet", "leave it out"),
        ("Accept-Payment: x", "Accept-Payment is set by microwallet", "leave it out"),
        ("Idempotency-Key: x", "Idempotency-Key is set by microwallet", "--idempotency-key KEY"),
    ],
)
def test_headers_that_cannot_be_sent(fetch, seen, header, message, hint):
    """What is wrong with a header, and what to write; it was called a server that cannot be reached."""
    refused = fetch("-d", "abcdef", "-H", header)
    assert (refused.error["message"], refused.error["hint"]) == (message, hint)
    assert seen == []


def test_limits_are_settings(alice, fetch, payee):
    """max-amount and max-deposit bound everything; a limit without a unit is refused."""
    alice.run("config", "set", "max-amount", "0.0009 USDC").succeeded()
    assert fetch().error["code"] == "above-limit"
    assert fetch("--max-amount", "0.001").exit_code == 0
    payee.suggested_deposit = 10**9
    alice.run("config", "set", "max-amount", "1 USDC").succeeded()
    alice.run("config", "set", "max-deposit", "0.2 USDC").succeeded()
    payee.price = 100_000
    assert fetch().data["payment"]["deposit"] == "200000"
    assert alice.run("config", "set", "max-amount", "1").exit_code == 2
    assert alice.run("config", "set", "max-deposit", "1 DAI").exit_code == 2
    nothing = fetch("--max-amount", "0")
    assert (nothing.exit_code, nothing.error["hint"]) == (2, "--no-pay  (pays nothing)")


def test_a_deposit_that_nobody_suggested(fetch, payee):
    """It is for a hundred requests, of as many units as one may have: not for a hundred units."""
    payee.suggested_deposit, payee.price = None, 2
    told = fetch("--dry-run", yes=False).data
    assert (told["dryRun"], told["wouldPay"]["deposit"]) == (True, "200")
    payee.twist_request = lambda request: {
        **request,
        "unitType": "x-tokens",
        "methodDetails": request["methodDetails"] | {"maxUnits": 40},
    }
    assert fetch("--dry-run", yes=False).data["wouldPay"]["deposit"] == "8000"


def test_the_limit_is_taken_by_a_channel_whose_voucher_is_unknown(alice, fetch):
    """It is named, with what makes it pay again, before another deposit is."""
    channel = fetch("--deposit", "1 USDC").data["payment"]["channelId"]
    for file in alice.path.glob("ledger*"):
        file.unlink()
    alice.run("channel", "sync").succeeded()
    refused = fetch()
    assert refused.error["code"] == "above-limit"
    assert f"channel {channel} does not pay: its highest voucher is not known" in refused.error["message"]
    assert refused.error["hint"].startswith("microwallet channel sync --voucher FILE")


def test_another_channel_beside_one_whose_voucher_is_unknown(alice, fetch):
    """Before it is opened the one that could pay is named, with what makes it pay again: an older copy of the
    ledger is noticed by nothing else here. Where another pays already, nothing is said of it."""
    channel = fetch("--deposit", "0.2 USDC").data["payment"]["channelId"]
    for file in alice.path.glob("ledger*"):
        file.unlink()
    alice.run("channel", "sync").succeeded()
    said = f"channel {channel} does not pay: its highest voucher is not known; ask the payee for it, then:"
    asked = fetch(yes=False)
    assert (asked.exit_code, said in asked.stderr) == (2, True)
    opened = fetch()
    assert opened.data["payment"]["channelId"] != channel
    assert f"{said} microwallet channel sync --voucher FILE" in opened.stderr
    assert said not in fetch().stderr


@pytest.fixture
def proxy():
    """A plain HTTP proxy that answers by itself; what it was asked for."""
    asked = []

    class Proxy(Handler):
        def respond(self):
            asked.append(self.path)
            self.answer(402, {})

    with LocalServer(Proxy) as server:
        yield server.url, asked


def test_proxy_is_used_and_never_paid_through_in_plain(fetch, payee, proxy):
    """A proxy would read along, and to it this machine's name is another's: nothing is paid in plain."""
    url, asked = proxy
    refused = fetch("--proxy", url)
    assert asked == [payee.url + "/"]
    assert (refused.exit_code, refused.error["code"]) == (4, "no-payable-challenge")
    assert "through a proxy" in refused.error["message"]
    assert refused.error["hint"] == "leave out --proxy, or use an https URL"
    assert fetch(url="http://example.com", env={"http_proxy": url}).exit_code == 4
    assert asked[1:] == ["http://example.com/"]
    assert fetch(env={"http_proxy": url}).exit_code == 0


@pytest.mark.parametrize("flags", [(), ("--no-pay",)], ids=["paying", "--no-pay"])
@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_a_proxy_that_is_down_is_named(fetch, scheme, flags):
    """It is the proxy that cannot be reached, not what lies behind it; its password is not shown."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        place = f"127.0.0.1:{closed.getsockname()[1]}"
    down = fetch("--proxy", f"{scheme}://me:secret@{place}", *flags, url="https://shop.example")
    assert (down.exit_code, down.error["code"]) == (3, "network")
    assert down.error["message"].startswith(f"the proxy {scheme}://")
    assert f"{place} cannot be reached: Connection refused" in down.error["message"]
    assert "--proxy" in down.error["hint"]
    assert "secret" not in down.stdout + down.stderr
    assert "shop.example" not in down.error["message"]


def test_a_proxy_that_refuses_is_named(fetch, proxy):
    """What it says to a connection it does not make, and that it was the proxy."""
    url, _ = proxy
    refused = fetch("--proxy", url, url="https://shop.example")
    assert (refused.exit_code, refused.error["code"]) == (3, "network")
    assert f"https://shop.example cannot be reached: the proxy {url} says 501" in refused.error["message"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [(b"", "nothing within 0.5 seconds"), (b"HTTP/1.1 400 Bad Request\r\n\r\n", "what is no SOCKS 5")],
    ids=["silent", "http"],
)
def test_a_proxy_that_speaks_no_socks_is_named(fetch, payee, answer, said):
    """It is not waited for without end, and no defect of ours."""
    taken = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def take():
            taken.append(listening.accept()[0])
            taken[0].sendall(answer)

        threading.Thread(target=take, daemon=True).start()
        url = f"socks5://127.0.0.1:{listening.getsockname()[1]}"
        failed = fetch("--proxy", url, "--timeout", "0.5", timeout=20)
    taken[0].close()
    assert (failed.exit_code, failed.error["code"]) == (3, "network")
    assert failed.error["message"] == f"{payee.url} cannot be reached: the proxy {url} says {said}"


def test_a_proxy_in_between_is_named_where_no_answer_comes(fetch, payee):
    """What is no HTTP may be the fault of the proxy, such as one that speaks SOCKS alone."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def take():
            taken, _ = listening.accept()
            with taken:
                taken.recv(4096)
                taken.sendall(b"\x05\xff")

        threading.Thread(target=take, daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        failed = fetch("--proxy", url, "--timeout", "5")
    assert (failed.exit_code, failed.error["code"]) == (3, "network")
    assert failed.error["message"].startswith(f"{payee.url} does not answer: ")
    assert failed.error["message"].endswith(f", by way of the proxy {url}")


def test_redirects_are_bounded(fetch, payee):
    """Redirects are followed when asked for, and not for ever."""
    payee.before = lambda handler, _: handler.answer(302, {"Location": payee.url + "/again"}, b"") or True
    assert fetch().data["status"] == 302
    endless = fetch("--follow")
    assert (endless.exit_code, endless.error["code"]) == (3, "network")
    assert len(payee.seen) < 15
    assert endless.error["message"] == f"{payee.url}/ was redirected 10 times, and then to {payee.url}/again"
    assert endless.error["hint"] == "--verbose  (tells where each one leads)"
