"""The local chain: left running by `devnet up`, and never left behind by anything else."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from local_server import Handler, LocalServer

from microwallet.devnet.local_chain import local_chain
from microwallet.errors import NetworkError, PortTaken
from microwallet.escrow.devnet_notes import process_identity
from microwallet.escrow.rpc import Rpc

OWNER = "0x1111111111111111111111111111111111111111"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def port():
    """A port that is free."""
    return free_port()


@pytest.fixture
def devnet_home(make_home, anvil):
    """A home whose local chains are ended with the test."""
    home = make_home("user", MICROWALLET_ANVIL=str(anvil))
    yield home
    home.run("devnet", "down")


def is_alive(pid: int) -> bool:
    return process_identity(pid) is not None


def until_gone(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_alive(pid)


class TestUp:
    def test_it_leaves_a_chain_with_the_contracts_running(self, devnet_home, port):
        """`up` returns when the chain answers, and the chain stays when the command has ended."""
        data = devnet_home.run("devnet", "up", "--port", port, "--json").data
        assert data["rpcUrl"] == f"http://127.0.0.1:{port}"
        assert data["chainId"] == 31337
        with Rpc([data["rpcUrl"]], timeout=5, chain_id=31337) as rpc:
            for contract in (data["escrowContract"], data["token"]):
                assert len(rpc.call("eth_getCode", [contract, "latest"])) > 1000
        assert os.getsid(data["pid"]) == data["pid"]

    def test_a_home_that_it_makes_is_private(self, devnet_home, port):
        """Keys and ledger come there next: nobody else may read it, and doctor has nothing to say."""
        devnet_home.run("devnet", "up", "--port", port).succeeded()
        assert devnet_home.path.stat().st_mode & 0o777 == 0o700

    def test_what_to_do_next(self, devnet_home, port):
        """An account to pay from, and once there is one, coins for it: the chain has none of an earlier."""
        first = devnet_home.run("devnet", "up", "--port", port).succeeded().stderr
        create, fund = "microwallet account create", "microwallet devnet fund"
        assert first.endswith(f'next: {create} alice && {fund} alice "10 ETH"\n')
        devnet_home.run("account", "create", "carol").succeeded()
        again = devnet_home.run("devnet", "up", "--port", port).succeeded().stderr
        assert again.endswith(f'next: {fund} carol "10 ETH"\n')

    def test_again_it_gives_the_same(self, devnet_home, port):
        """Running it twice is one chain, and both say the same."""
        first = devnet_home.run("devnet", "up", "--port", port, "--json").data
        assert devnet_home.run("devnet", "up", "--port", port, "--json").data == first

    def test_at_once_it_is_one_chain(self, devnet_home, port):
        """Two at the same time queue: both succeed, with one and the same chain."""
        with ThreadPoolExecutor(2) as pool:
            runs = [pool.submit(devnet_home.run, "devnet", "up", "--port", port, "--json") for _ in range(2)]
        assert runs[0].result().data == runs[1].result().data

    def test_a_taken_port_is_named(self, devnet_home):
        """A port in use is exit 3, with the port and the flag that helps."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            failed = devnet_home.run("devnet", "up", "--port", port, "--json")
        assert failed.exit_code == 3
        assert failed.error["code"] == "port-taken"
        assert str(port) in failed.error["message"]
        assert "--port" in failed.error["hint"]

    def test_another_homes_chain_takes_the_port(self, devnet_home, make_home, anvil, port):
        """A chain of another home is left alone, and said to be there."""
        pid = devnet_home.run("devnet", "up", "--port", port, "--json").data["pid"]
        other = make_home("other", MICROWALLET_ANVIL=str(anvil))
        failed = other.run("devnet", "up", "--port", port, "--json")
        assert failed.error["code"] == "port-taken"
        assert "chain id 31337" in failed.error["message"]
        assert other.run("devnet", "down", "--json").data == {"stopped": []}
        assert is_alive(pid)

    def test_a_port_that_another_one_takes_at_the_same_moment_is_taken(
        self, devnet_home, make_home, anvil, port, tmp_path
    ):
        """What answers there is not the chain that was started: exit 3, and that one is left alone."""
        late = tmp_path / "late-anvil"
        late.write_text(f'#!/bin/sh\nsleep 1.5\nexec "{anvil}" "$@"\n')
        late.chmod(0o755)
        other = make_home("other", MICROWALLET_ANVIL=str(late))
        with ThreadPoolExecutor(1) as pool:
            failing = pool.submit(other.run, "devnet", "up", "--port", port, "--json")
            while not (other.path / "devnet" / f"{port}.json").exists():
                time.sleep(0.01)
            pid = devnet_home.run("devnet", "up", "--port", port, "--json").data["pid"]
            failed = failing.result()
        assert (failed.exit_code, failed.error["code"]) == (3, "port-taken")
        assert other.run("devnet", "down", "--json").data == {"stopped": []}
        assert is_alive(pid)

    def test_other_settings_are_refused_while_it_runs(self, devnet_home, port):
        """A running chain is not silently taken for one with another chain id."""
        devnet_home.run("devnet", "up", "--port", port)
        failed = devnet_home.run("devnet", "up", "--port", port, "--chain-id", 84532, "--json")
        assert failed.exit_code == 2
        assert failed.error["hint"] == f"microwallet devnet down --port {port}"

    def test_on_another_port_it_is_found(self, devnet_home, make_home, port):
        """The commands of its home go there while it runs; a line to paste points those of another home at
        it, and is there too where a setting points elsewhere."""
        fund = ("devnet", "fund", OWNER, "1 ETH", "--json")
        said = devnet_home.run("devnet", "up", "--port", port).stderr
        url = f"http://127.0.0.1:{port}"
        assert f"from another home: export MICROWALLET_RPC_URL={url}\n" in said
        devnet_home.run(*fund).succeeded()
        there = make_home("other").run(*fund, env={"MICROWALLET_RPC_URL": url})
        assert there.data["balance"] == str(2 * 10**18)
        elsewhere = {"MICROWALLET_RPC_URL": "http://127.0.0.1:1"}
        again = devnet_home.run("devnet", "up", "--port", port, env=elsewhere).stderr
        assert f"point commands at it: export MICROWALLET_RPC_URL={url}  (or --rpc-url)\n" in again
        devnet_home.run("devnet", "down").succeeded()
        assert "8545" in devnet_home.run("network", "show", "anvil").succeeded().stdout

    def test_the_token_is_where_the_network_knows_it(self, devnet_home, port):
        """With a testnet's chain id the test USDC is at that network's USDC address."""
        data = devnet_home.run("devnet", "up", "--port", port, "--chain-id", 84532, "--json").data
        assert data["token"] == "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
        funded = devnet_home.run(
            *("devnet", "fund", OWNER, "2 USDC", "--network", "base-sepolia"),
            *("--rpc-url", data["rpcUrl"], "--json"),
        )
        assert funded.data["balance"] == "2000000"

    def test_it_is_the_faucet_of_a_testnet_whose_id_it_has(self, devnet_home, port):
        """What is missing there is not had from a website, while commands are pointed at it."""
        url = devnet_home.run("devnet", "up", "--port", port, "--chain-id", 84532, "--json").data["rpcUrl"]
        devnet_home.run("account", "create", "poor").succeeded()
        there = ("--network", "base-sepolia", "--rpc-url", url, "--json")
        poor = devnet_home.run("channel", "open", OWNER, "2 USDC", "--yes", *there)
        assert poor.error["hint"] == 'microwallet devnet fund poor "2 USDC"'
        assert "https://" in devnet_home.run("network", "show", "base-sepolia").stdout

    def test_it_is_the_faucet_of_another_home_too(self, devnet_home, make_home, port):
        """Where commands are pointed at this machine, which may have a node of the testnet itself, too."""
        url = devnet_home.run("devnet", "up", "--port", port, "--chain-id", 84532, "--json").data["rpcUrl"]
        other = make_home("other", MICROWALLET_RPC_URL=url, MICROWALLET_NETWORK="base-sepolia")
        other.run("account", "create", "poor").succeeded()
        hint = other.run("channel", "open", OWNER, "2 USDC", "--yes", "--json").error["hint"]
        assert hint == 'microwallet devnet fund poor "2 USDC"'
        other.run("devnet", "fund", "poor", "2 USDC").succeeded()
        local, *others = other.run("network", "show", "--json").data["faucets"]
        assert local.startswith("microwallet devnet fund")
        away = {"MICROWALLET_RPC_URL": "https://rpc.example"}
        assert other.run("network", "show", "--json", env=away).data["faucets"] == others

    @pytest.mark.parametrize("chain_id", [4242, 1])
    def test_a_chain_that_no_network_is_can_be_added(self, devnet_home, port, chain_id):
        """The line to paste names the test USDC too, and is taken for the id of a mainnet as well."""
        said = devnet_home.run("devnet", "up", "--port", port, "--chain-id", chain_id).stderr
        (line,) = (line for line in said.splitlines() if line.startswith("no network has this chain id"))
        _, _, typed = line.partition("add one: microwallet ")
        devnet_home.run(*typed.split()).succeeded()
        if chain_id == 1:
            devnet_home.run("network", "allow", "devnet", "--confirm", "devnet").succeeded()
        funded = devnet_home.run("devnet", "fund", OWNER, "2 USDC", "--network", "devnet", "--json")
        assert funded.data["balance"] == "2000000"

    def test_a_program_that_is_not_anvil_is_an_error(self, devnet_home, port):
        """A program that ends at once is reported, and no chain is noted."""
        failed = devnet_home.run(
            "devnet", "up", "--port", port, "--json", env={"MICROWALLET_ANVIL": shutil.which("false")}
        )
        assert failed.exit_code == 3
        assert devnet_home.run("devnet", "status", "--json").data["running"] is False

    def test_killed_at_any_moment_it_leaves_nothing_unknown(self, devnet_home, port):
        """SIGKILL during `up`: the next `up` succeeds, and after `down` the port is free."""
        for _ in range(6):
            process = devnet_home.start("devnet", "up", "--port", port, stderr=subprocess.DEVNULL)
            time.sleep(random.uniform(0.1, 0.4))
            process.kill()
            process.wait()
            devnet_home.run("devnet", "up", "--port", port, "--json").succeeded()
            devnet_home.run("devnet", "down", "--json").succeeded()
            with socket.socket() as probe:
                assert probe.connect_ex(("127.0.0.1", port)) != 0


