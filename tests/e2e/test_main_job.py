"""The main job as a user types it: two homes, no terminal, no Secret Service, one close for everything."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from contextlib import contextmanager

import pytest

DEFAULT_PORT = 8545


class Shell:
    """Runs command lines as they are written, with the variables they use, without a terminal."""

    def __init__(self, folder, home, anvil):
        programs = folder / "bin"
        programs.mkdir()
        self.passed = home.install(programs)
        environment = home.environment
        for name in "AB":
            (folder / name).mkdir()
        self.folder = folder
        self.variables = {
            name: value for name, value in environment.items() if name != "MICROWALLET_HOME"
        } | {
            "PATH": f"{programs}:{environment['PATH']}",
            "MICROWALLET_ANVIL": str(anvil),
            "A": str(folder / "A"),
            "B": str(folder / "B"),
            "PW": environment["MICROWALLET_PASSWORD_FILE"],
        }

    def __call__(self, line, *, exit_code=0):
        """What a line prints on stdout; its last command must exit with `exit_code`."""
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            env=self.variables,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            pass_fds=self.passed,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == exit_code, (line, done)
        assert "Traceback" not in done.stderr
        return done.stdout

    def data(self, line):
        """What a line that ends in --json tells."""
        document = json.loads(self(line))
        assert (document["schema"], document["ok"]) == (1, True)
        return document["data"]


def is_free(port):
    """Whether nothing listens on a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port():
    """A port nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def shell(tmp_path, home, anvil):
    """A shell with two empty homes; whatever chain its lines leave running is ended."""
    opened = Shell(tmp_path, home, anvil)
    yield opened
    opened("MICROWALLET_HOME=$A microwallet devnet down")


def test_the_lines_work_as_written(shell):
    """Section 8 of the main job, line by line, on the port that the network `anvil` knows."""
    elsewhere = ""
    if not is_free(DEFAULT_PORT):
        port = free_port()
        elsewhere = f" --port {port}"
        shell.variables["MICROWALLET_RPC_URL"] = f"http://127.0.0.1:{port}"

    up = shell.data(f"MICROWALLET_HOME=$A microwallet devnet up --json{elsewhere}")
    assert up.keys() >= {"rpcUrl", "chainId", "escrowContract", "token"}
    assert up["chainId"] == 31337
    shell("MICROWALLET_HOME=$A microwallet network use anvil")
    alice = shell.data("MICROWALLET_HOME=$A microwallet account create alice --json")
    assert (alice["name"], alice["store"]) == ("alice", "file")
    shell(
        'MICROWALLET_HOME=$A microwallet devnet fund alice "10 ETH" &&'
        ' MICROWALLET_HOME=$A microwallet devnet fund alice "1000 USDC"'
    )
    shell("MICROWALLET_HOME=$B microwallet network use anvil")
    bob = shell.data("MICROWALLET_HOME=$B microwallet account create bob --json")
    shell.variables["BOB"] = bob["address"]
    shell(
        'MICROWALLET_HOME=$A microwallet devnet fund $BOB "1 ETH"'
        "           # an address works where a name does"
    )
    opened = shell.data(
        'MICROWALLET_HOME=$A microwallet channel open $BOB "10 USDC" --label coffee --yes --json'
    )
    assert (opened["deposit"], opened["status"], opened["label"]) == ("10000000", "open", "coffee")
    assert opened["gasUsed"] > 21_000
    assert opened["transactionHash"].startswith("0x")
    paid = shell.data('MICROWALLET_HOME=$A microwallet pay coffee "0.001 USDC" --json')
    assert (paid["cumulativeAmount"], paid["amount"], paid["remaining"]) == ("1000", "1000", "9999000")
    assert paid.keys() >= {
        "channelId", "signature", "chainId", "escrowContract", "payer", "payee", "token", "salt",
        "authorizedSigner",
    }  # fmt: skip
    accepted = shell.data(
        'MICROWALLET_HOME=$A microwallet pay coffee "0.0001 USDC" --count 1000 --each'
        " | MICROWALLET_HOME=$B microwallet payee accept - --json"
    )
    assert (accepted["accepted"], accepted["rejected"]) == (1000, 0)
    assert accepted["channels"] == [opened["channelId"]]
    closed = shell.data("MICROWALLET_HOME=$B microwallet payee close --all --yes --json")
    (channel,) = closed["channels"]
    (transaction,) = closed["transactions"]
    assert (channel["captured"], channel["refunded"]) == ("101000", "9899000")
    assert transaction["gasUsed"] > 21_000
    (listed,) = shell.data("MICROWALLET_HOME=$A microwallet channel list --all --json")["channels"]
    assert listed.keys() >= {
        "channelId", "payer", "payee", "token", "authorizedSigner", "salt", "escrowContract", "chainId",
        "deposit", "settled", "authorized", "status", "label",
    }  # fmt: skip
    assert (listed["status"], listed["settled"], listed["authorized"]) == ("finalized", "101000", "101000")
    balances = [
        {row["asset"]: row["onChain"] for row in shell.data(
            f"MICROWALLET_HOME=${home} microwallet balance --json")["balances"]}
        for home in "AB"
    ]  # fmt: skip
    assert [one["USDC"] for one in balances] == ["999899000", "101000"]
    assert shell("MICROWALLET_HOME=$A microwallet devnet down")
    assert (
        json.loads(shell("MICROWALLET_HOME=$A microwallet devnet status --json"))["data"]["running"] is False
    )


def test_the_same_on_a_chain_with_the_id_of_base_sepolia(shell):
    """The built-in network, another address by --rpc-url, its USDC; the payee wants two confirmations."""
    port = free_port()
    shell.variables["RPC"] = f"http://127.0.0.1:{port}"
    up = shell.data(f"MICROWALLET_HOME=$A microwallet devnet up --chain-id 84532 --port {port} --json")
    assert up["chainId"] == 84532
    for home in "AB":
        shell(f"MICROWALLET_HOME=${home} microwallet network use base-sepolia")
    shell("MICROWALLET_HOME=$B microwallet network add base-sepolia --confirmations 2")
    shell("MICROWALLET_HOME=$A microwallet account create alice")
    shell.variables["BOB"] = shell.data("MICROWALLET_HOME=$B microwallet account create bob --json")[
        "address"
    ]
    for who, amount in (("alice", "10 ETH"), ("alice", "1000 USDC"), ("$BOB", "1 ETH")):
        shell(f'MICROWALLET_HOME=$A microwallet devnet fund {who} "{amount}" --rpc-url $RPC')
    opened = shell.data(
        'MICROWALLET_HOME=$A microwallet channel open $BOB "10 USDC" --label coffee --yes'
        " --rpc-url $RPC --json"
    )
    assert (opened["chainId"], opened["token"]) == (84532, "0x036CbD53842c5426634e7929541eC2318f3dCF7e")
    early = json.loads(
        shell(
            'MICROWALLET_HOME=$A microwallet pay coffee "0.001 USDC" |'
            " MICROWALLET_HOME=$B microwallet payee accept - --rpc-url $RPC --json",
            exit_code=4,
        )
    )
    assert early["data"]["rejectedByReason"] == {"channel-not-found": 1}
    shell("MICROWALLET_HOME=$A microwallet devnet advance 2 --rpc-url $RPC")
    accepted = shell.data(
        'MICROWALLET_HOME=$A microwallet pay coffee "0.0001 USDC" --count 1000 --each |'
        " MICROWALLET_HOME=$B microwallet payee accept - --rpc-url $RPC --json"
    )
    assert (accepted["accepted"], accepted["rejected"]) == (1000, 0)
    closed = shell.data("MICROWALLET_HOME=$B microwallet payee close --all --yes --rpc-url $RPC --json")
    assert [(one["captured"], one["refunded"]) for one in closed["channels"]] == [("101000", "9899000")]
    (listed,) = shell.data("MICROWALLET_HOME=$A microwallet channel list --all --rpc-url $RPC --json")[
        "channels"
    ]
    assert (listed["status"], listed["chainId"]) == ("finalized", 84532)


@contextmanager
def in_background(shell, line, *, port):
    """A line that ends in `&`: what it starts runs until the block ends, and listens on a port then."""
    process = subprocess.Popen(
        ["bash", "-c", f"exec env {line}"],
        env=shell.variables,
        cwd=shell.folder,
        stdin=subprocess.DEVNULL,
        pass_fds=shell.passed,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while is_free(port):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate()


@pytest.mark.parametrize(
    ("network", "chain_id"),
    [("anvil", 31337), pytest.param("base-sepolia", 84532, marks=pytest.mark.long)],
)
def test_the_lines_over_http_work_as_written(shell, default_port, network, chain_id):
    """A price in front of a web server: opened, paid, paid again, looked at, refused, closed through it; on
    a local chain, and on one with the id of Base Sepolia that has another address."""
    shell(f"MICROWALLET_HOME=$A microwallet devnet up --chain-id {chain_id} --json")
    if network != "anvil":
        shell.variables["MICROWALLET_RPC_URL"] = f"http://127.0.0.1:{default_port}"
        for home in "AB":
            shell(f"MICROWALLET_HOME=${home} microwallet network use {network}")
    shell("MICROWALLET_HOME=$A microwallet account create alice")
    bob = shell.data("MICROWALLET_HOME=$B microwallet account create bob --json")["address"]
    for who, amount in (("alice", "10 ETH"), ("alice", "1000 USDC"), (bob, "1 ETH")):
        shell(f'MICROWALLET_HOME=$A microwallet devnet fund {who} "{amount}"')
    (shell.folder / "index.html").write_text("<p>worth it</p>\n")
    with (
        in_background(shell, "python3 -m http.server 9000 --bind 127.0.0.1", port=9000),
        in_background(
            shell,
            'MICROWALLET_HOME=$B microwallet serve --upstream http://127.0.0.1:9000 --price "0.001 USDC"'
            " --port 8402",
            port=8402,
        ) as gateway,
    ):
        opened = shell.data(
            'MICROWALLET_HOME=$A microwallet fetch http://127.0.0.1:8402/ --deposit "1 USDC" --yes --json'
            "   # opens the channel and pays"
        )
        assert (opened["status"], opened["body"], opened["bodyEncoding"]) == (200, "<p>worth it</p>\n", None)
        payment = opened["payment"]
        assert payment.keys() >= {
            "method", "intent", "channelId", "amount", "cumulativeAmount", "spent", "asset", "payee",
            "receipt",
        }  # fmt: skip
        assert (payment["method"], payment["intent"], payment["payee"]) == ("evm", "session", bob)
        assert (payment["chainId"], payment["receipt"]["chainId"]) == (chain_id, chain_id)
        assert (payment["amount"], payment["spent"], payment["receipt"]["spent"]) == ("1000", "1000", "1000")
        again = shell.data("MICROWALLET_HOME=$A microwallet fetch http://127.0.0.1:8402/ --json")
        assert (again["payment"]["cumulativeAmount"], again["payment"]["channelId"]) == (
            "2000",
            payment["channelId"],
        )
        looked = shell.data("MICROWALLET_HOME=$A microwallet fetch http://127.0.0.1:8402/ --dry-run --json")
        assert (looked["wouldPay"]["amount"], looked["wouldPay"]["payee"]) == ("1000", bob)
        refused = json.loads(
            shell(
                "MICROWALLET_HOME=$A microwallet fetch http://127.0.0.1:8402/"
                ' --max-amount "0.0001 USDC" --json',
                exit_code=4,
            )
        )
        assert refused["error"]["code"] == "above-limit"
        missing = shell.data("MICROWALLET_HOME=$A microwallet fetch http://127.0.0.1:8402/missing --json")
        assert (missing["status"], missing["payment"]["spent"]) == (404, "3000")
        shell.variables["CHANNEL"] = payment["channelId"]
        closed = shell.data("MICROWALLET_HOME=$A microwallet channel close $CHANNEL --yes --json")
        assert (closed["status"], closed["settled"], closed["stage"]) == ("finalized", "3000", "closed")
        gateway.terminate()
        said, _ = gateway.communicate(timeout=30)
        assert gateway.returncode == 0
        assert len([line for line in said.splitlines() if "listening" in line]) == 1
    balances = [
        {row["asset"]: row["onChain"] for row in shell.data(
            f"MICROWALLET_HOME=${home} microwallet balance --json")["balances"]}
        for home in "AB"
    ]  # fmt: skip
    assert [one["USDC"] for one in balances] == ["999997000", "3000"]
