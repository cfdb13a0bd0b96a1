"""The programs in the guide and in the README: they run as they stand, and a strict type checker agrees."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
GUIDE = (REPOSITORY / "microwallet" / "guide" / "python.md").read_text(encoding="utf-8")
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", GUIDE + README, flags=re.DOTALL)
URL = "http://127.0.0.1:8402"
PAYEE = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"


def program(words: str) -> str:
    """The one program in which these words stand."""
    [found] = [one for one in PROGRAMS if words in one]
    return found


def run(home, text, **options):
    """Run a program as a user would, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", text],
        env=home.environment,
        cwd=home.path.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def served(bob, tmp_path):
    """Serves the application of the guide; its address."""

    @contextmanager
    def start():
        (tmp_path / "program.py").write_text(program("PaymentMiddleware"), encoding="utf-8")
        command = [sys.executable, "-m", "uvicorn", "program:app", "--port", "0", "--no-access-log"]
        process = subprocess.Popen(
            command, cwd=tmp_path, env=bob.environment, stderr=subprocess.PIPE, text=True
        )
        try:
            line = next(line for line in process.stderr if "running on" in line)
            yield re.search(r"http://[0-9.:]+", line)[0]
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)

    with start() as url:
        yield url


def test_programs_that_pay(alice, served):
    """Through httpx, sync and async, and the README's: all from one channel with the guide's application."""
    text = program("microwallet.PayingTransport(\n")
    assert run(alice, text.replace(URL, served)) == f"an article for {alice.address} 0.001 USDC\n"
    assert run(alice, program("AsyncPayingTransport").replace(URL, served)) == "5\n"
    shown = run(alice, program("# as before").replace(URL, served))
    assert shown == f"an article for {alice.address}\n0.001 USDC\n"
    [channel] = alice.run("channel", "list", "--json").data["channels"]
    assert (channel["authorized"], channel["deposit"]) == ("7000", "1000000")


def test_programs_with_a_wallet(alice, bob):
    """One opens, pays, is refused and asks for its money back; the other accepts, and is paid."""
    shown = run(alice, program("open_channel").replace(PAYEE, bob.address)).splitlines()
    assert shown[-1].startswith("closing 1")
    assert "amount-exceeds-deposit" in shown[-2]
    alice.run("channel", "top-up", bob.address, "1 USDC", "--yes").succeeded()  # cancels the close
    kept = run(bob, program("accept"), input=shown[0] + "\n").splitlines()
    assert kept[0] == f"{alice.address} 0.25 USDC"
    assert kept[1].startswith("0.25 USDC 0x")


def test_a_strict_type_checker_agrees(tmp_path):
    """mypy --strict finds nothing in the programs: the package tells its types."""
    files = []
    for number, text in enumerate(PROGRAMS):
        files.append(tmp_path / f"program_{number}.py")
        files[-1].write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", *map(str, files)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_event_of_a_gateway_is_in_the_guide():
    """Whoever reads the lines finds each in the table."""
    package = REPOSITORY / "microwallet"
    rooms = [*package.glob("payee/*.py"), *package.glob("http402/*/*.py")]
    files = [package / "selling.py", package / "cli" / "serve_run.py", *rooms]
    texts = [file.read_text(encoding="utf-8") for file in files]
    events = {event for text in texts for event in re.findall(r'emit\("([a-z-]+)"', text)}
    rows = re.findall(
        r"^\| (`.*?`) \|", (package / "guide" / "selling.md").read_text("utf-8"), flags=re.MULTILINE
    )
    told = {event for row in rows for event in re.findall(r"`([a-z-]+)`", row)}
    assert {"listening", "finalized", "worker-replaced"} <= events
    assert events - told - {"resumed"} == set()