class TestState:
    def test_it_is_forgotten_unless_asked(self, devnet_home, port):
        """Without --state each run starts with an empty chain."""
        url = devnet_home.run("devnet", "up", "--port", port, "--json").data["rpcUrl"]
        devnet_home.run("devnet", "fund", OWNER, "5 USDC", "--rpc-url", url, "--json").succeeded()
        devnet_home.run("devnet", "down")
        devnet_home.run("devnet", "up", "--port", port)
        data = devnet_home.run("devnet", "fund", OWNER, "1 USDC", "--rpc-url", url, "--json").data
        assert data["balance"] == "1000000"

    @pytest.mark.parametrize("ending", ["down", "SIGKILL"])
    def test_it_is_kept_when_asked(self, devnet_home, port, ending):
        """With --state balances survive `down`, and a kill but for the last second."""
        data = devnet_home.run("devnet", "up", "--port", port, "--state", "--json").data
        fund = ("devnet", "fund", OWNER, "5 USDC", "--rpc-url", data["rpcUrl"], "--json")
        assert devnet_home.run(*fund).data["balance"] == "5000000"
        if ending == "down":
            devnet_home.run("devnet", "down")
        else:
            time.sleep(2.5)
            os.kill(data["pid"], signal.SIGKILL)
            assert until_gone(data["pid"])
        devnet_home.run("devnet", "up", "--port", port, "--state", "--json").succeeded()
        assert devnet_home.run(*fund).data["balance"] == "10000000"


