"""Commands typed wrongly: the hint is the command that was meant, ready to type."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess

import pytest

from microwallet.cli.fetch_request import wanted
from microwallet.cli.main import main


@pytest.mark.parametrize(
    ("typed", "said", "hint"),
    [
        (["pay", "tea", "1", "USDC"], "extra argument", "microwallet pay tea '1 USDC'"),
        (
            ["channel", "open", "0xA", "10", "USDC", "--yes"],
            "extra argument",
            "microwallet channel open 0xA '10 USDC' --yes",
        ),
        (
            ["devnet", "fund", "alice", "10", "ETH"],
            "extra argument",
            "microwallet devnet fund alice '10 ETH'",
        ),
        (["channel", "list", "x"], "extra argument", "microwallet channel list --help"),
        (["send", "bob", "all", "USDC"], "extra argument", "microwallet send bob 'all USDC'"),
        (["pay", "tea", "1", "--meno", "x"], "--meno (Possible options: --memo)", "microwallet pay --help"),
        (["pay", "tea", "1", "--network", "anvil"], "No such option: --network", "microwallet pay --help"),
        (["pay", "-q", "tea", "1"], "No such option: -q", "microwallet -q pay tea 1"),
        (["balance", "--debug"], "No such option: --debug", "microwallet --debug balance"),
        (["help", "channel", "open"], "no topic 'channel open'", "microwallet channel open --help"),
        (["help", "chanels"], "did you mean channels?", "microwallet help"),
        (["fetch", "-X", "PUT", "http://x"], "No such option: -X", "microwallet fetch PUT http://x"),
        (["fetch", "http://x", "-I"], "No such option: -I", "microwallet fetch HEAD http://x --include"),
        (
            ["fetch", "--resolve", "x:80:::1", "http://x"],
            "No such option: --resolve",
            "microwallet fetch --help",
        ),
        (["fetch", "http://x", "--json={}"], "does not take a value", "microwallet fetch --help"),
        (
            ["fetch", "POST", "http://x", "a=1", "X-B:2"],
            "extra argument(s) (a=1 X-B:2)",
            '-H "NAME: VALUE" sends a header, -d NAME=VALUE data',
        ),
        (["fetch", "POST"], "the URL is missing", "microwallet fetch POST URL"),
        (["fetch", "post", "-d", "x"], "the URL is missing", "microwallet fetch POST URL"),
        (
            ["fetch", "http://x/?a&b", "POST"],
            "the method comes first",
            "microwallet fetch POST 'http://x/?a&b'",
        ),
        (["fetch", "GTE", "http://x/?a&b"], "did you mean GET?", "microwallet fetch GET 'http://x/?a&b'"),
        (["fetch", "GTE", "http://x/?key=a"], "mean GET?", 'microwallet fetch GET "http://x/?key=$KEY"'),
        (["fetch", "http://x/?key=a", "GET"], "no URL", 'microwallet fetch GET "http://x/?key=$KEY"'),
        (["fetch", "psot", "http://x"], "did you mean POST?", "microwallet fetch POST http://x"),
        (["pay", "-X", "tea"], "No such option: -X", "microwallet pay --help"),
        (["pya", "tea", "1"], "Did you mean 'pay'?", "microwallet pay tea 1"),
        (["channel", "lst"], "Did you mean 'list'?", "microwallet channel list"),
        (["-q", "chanel", "list"], "Did you mean 'channel'?", "microwallet -q channel list"),
        (["xyz"], "No such command 'xyz'.", "microwallet --help"),
        (["pay", "tea", "1", "--count", "1.5"], "a whole number is expected", "microwallet pay --help"),
        (["voucher", "verify", ""], "FILE names no file", "microwallet voucher verify --help"),
        (["fetch", "http://x", "-o", ""], "--output names no file", "microwallet fetch --help"),
        (["payee", "export", "/"], "FILE names no file", "microwallet payee export --help"),
        (["payee", "export", "."], "FILE names no file", "microwallet payee export --help"),
        (["serve", "--config", ""], "--config names no file", "microwallet serve --help"),
        (["config", "set", "token", ""], "token is set to nothing", "microwallet config unset token"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_hint_is_the_command_meant(typed, said, hint, capsys):
    """An amount in two words, a misspelled option, a global flag, one of curl, a misspelled verb."""
    assert main(typed) == 2
    stderr = capsys.readouterr().err
    assert said in stderr
    assert f"hint: {hint}\n" in stderr


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("-XPOST 'http://x/?a&b'", "POST 'http://x/?a&b'"),
        ("--request=POST http://x -d '{\"a\": 1}'", "POST http://x -d '{\"a\": 1}'"),
        ("-X POST", "POST URL"),
        ("-I", "HEAD URL --include"),
        ("-O http://x/a/b.json?c", "http://x/a/b.json?c --output b.json"),
        ("-O http://x/", "http://x/ --output index.html"),
        ("--location http://x --max-time 5", "http://x --follow --timeout 5"),
        ("-m5 -LH 'Accept: text/plain' http://x", "http://x --timeout 5 -L -H 'Accept: text/plain'"),
        ("--url http://x --data-raw '{}'", "http://x --data '{}'"),
        ("http://x --data-binary @q.json --fail-with-body", "http://x --data @q.json --fail"),
        ("-A me -e http://y http://x", "http://x -H 'User-Agent: me' -H 'Referer: http://y'"),
        ("-r 0-99 http://x", "http://x -H 'Range: bytes=0-99'"),
        ("-k http://x", "http://x"),
        ("-# --http2 --no-progress-meter http://x", "http://x"),
        ("-G http://x -d a=b -d c", "http://x?a=b&c"),
        ("--get 'http://x/?q=1#part' --data-urlencode 'a=b c&d'", "'http://x/?q=1&a=b%20c%26d'"),
        ("-XPUT -G http://x -d a", "PUT http://x?a"),
        ("--data-urlencode 'a=b c' --data-urlencode =é http://x", "http://x --data a=b%20c --data %C3%A9"),
        ("-T up.bin http://x/to", "PUT http://x/to --data @up.bin"),
    ],
)
def test_a_command_line_of_curl_is_translated(typed, meant, capsys):
    """The hint is the whole command, with all that was typed, as `fetch` says it."""
    assert main(["fetch", *shlex.split(typed)]) == 2
    assert shlex.split(_hint(capsys)) == shlex.split(f"microwallet fetch {meant}")


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("-sS http://x", "microwallet -q fetch http://x"),
        ("--cacert ca.pem https://x", "SSL_CERT_FILE=ca.pem microwallet fetch https://x"),
        ("-kL https://x", "SSL_CERT_FILE=FILE microwallet fetch https://x -L"),
        ("-s http://x/?key=a", 'microwallet -q fetch "http://x/?key=$KEY"  # with the same $KEY'),
        ("-b a=1 http://x", 'microwallet fetch http://x -H "Cookie: $COOKIE"  # with the same $COOKIE'),
    ],
)
def test_what_curl_does_by_a_flag_stands_elsewhere(typed, hint, capsys):
    """A global flag or a variable in front; a secret is not repeated."""
    assert main(["fetch", *shlex.split(typed)]) == 2
    assert _hint(capsys) == hint


def test_the_user_of_curl_is_a_header(capsys):
    """The hint does not repeat the password, and a shell makes of it what curl would send."""
    assert main(["fetch", "-u", "bob:secret", "http://x"]) == 2
    hint = _hint(capsys)
    assert "secret" not in hint
    printed = subprocess.run(
        ["sh", "-c", hint.replace("microwallet", "printf '%s|'", 1)],
        env={**os.environ, "CREDENTIALS": "bob:secret"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout == "fetch|http://x|-H|Authorization: Basic Ym9iOnNlY3JldA==|"


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("--retry 3 http://x", "--idempotency-key KEY  (with it the same command again pays once)"),
        ("--resume K http://x", "--idempotency-key KEY  (with it the same command again pays once)"),
        ("-b jar http://x", '-H "Cookie: NAME=VALUE"  (no file of cookies is read or kept)'),
        ("-c jar http://x", '-H "Cookie: NAME=VALUE"  (no file of cookies is read or kept)'),
        ("--connect-timeout 3 http://x", "--timeout SECONDS  (for each wait)"),
        ("-w '%{http_code}' http://x", "--json  (has status and headers beside the body)"),
        ("-D - http://x", "--json  (has status and headers beside the body)"),
    ],
)
def test_what_has_no_counterpart_is_said(typed, hint, capsys):
    """What does something like it is named, and what there is not."""
    assert main(["fetch", *shlex.split(typed)]) == 2
    assert _hint(capsys) == hint


@pytest.mark.parametrize(
    "words", [["--json", '{"a": "$1"}', "http://x"], ["http://x", "--json", '{"a": "$1"}']]
)
def test_the_json_of_curl_is_data(words, capsys):
    """Ours takes no value: the hint sends it."""
    assert main(["fetch", *words]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert "--json takes no value" in error["message"]
    type_, data = "Content-Type: application/json", '{"a": "$1"}'
    assert shlex.split(error["hint"]) == ["microwallet", "fetch", "http://x", "-H", type_, "-d", data]


@pytest.mark.parametrize(
    "typed",
    [
        "--data-raw @q http://x",
        "--data-binary - http://x",
        "-X",
        "-I a b c",
        "-G -d @q http://x",
        "-G -F a=b http://x",
        "--data-urlencode @q http://x",
        "--data-urlencode a@q http://x",
        "-T up.bin http://x/to/",
        "-T up.bin -d a http://x/to",
        "-T up.bin -T down.bin http://x/to",
        "-G -T up.bin http://x/to",
        "--data-urlencode - http://x",
    ],
)
def test_what_is_not_sure_is_not_translated(typed, capsys):
    """Text that `fetch` would take for a file, a value that is missing, a word too many."""
    assert main(["fetch", *shlex.split(typed)]) == 2
    assert _hint(capsys) == "microwallet fetch --help"


@pytest.mark.parametrize(
    "typed",
    [
        "http://x --max-amount 0.05 USDC",
        "--max-amount 0.05 USDC http://x",
        "http://x --yes --deposit 1 eth --max-amount '1 eth'",
        "--deposit 1 PURGE http://x",
    ],
)
def test_a_unit_is_no_method(typed, capsys):
    """Of an amount in two words, beside a URL: with its unit it is sure, whichever was meant."""
    assert main(["fetch", *shlex.split(typed)]) == 2
    said = capsys.readouterr().err
    found = re.search(r"(--\S+) ([\d.]+) (\w+)(?: |$)", typed)
    flag, number, unit = found.groups()
    assert f"error: '{unit}' may be a method, or the unit of {flag} {number}\n" in said
    assert f'hint: {flag} "{number} {unit}"\n' in said


def _hint(capsys) -> str:
    return capsys.readouterr().err.partition("hint: ")[2].rstrip("\n")


def test_json_before_the_command(capsys):
    """`--json` belongs to the command; the hint moves it there."""
    assert main(["--json", "account", "list"]) == 2
    assert '"hint": "microwallet account list --json"' in capsys.readouterr().out


@pytest.mark.parametrize("amount", ["-1", "-1 USDC", "-.5", "-\u0661"])
@pytest.mark.parametrize("words", ["devnet fund 0x" + "11" * 20, "config set max-amount"])
def test_negative_amounts_are_amounts(words, amount, capsys, tmp_path, monkeypatch):
    """What begins like a negative number is a wrong amount, not an unknown option."""
    monkeypatch.setenv("MICROWALLET_HOME", str(tmp_path))
    assert main([*words.split(), amount]) == 2
    assert "No such option" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "method",
    ["get", "PROPFIND", "MKCOL", "LOCK", "REPORT", "SEARCH", "PURGE", "LIST", "PUSH", "COPY", "PROPPATCH"],
)
def test_other_methods_are_methods(method):
    """What is like none that is often typed is meant as it is."""
    assert wanted([method, "http://x"], [], [], []).method == method.upper()
