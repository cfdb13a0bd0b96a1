"""`serve --try`: from nothing to something paid for, by the lines that it prints."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from http402.running import Serving


@pytest.fixture
def trial(home, anvil):
    """A running trial, and the lines to paste."""
    serving = Serving(home, "--try", env={"MICROWALLET_ANVIL": str(anvil)}).listening()
    yield serving, serving.events.next("try")["lines"]
    serving.kill()


def test_its_lines_pay(trial, home):
    """Pasted one after the other they open a channel and pay for an article, a stream and an image."""
    serving, (unset, export, *commands) = trial
    assert unset == "unset MICROWALLET_PASSWORD_FILE"
    payer = replace(home, path=Path(export.partition("=")[2]))
    assert "0.001 USDC" in httpx.get(serving.url).text
    outputs = []
    for command in commands:
        words = command.split()
        assert words[0] == "microwallet"
        done = payer.run(*words[1:], env={"MICROWALLET_PASSWORD_FILE": ""})
        outputs.append(done.succeeded().stdout)
    article, stream, image, channels = outputs
    assert "<h1>One signature</h1>" in article
    assert stream.startswith("data: A\n\n")
    assert (image, (payer.path.parent / "image.svg").read_text()[:4]) == ("", "<svg")
    assert "0.0077" in channels
    assert serving.end(signal.SIGINT) == 0
    assert serving.events.next("stopped")["unsettled"] == []  # nor is there a home to take it with
    assert not payer.path.parent.exists()


@pytest.mark.parametrize(
    "flag",
    [
        ("--price", "1 USDC"),
        ("--config", "gateway.toml"),
        ("--rpc-url", "http://127.0.0.1:9"),
        ("--password-file", "password"),
        ("--dry-run",),
    ],
    ids=lambda flag: flag[0],
)
def test_it_sells_samples_alone(home, flag):
    """What says what else is sold, or whose chain and keys are used, is a mistake beside it."""
    done = home.run("serve", "--try", *flag)
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"it has no {flag[0]}" in done.stderr