class TestDown:
    def test_it_ends_the_chain_and_may_be_repeated(self, devnet_home, port):
        """`down` ends what `up` started; with nothing to end it succeeds too."""
        pid = devnet_home.run("devnet", "up", "--port", port, "--json").data["pid"]
        assert [one["pid"] for one in devnet_home.run("devnet", "down", "--json").data["stopped"]] == [pid]
        assert not is_alive(pid)
        assert devnet_home.run("devnet", "down", "--json").data == {"stopped": []}

    def test_a_reused_pid_is_left_alone(self, devnet_home, port):
        """A note whose pid is another process by now ends nothing."""
        devnet_home.run("devnet", "up", "--port", port)
        devnet_home.run("devnet", "down")
        stranger = subprocess.Popen(["sleep", "60"])
        try:
            note = {
                "port": port,
                "chain_id": 31337,
                "pid": stranger.pid,
                "identity": "boot 1",
                "keeps_state": False,
            }
            (devnet_home.path / "devnet" / f"{port}.json").write_text(json.dumps(note))
            assert devnet_home.run("devnet", "status", "--json").data["running"] is False
            assert devnet_home.run("devnet", "down", "--json").data == {"stopped": []}
            assert stranger.poll() is None
        finally:
            stranger.kill()
            stranger.wait()

    def test_one_port_of_two(self, devnet_home):
        """`--port` ends that chain alone; `status` lists what is left."""
        ports = [free_port(), free_port()]
        for port in ports:
            devnet_home.run("devnet", "up", "--port", port, "--json").succeeded()
        devnet_home.run("devnet", "down", "--port", ports[0])
        again = devnet_home.run("devnet", "down", "--port", ports[0])
        assert again.stdout == f"no local chain of this home was running on port {ports[0]}\n"
        left = devnet_home.run("devnet", "status", "--json").data["devnets"]
        assert [one["port"] for one in left] == [ports[1]]

    def test_which_of_two_is_asked(self, devnet_home):
        """Where one of them is not to be guessed, the hint names one that answers, and so it does where a
        setting points at neither."""
        urls = []
        for port in sorted([free_port(), free_port()]):
            urls.append(f"http://127.0.0.1:{port}")
            devnet_home.run("devnet", "up", "--port", port, "--json").succeeded()
        refused = f"http://127.0.0.1:{free_port()}"
        devnet_home.run("network", "add", "anvil", "--rpc-url", refused).succeeded()
        failed = devnet_home.run("devnet", "fund", OWNER, "1 ETH", "--json")
        assert (failed.exit_code, failed.error["hint"]) == (3, f"--rpc-url {urls[0]}")
        devnet_home.run("devnet", "down", "--port", urls[0].rpartition(":")[2]).succeeded()
        there = devnet_home.run("devnet", "fund", OWNER, "1 ETH", "--rpc-url", refused, "--json")
        assert there.error["hint"] == f"--rpc-url {urls[1]}"


