"""Commands typed wrongly: the hint is the command that was meant, ready to type."""

from __future__ import annotations

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
        (["pay", "tea", "1", "--meno", "x"], "--meno (Possible options: --memo)", "microwallet pay --help"),
        (["pay", "tea", "1", "--network", "anvil"], "No such option: --network", "microwallet pay --help"),
        (["pay", "-q", "tea", "1"], "No such option: -q", "microwallet -q pay tea 1"),
        (["balance", "--debug"], "No such option: --debug", "microwallet --debug balance"),
        (["help", "channel", "open"], "no topic 'channel open'", "microwallet channel open --help"),
        (["help", "chanels"], "did you mean channels?", "microwallet help"),
        (["fetch", "-X", "PUT", "http://x"], "No such option: -X", "microwallet fetch METHOD URL"),
        (["fetch", "http://x", "-I"], "No such option: -I", "microwallet fetch HEAD URL --include"),
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
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_hint_is_the_command_meant(typed, said, hint, capsys):
    """An amount in two words, a misspelled option, a global flag, one of curl, a misspelled verb."""
    assert main(typed) == 2
    stderr = capsys.readouterr().err
    assert said in stderr
    assert f"hint: {hint}\n" in stderr


def test_json_before_the_command(capsys):
    """`--json` belongs to the command; the hint moves it there."""
    assert main(["--json", "account", "list"]) == 2
    assert '"hint": "microwallet account list --json"' in capsys.readouterr().out


@pytest.mark.parametrize("amount", ["-1", "-1 USDC", "-.5", "-\u0661"])
def test_negative_amounts_are_amounts(amount, capsys, tmp_path, monkeypatch):
    """What begins like a negative number is a wrong amount, not an unknown option."""
    monkeypatch.setenv("MICROWALLET_HOME", str(tmp_path))
    assert main(["devnet", "fund", "0x" + "11" * 20, amount]) == 2
    assert "No such option" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "method",
    ["get", "PROPFIND", "MKCOL", "LOCK", "REPORT", "SEARCH", "PURGE", "LIST", "PUSH", "COPY", "PROPPATCH"],
)
def test_other_methods_are_methods(method):
    """What is like none that is often typed is meant as it is."""
    assert wanted([method, "http://x"], [], [], []).method == method.upper()
