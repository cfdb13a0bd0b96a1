"""Keys in a real Secret Service: gnome-keyring on a D-Bus of its own, unlocked, locked, and silent."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pexpect
import pytest

REPOSITORY = Path(__file__).parent.parent.parent
KEYRING_PASSWORD = "of the desktop"
SECRET_SERVICE = "keyring.backends.SecretService.Keyring"

pytestmark = pytest.mark.skipif(
    not (shutil.which("gnome-keyring-daemon") and shutil.which("dbus-daemon")),
    reason="gnome-keyring and dbus are not installed (Debian: apt-get install gnome-keyring dbus)",
)

LOCK = """
import secretstorage
with secretstorage.dbus_init() as bus:
    secretstorage.get_default_collection(bus).lock()
"""
ENTRIES = """
import secretstorage
with secretstorage.dbus_init() as bus:
    for item in secretstorage.get_default_collection(bus).get_all_items():
        print(item.get_attributes()["username"])
"""
SILENT_PROMPTER = """
import time
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import Proxy, open_dbus_connection
bus = open_dbus_connection()
Proxy(message_bus, bus).RequestName("org.gnome.keyring.SystemPrompter")
print("ready", flush=True)
time.sleep(120)
"""
PUT = """
import os, sys
from pathlib import Path
from microwallet.domain.voucher import VoucherKey
from microwallet.keys.key_files import Store
from microwallet.keys.passwords import PasswordSource
from microwallet.keys.voucher_keys import VoucherKeys
folder = Path(os.environ["MICROWALLET_HOME"]) / "keys"
keys = VoucherKeys(folder, PasswordSource(None, None), os.environ, sys.stderr.write)  # as commands do
keys.put("0x" + "22" * 32, VoucherKey(bytes([17]) * 32), Store.KEYRING)
"""
GET = """
import os, sys
from pathlib import Path
from microwallet.keys.passwords import PasswordSource
from microwallet.keys.voucher_keys import VoucherKeys
folder = Path(os.environ["MICROWALLET_HOME"]) / "keys"
keys = VoucherKeys(folder, PasswordSource(None, None), os.environ, sys.stderr.write)  # as commands do
print(keys.get("0x" + "22" * 32).address)
searched = {"keyring.backends.kwallet", "keyring.backends.libsecret", "keyring.backends.macOS"}
print(sorted((searched | {"eth_account", "web3"}) & set(sys.modules)))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Desktop:
    """A home beside a Secret Service; no password file, no terminal."""

    environment: Mapping[str, str]
    program: Path
    passed: tuple[int, ...]
    """What the program must inherit."""

    def run(self, *arguments: object, password: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run `microwallet ARGUMENTS`; `password` is that of encrypted files, by file descriptor."""
        command, flags, descriptors = [str(self.program)], [], list(self.passed)
        if password is not None:
            reader, writer = os.pipe()
            os.write(writer, password.encode())
            os.close(writer)
            command = [sys.executable, "-m", "microwallet"]
            flags, descriptors = ["--password-file", f"/dev/fd/{reader}"], [reader]
        done = subprocess.run(
            [*command, *(str(one) for one in arguments), *flags],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            pass_fds=descriptors,
            check=False,
        )
        for descriptor in set(descriptors) - set(self.passed):
            os.close(descriptor)
        assert "Traceback" not in done.stderr
        return done

    def data(self, *arguments: object, **options: Any) -> dict[str, Any]:
        """The data of a command run with --json that must succeed."""
        done = self.run(*arguments, "--json", **options)
        assert done.returncode == 0, done
        return json.loads(done.stdout)["data"]

    def python(self, code: str) -> str:
        """What a Python program beside this Secret Service prints."""
        done = subprocess.run(
            [sys.executable, "-c", code], env=self.environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    def lock(self) -> None:
        """Lock the keyring, as a desktop does when its user leaves."""
        self.python(LOCK)

    def unlock(self) -> None:
        """Unlock the keyring, as logging in does."""
        subprocess.run(
            ["gnome-keyring-daemon", "--replace", "--unlock", "--components=secrets"],
            input=KEYRING_PASSWORD,
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        )

    def entries(self) -> list[str]:
        """The names of all entries of the keyring."""
        return self.python(ENTRIES).splitlines()


@pytest.fixture
def bus() -> Iterator[dict[str, str]]:
    """The environment of a desktop with a D-Bus of its own, ended with the test."""
    with tempfile.TemporaryDirectory(prefix="mw-") as folder:  # a socket's path must be short
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": folder,
            "XDG_RUNTIME_DIR": folder,
            "MICROWALLET_HOME": f"{folder}/home",
            "PYTHONPATH": str(REPOSITORY),
        }
        daemon = subprocess.Popen(
            ["dbus-daemon", "--session", "--nofork", "--print-address=1"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            yield {**environment, "DBUS_SESSION_BUS_ADDRESS": daemon.stdout.readline().strip()}
        finally:
            daemon.terminate()
            daemon.communicate()


@pytest.fixture
def make_desktop(home: Any, tmp_path: Path) -> Callable[[Mapping[str, str]], Desktop]:
    """Makes a desktop of an environment."""
    passed = home.install(tmp_path)
    return lambda environment: Desktop(
        environment=environment, program=tmp_path / "microwallet", passed=passed
    )


@pytest.fixture
def desktop(bus: dict[str, str], make_desktop: Callable[[Mapping[str, str]], Desktop]) -> Iterator[Desktop]:
    """A home beside an unlocked Secret Service."""
    daemon = subprocess.Popen(
        ["gnome-keyring-daemon", "--foreground", "--unlock", "--components=secrets"],
        env=bus,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        daemon.stdin.write(KEYRING_PASSWORD)
        daemon.stdin.close()
        daemon.stdin = None
        desktop = make_desktop(bus)
        _wait_for(lambda: desktop.python("import keyring; print(keyring.get_keyring())"))
        yield desktop
    finally:
        daemon.terminate()
        daemon.communicate()


@pytest.fixture
def silent_prompter(desktop: Desktop) -> Iterator[None]:
    """A desktop whose question to unlock the keyring nobody answers."""
    prompter = subprocess.Popen(
        [sys.executable, "-c", SILENT_PROMPTER], env=desktop.environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert prompter.stdout.readline() == "ready\n"
        yield
    finally:
        prompter.kill()
        prompter.communicate()


def _wait_for(backend: Any) -> None:
    deadline = time.monotonic() + 10
    while "SecretService" not in backend():
        assert time.monotonic() < deadline, "gnome-keyring did not start"
        time.sleep(0.05)


def test_a_key_goes_into_the_keyring_without_a_password(desktop: Desktop) -> None:
    """Created, exported and removed; the file in the home only points to it."""
    created = desktop.data("account", "create", "alice")
    assert created["store"] == "keyring"
    pointer = json.loads(
        Path(desktop.environment["MICROWALLET_HOME"], "keys/accounts/alice.json").read_text()
    )
    assert pointer["backend"] == SECRET_SERVICE
    assert desktop.entries() == [pointer["entry"]]
    exported = desktop.data("account", "export", "alice", "--raw", "--confirm", "alice")
    assert exported["privateKey"].removeprefix("0x") not in json.dumps(pointer)
    desktop.run("account", "remove", "alice", "--confirm", "alice")
    assert desktop.entries() == []


def test_a_key_in_the_keyring_is_exported_under_a_new_password(desktop: Desktop) -> None:
    """And has no password of ours to change."""
    from eth_account import Account

    desktop.data("account", "create", "alice")
    keystore = desktop.data("account", "export", "alice", password="for the copy")["keystore"]
    raw = desktop.data("account", "export", "alice", "--raw", "--confirm", "alice")["privateKey"]
    assert "0x" + bytes(Account.decrypt(keystore, "for the copy")).hex() == raw
    assert desktop.run("account", "export", "alice").returncode == 6
    assert desktop.run("account", "password", "alice").returncode == 2


def test_two_homes_keep_their_keys_apart(desktop: Desktop) -> None:
    """One Secret Service, the same name twice: two entries, each for its own."""
    other = dataclasses.replace(
        desktop,
        environment={**desktop.environment, "MICROWALLET_HOME": desktop.environment["HOME"] + "/other"},
    )
    ours, theirs = desktop.data("account", "create", "alice"), other.data("account", "create", "alice")
    assert ours["address"] != theirs["address"]
    assert len(desktop.entries()) == 2
    other.data("account", "remove", "alice", "--confirm", "alice")
    assert desktop.data("account", "export", "--raw", "--confirm", "alice")["address"] == ours["address"]


def test_a_locked_keyring_is_exit_6_with_an_instruction(desktop: Desktop) -> None:
    """Nobody is there to unlock it: said at once, and well again when it is unlocked."""
    export = ("account", "export", "alice", "--raw", "--confirm", "alice", "--json")
    desktop.data("account", "create", "alice")
    desktop.lock()
    refused = desktop.run(*export)
    error = json.loads(refused.stdout)["error"]
    assert (refused.returncode, error["code"]) == (6, "key-unavailable")
    assert "the OS keyring is locked" in error["message"]
    assert "gnome-keyring-daemon --replace --unlock" in error["hint"]
    assert desktop.run("account", "remove", "alice", "--confirm", "alice").returncode == 6
    assert desktop.data("account", "show", "alice")["store"] == "keyring"
    desktop.unlock()
    assert desktop.run(*export).returncode == 0


def test_a_new_key_beside_a_locked_keyring_goes_into_a_file(desktop: Desktop) -> None:
    """With a password; without one it is exit 6, and either way the reason is said."""
    desktop.lock()
    refused = desktop.run("account", "create", "alice")
    assert refused.returncode == 6
    assert (
        "the OS keyring is locked, so the key of account alice goes into an encrypted file" in refused.stderr
    )
    assert desktop.data("account", "create", "alice", password="pw")["store"] == "file"
    desktop.unlock()
    assert desktop.entries() == []


@pytest.mark.usefixtures("silent_prompter")
def test_a_question_nobody_answers_does_not_hang(desktop: Desktop) -> None:
    """The desktop waits for its user for ever; a command in a script does so for seconds."""
    desktop.data("account", "create", "alice")
    desktop.lock()
    started = time.monotonic()
    refused = desktop.run("account", "export", "alice", "--raw", "--confirm", "alice")
    assert time.monotonic() - started < 10
    assert refused.returncode == 6
    assert "waiting for the OS keyring to be unlocked" in refused.stderr
    assert "does not answer within" in refused.stderr
    assert desktop.data("account", "create", "bob", password="pw")["store"] == "file"


@pytest.mark.usefixtures("silent_prompter")
def test_ctrl_c_ends_the_wait_at_a_terminal(desktop: Desktop) -> None:
    """Where somebody may answer the wait is longer, and can be cut short: 130."""
    desktop.data("account", "create", "alice")
    desktop.lock()
    child = pexpect.spawn(
        sys.executable,
        ["-m", "microwallet", "account", "export", "alice", "--raw", "--confirm", "alice"],
        env={**desktop.environment, "TERM": "dumb"},
        timeout=20,
        encoding="utf-8",
    )
    child.expect("waiting for the OS keyring to be unlocked, 60 s at most")
    child.kill(signal.SIGINT)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    assert "Traceback" not in child.before


def test_a_bus_without_a_secret_service_is_no_keyring(
    bus: dict[str, str], make_desktop: Callable[[Mapping[str, str]], Desktop]
) -> None:
    """The file takes its place; so it does where there is no bus, or a dead one."""
    for address in ("unix:path=/nonexistent", ""):
        desktop = make_desktop({**bus, "DBUS_SESSION_BUS_ADDRESS": address})
        created = desktop.run("account", "create", "alice", "--json", password="pw")
        assert json.loads(created.stdout)["data"]["store"] == "file"
        assert "no OS keyring here" in created.stderr
        assert desktop.run("account", "remove", "alice", "--confirm", "alice").returncode == 0


def test_a_voucher_key_loads_without_a_search_for_back_ends(desktop: Desktop) -> None:
    """What `pay` does: the one back end that has the key is loaded, no other, and no web3."""
    desktop.python(PUT)
    assert desktop.python(GET).splitlines() == ["0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A", "[]"]


def test_paying_with_a_key_in_the_keyring(desktop: Desktop, chain) -> None:
    """Open and pay without a password; locked, nothing is signed and nothing is lost."""
    wallet = dataclasses.replace(
        desktop, environment={**desktop.environment, "MICROWALLET_RPC_URL": chain.rpc_url}
    )
    payee = "0x" + "44" * 20
    address = wallet.data("account", "create", "alice")["address"]
    chain.node.add_native(address, 10**18)
    chain.node.mint(chain.token, address, 10**7)
    wallet.data("channel", "open", payee, "10 USDC", "--label", "coffee", "--yes")
    assert len(wallet.entries()) == 2
    pay = ("pay", "coffee", "0.001 USDC")
    assert wallet.data(*pay)["cumulativeAmount"] == "1000"
    wallet.lock()
    refused = wallet.run(*pay)
    assert (refused.returncode, refused.stdout) == (6, "")
    assert "the OS keyring is locked" in refused.stderr
    wallet.unlock()
    assert wallet.data(*pay)["cumulativeAmount"] == "2000"