class TestFundAndAdvance:
    def test_amounts_add_up(self, run, make_home, chain):
        """Coins and tokens are added to what is there, and the new balance is told."""
        home = make_home("funded", chain)
        for total in ("10000000000000000000", "20000000000000000000"):
            data = run("devnet", "fund", OWNER, "10 ETH", "--json", home=home).data
            assert data == {
                "address": OWNER,
                "asset": "ETH",
                "decimals": 18,
                "amount": "10000000000000000000",
                "balance": total,
            }
        assert run("devnet", "fund", OWNER, "1000 USDC", "--json", home=home).data["balance"] == "1000000000"
        data = run("devnet", "fund", OWNER, "0.000001 USDC", "--json", home=home).data
        assert (data["asset"], data["amount"], data["balance"]) == ("USDC", "1", "1000000001")

    def test_a_token_may_be_named_by_its_address(self, run, make_home, chain):
        """With --token a bare number is in that token."""
        home = make_home("funded", chain)
        data = run("devnet", "fund", OWNER, "7", "--token", chain.token, "--json", home=home).data
        assert (data["asset"], data["balance"]) == ("USDC", "7000000")

    def test_a_token_that_does_not_mint_is_refused(self, run, make_home, chain):
        """What is no test token, the escrow here, is exit 2 or 3 and gives nothing."""
        home = make_home("funded", chain)
        failed = run("devnet", "fund", OWNER, "7", "--token", chain.escrow_contract, "--json", home=home)
        assert failed.exit_code in (2, 3)

    @pytest.mark.parametrize("amount", ["10", "0 USDC", "-1 ETH", "1 EUR", "0.0000001 USDC", ""])
    def test_a_bad_amount_gives_nothing(self, run, make_home, chain, amount):
        """An amount without a unit, or that is none, is exit 2."""
        failed = run("devnet", "fund", "--json", "--", OWNER, amount, home=make_home("funded", chain))
        assert failed.exit_code == 2

    def test_an_unknown_account_is_named(self, run, make_home, chain):
        """A name that is no account of this home is exit 2."""
        failed = run("devnet", "fund", "nobody", "1 ETH", "--json", home=make_home("funded", chain))
        assert failed.exit_code == 2
        assert "nobody" in failed.error["message"]

    def test_the_clock_moves(self, run, make_home, chain):
        """`advance 15m` mines a block 900 seconds later."""
        before = int(chain.rpc.call("eth_getBlockByNumber", ["latest", False])["timestamp"], 16)
        data = run("devnet", "advance", "15m", "--json", home=make_home("later", chain)).data
        assert data["seconds"] == 900
        assert before + 900 <= data["timestamp"] < before + 1000

    def test_a_chain_that_is_not_anvil_is_refused(self, run):
        """Nothing is sent to a node that does not say it is Anvil."""
        asked = []

        class Geth(Handler):
            def respond(self):
                request = json.loads(self.read_body())
                asked.append(request["method"])
                result = "0x7a69" if request["method"] == "eth_chainId" else "Geth/v1.16.0"
                body = json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}).encode()
                self.answer(200, {}, body)

        with LocalServer(Geth) as server:
            failed = run("devnet", "fund", OWNER, "1 ETH", "--rpc-url", server.url, "--json")
        assert failed.exit_code == 2
        assert "Geth" in failed.error["message"]
        assert set(asked) == {"eth_chainId", "web3_clientVersion"}


class TestLocalChain:
    def test_it_ends_with_its_block(self, anvil):
        """On leaving the block, an error included, the process is gone."""
        pids = []
        with pytest.raises(KeyError), local_chain(anvil) as chain:
            pids.append(chain.pid if is_alive(chain.pid) else None)
            raise KeyError
        assert not is_alive(pids[0])

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
    def test_it_does_not_outlive_a_killed_parent(self, anvil):
        """SIGKILL of the process that holds it ends Anvil as well."""
        program = (
            "import sys, time; from pathlib import Path\n"
            "from microwallet.devnet.local_chain import local_chain\n"
            "with local_chain(Path(sys.argv[1])) as chain: print(chain.pid, flush=True); time.sleep(60)"
        )
        parent = subprocess.Popen([sys.executable, "-c", program, str(anvil)], stdout=subprocess.PIPE)
        with parent.stdout as output:
            pid = int(output.readline())
        assert is_alive(pid)
        parent.kill()
        parent.wait()
        assert until_gone(pid)

    def test_a_taken_port_is_an_error(self, anvil, chain):
        """A port that was asked for and is in use is PortTaken."""
        port = int(chain.rpc_url.rpartition(":")[2])
        with pytest.raises(PortTaken, match=str(port)), local_chain(anvil, port=port):
            pass

    def test_a_program_that_ends_is_an_error(self):
        """A program that does not become a chain is reported with what it said."""
        with pytest.raises(NetworkError, match="ended"), local_chain(Path(shutil.which("false"))):
            pass


def test_two_processes_may_install_anvil_at_once(tmp_path, make_home):
    """From an empty cache both get a whole Anvil; nothing else is left in the cache."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    path = os.pathsep.join(
        folder for folder in os.environ["PATH"].split(os.pathsep) if not (Path(folder) / "anvil").exists()
    )
    cache = tmp_path / "cache"
    homes = [
        make_home(name, MICROWALLET_CACHE=str(cache), PATH=path, HOME=os.environ["HOME"])
        for name in ("one", "two")
    ]
    try:
        with ThreadPoolExecutor(2) as pool:
            runs = [pool.submit(home.run, "devnet", "up", "--port", free_port(), "--json") for home in homes]
        assert [run.result().data["chainId"] for run in runs] == [31337, 31337]
        assert any("installing Anvil" in run.result().stderr for run in runs)
        assert [folder.name for folder in cache.iterdir()] == ["anvil-1.7.1"]
    finally:
        for home in homes:
            home.run("devnet", "down")
