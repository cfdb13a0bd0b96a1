"""`microwallet account`, as a process: in scripts, at a terminal, killed, and many at once."""

from __future__ import annotations

import json
import random
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pexpect
import pytest

from microwallet.keys.keystore import encrypt
from microwallet.keys.private_files import create_private_file, make_private_folder

KEY = "11" * 32
ADDRESS = "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"
WORDS = "test test test test test test test test test test test junk"
PASSWORD = "correct horse battery staple"


@pytest.fixture
def terminal(home) -> Callable[..., pexpect.spawn]:
    """Starts `microwallet ARGUMENTS` at a terminal, without a password file."""

    def start(*arguments: str) -> pexpect.spawn:
        environment = {
            name: value for name, value in home.environment.items() if name != "MICROWALLET_PASSWORD_FILE"
        }
        return pexpect.spawn(
            sys.executable,
            ["-m", "microwallet", *arguments],
            env={**environment, "TERM": "dumb"},
            cwd=str(home.path.parent),
            encoding="utf-8",
            timeout=20,
        )

    return start


def ended(child: pexpect.spawn) -> tuple[int, str]:
    """Exit code of a command at a terminal, and what it printed last."""
    child.expect(pexpect.EOF)
    child.close()
    return child.exitstatus, child.before


@pytest.fixture
def alice(home) -> None:
    """An account `alice` with a known key, in a keystore that opens without a second of scrypt."""
    folder = home.path / "keys" / "accounts"
    make_private_folder(folder)
    keystore = encrypt(bytes.fromhex(KEY), PASSWORD, cost=2)
    create_private_file(folder / "alice.json", json.dumps(keystore))


@pytest.mark.usefixtures("alice")
class TestAtAPrompt:
    @pytest.mark.parametrize(
        ("words", "question"),
        [
            (("account", "create", "bob"), "New password for the key of account bob: "),
            (("account", "export", "alice", "--raw"), "Type alice to go on: "),
            (("account", "import", "bob", "--private-key-file", "-"), "Private key: "),
        ],
        ids=["a password", "a name", "a key"],
    )
    @pytest.mark.parametrize(("key", "message"), [("intr", "interrupted"), ("eof", "nothing was typed")])
    def test_it_ends_with_one_plain_line(self, terminal, run, words, question, key, message) -> None:
        """Ctrl-C and Ctrl-D: exit 130, what is said begins a line, and there is no account more."""
        child = terminal(*words)
        child.expect(question)
        time.sleep(0.2)  # until the terminal echoes no more, which flushes what was typed
        getattr(child, f"send{key}")()
        code, said = ended(child)
        assert code == 130
        assert said.replace("^C", "").replace("^D\b\b", "") == f"\r\nerror: {message}\r\n"
        assert [one["name"] for one in run("account", "list", "--json").data["accounts"]] == ["alice"]


class TestCreate:
    def test_a_headless_machine_gets_an_encrypted_file_and_is_told(self, run, home) -> None:
        """Name, address and store on stdout; why it is a file on stderr; no stack trace."""
        created = run("account", "create", "alice", "--json")
        assert created.data["name"] == "alice"
        assert created.data["store"] == "file"
        assert "no OS keyring here" in created.stderr
        assert "Traceback" not in created.stderr
        file = home.path / "keys" / "accounts" / "alice.json"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert {stat.S_IMODE(folder.stat().st_mode) for folder in (home.path, file.parent)} == {0o700}

    def test_the_first_account_is_the_default_and_a_second_is_not(self, run) -> None:
        """Until `use` says otherwise."""
        created = run("account", "create", "alice", "--json").data
        run("account", "create", "bob").succeeded()
        assert run("account", "show", "--json").data == {**created, "default": True}
        accounts = run("account", "list", "--json").data["accounts"]
        assert [(one["name"], one["default"]) for one in accounts] == [("alice", True), ("bob", False)]
        assert run("account", "use", "bob", "--json").data["default"] is True
        assert run("account", "show", "--json").data["name"] == "bob"
        shown = run("account", "list").succeeded().stdout
        assert "\n* bob" in shown
        assert "\n  alice" in shown

    @pytest.mark.usefixtures("alice")
    def test_a_name_is_taken_once(self, run) -> None:
        """Exit 2; the key stays."""
        assert run("account", "create", "alice", "--json").error["exitCode"] == 2
        assert run("account", "show", "alice", "--json").data["address"] == ADDRESS

    def test_without_password_and_terminal_it_fails_and_names_the_flag(self, run) -> None:
        """Exit 6 at once, and nothing is made."""
        failed = run("account", "create", "alice", "--json", env={"MICROWALLET_PASSWORD_FILE": ""})
        assert failed.error["exitCode"] == 6
        assert "--password-file" in failed.error["hint"]
        assert run("account", "list", "--json").data == {"accounts": []}

    def test_the_password_may_come_by_file_descriptor(self, home) -> None:
        """`--password-file <(pass show wallet)` in a shell."""
        shell = 'exec "$0" -m microwallet account create alice --password-file <(echo secret) --json'
        settings = {**home.environment, "MICROWALLET_PASSWORD_FILE": ""}
        done = subprocess.run(
            ["bash", "-c", shell, sys.executable], env=settings, capture_output=True, text=True, check=True
        )
        assert json.loads(done.stdout)["data"]["store"] == "file"

    def test_one_of_many_at_once_wins(self, home, run) -> None:
        """Four processes make the same account: one key, and it opens."""
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda _: home.run("account", "create", "alice", "--json"), range(4)))
        assert sorted(result.exit_code for result in results) == [0] + [2] * 3
        winner = next(result for result in results if result.exit_code == 0)
        shown = run("account", "export", "alice", "--raw", "--confirm", "alice", "--json").data
        assert shown["address"] == winner.data["address"]

    @pytest.mark.parametrize("kills", [4, pytest.param(100, marks=pytest.mark.long)])
    def test_killed_at_any_moment_it_is_there_whole_or_not_at_all(self, home, run, kills: int) -> None:
        """After each SIGKILL the list reads, and what it names opens."""
        for number in range(kills):
            process = home.start(
                "account", "create", f"a{number}", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            time.sleep(random.uniform(0.1, 1.0))
            process.send_signal(signal.SIGKILL)
            process.wait()
        for account in run("account", "list", "--json").data["accounts"]:
            exported = run(
                "account", "export", account["name"], "--raw", "--confirm", account["name"], "--json"
            ).data
            assert exported["address"] == account["address"]


class TestImport:
    def test_from_a_file_and_from_stdin(self, run, tmp_path) -> None:
        """A private key, 64 hexadecimal digits with or without 0x."""
        (tmp_path / "key").write_text(f"0x{KEY}\n")
        imported = run("account", "import", "one", "--private-key-file", tmp_path / "key", "--json")
        assert imported.data["address"] == ADDRESS
        run("account", "remove", "one", "--confirm", "one").succeeded()
        imported = run("account", "import", "two", "--private-key-file", "-", "--json", input=KEY)
        assert imported.data["address"] == ADDRESS

    def test_from_a_mnemonic_with_an_index(self, run) -> None:
        """The second well-known account of Anvil. A key that comes back may have channels: the next command
        finds them, and nothing asks for a copy of what was a copy."""
        imported = run(
            "account", "import", "dev", "--mnemonic-file", "-", "--index", "1", "--json", input=WORDS
        )
        assert imported.data["address"] == "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
        then = "channels that it has on the chain: microwallet channel sync --account dev"
        assert imported.stderr.splitlines()[-1] == then

    def test_from_a_keystore_under_another_password(self, run, tmp_path) -> None:
        """The wallet's own password protects it from then on."""
        from eth_account import Account

        (tmp_path / "key.json").write_text(json.dumps(Account.encrypt(bytes.fromhex(KEY), "theirs")))
        (tmp_path / "theirs").write_text("theirs\n")
        source = ("account", "import", "alice", "--keystore", tmp_path / "key.json", "--json")
        assert run(*source).error["exitCode"] == 6
        imported = run(*source, "--keystore-password-file", tmp_path / "theirs")
        assert imported.data["address"] == ADDRESS
        assert run("account", "export", "alice", "--raw", "--confirm", "alice").stdout == f"0x{KEY}\n"

    @pytest.mark.parametrize(
        ("flag", "content"),
        [
            ("--private-key-file", "deadbeefcafe"),
            ("--private-key-file", "00" * 32),
            ("--private-key-file", "ff" * 32),
            ("--private-key-file", "x" * 100_000),
            ("--mnemonic-file", WORDS.replace("junk", "cafebabe")),
            ("--keystore", '{"secret": "deadbeefcafe"}'),
            ("--keystore", '["deadbeefcafe"'),
        ],
    )
    def test_bad_input_is_refused_without_being_repeated(self, run, flag: str, content: str) -> None:
        """Exit 2, also with --debug, and no account."""
        failed = run("--debug", "account", "import", "alice", flag, "-", input=content)
        assert failed.exit_code == 2
        for secret in ("deadbeefcafe", "cafebabe", "ff" * 32, "xxxx", "test test"):
            assert secret not in failed.stdout + failed.stderr
        assert run("account", "list", "--json").data == {"accounts": []}

    def test_one_source_is_needed(self, run, tmp_path) -> None:
        """Not none, not two, and one that is there."""
        assert run("account", "import", "alice").exit_code == 2
        two = ("--private-key-file", "-", "--mnemonic-file", "-")
        assert run("account", "import", "alice", *two, input=KEY).exit_code == 2
        missing = run("account", "import", "alice", "--keystore", tmp_path / "none")
        assert missing.exit_code == 2
        assert "No such file" in missing.stderr


@pytest.mark.usefixtures("alice")
class TestShow:
    def test_one_account_by_name_or_address(self, run) -> None:
        """The same object either way."""
        shown = run("account", "show", "alice", "--json").data
        assert shown == {"name": "alice", "address": ADDRESS, "store": "file", "default": True}
        assert run("account", "show", ADDRESS.lower(), "--json").data == shown
        assert ADDRESS in run("account", "show").succeeded().stdout

    def test_an_unknown_one_is_not_guessed(self, run) -> None:
        """Exit 2 with what was perhaps meant."""
        error = run("account", "show", "alcie", "--json").error
        assert error["code"] == "not-found"
        assert "did you mean alice?" in error["message"]

    def test_looking_needs_no_password(self, run) -> None:
        """list, show and use touch no secret."""
        for words in (["list"], ["show"], ["use", "alice"]):
            run("account", *words, env={"MICROWALLET_PASSWORD_FILE": "/nonexistent"}).succeeded()


@pytest.mark.usefixtures("alice")
class TestExport:
    def test_a_keystore_opens_elsewhere(self, run) -> None:
        """Bare on stdout, or in the envelope."""
        from eth_account import Account

        for words in ((), ("--output", "-")):
            bare = json.loads(run("account", "export", *words).succeeded().stdout)
            assert Account.decrypt(bare, PASSWORD).hex() == KEY
        data = run("account", "export", "alice", "--json").data
        assert Account.decrypt(data["keystore"], PASSWORD).hex() == KEY

    def test_a_file_is_private_and_never_overwritten(self, run, tmp_path) -> None:
        """Mode 0600; what is there stays."""
        output = tmp_path / "alice.json"
        assert run("account", "export", "--output", output, "--json").data["output"] == str(output)
        assert stat.S_IMODE(output.stat().st_mode) == 0o600
        before = output.read_text()
        again = run("account", "export", "--output", output)
        assert again.exit_code == 2
        assert "exists already" in again.stderr
        assert output.read_text() == before

    def test_a_file_that_cannot_be_written_is_a_wrong_argument(self, run, tmp_path) -> None:
        """No key is locked or missing: exit 2, as of `payee export`, and what shows why."""
        output = tmp_path / "nowhere" / "alice.json"
        refused = run("account", "export", "--output", output, "--json")
        assert (refused.exit_code, refused.error["code"]) == (2, "usage")
        assert refused.error["hint"].startswith(f"ls -ld {output.parent}")

    @pytest.mark.parametrize("confirmation", [(), ("--confirm", "bob"), ("--confirm", "")])
    def test_the_raw_key_needs_the_name(self, run, confirmation) -> None:
        """In a script, by a flag with the account's name."""
        refused = run("--debug", "account", "export", "alice", "--raw", *confirmation)
        assert refused.exit_code == 2
        assert KEY not in refused.stdout + refused.stderr
        named = run("account", "export", "alice", "--raw", "--confirm", "alice", "--json")
        assert named.data["privateKey"] == "0x" + KEY

    def test_a_wrong_password_is_exit_6(self, run, tmp_path) -> None:
        """Without a traceback, and without either password."""
        (tmp_path / "wrong").write_text("mistyped\n")
        failed = run("account", "export", "alice", "--password-file", tmp_path / "wrong", "--json")
        assert failed.error["code"] == "key-unavailable"
        assert "mistyped" not in failed.stdout + failed.stderr
        assert failed.error["hint"] == (
            f"the first line of {tmp_path / 'wrong'} was tried; to try another, give --password-file FILE, or"
            " set MICROWALLET_PASSWORD_FILE"
        )

    def test_a_password_mistyped_at_a_terminal_can_be_typed_again(self, terminal) -> None:
        """The hint says so, and how a file gives it."""
        child = terminal("account", "export", "alice", "--raw", "--confirm", "alice")
        child.expect("Password for the key of account alice: ")
        child.sendline("mistyped")
        code, said = ended(child)
        assert code == 6
        assert said.splitlines()[-2:] == [
            "error: the password of the key of account alice is wrong",
            "hint: type it again; or give --password-file FILE, or set MICROWALLET_PASSWORD_FILE",
        ]

    def test_a_wrong_keystore_password_names_the_flag_for_it(self, run, home, tmp_path) -> None:
        """The password of a keystore from elsewhere has a flag of its own."""
        (tmp_path / "theirs.json").write_text(json.dumps(encrypt(bytes.fromhex(KEY), "theirs", cost=2)))
        failed = run("account", "import", "bob", "--keystore", tmp_path / "theirs.json", "--json")
        assert failed.error["hint"] == (
            f"the first line of {home.password_file} was tried; to try another, give"
            " --keystore-password-file FILE"
        )

    def test_a_damaged_keystore_is_exit_6(self, run, home) -> None:
        """Named with its path; nothing is made in its place."""
        file = home.path / "keys" / "accounts" / "alice.json"
        file.write_text(file.read_text()[:100])
        failed = run("--debug", "account", "export", "alice")
        assert failed.exit_code == 6
        assert f"{file} is damaged" in failed.stderr


@pytest.mark.usefixtures("alice")
class TestPassword:
    def test_it_is_changed(self, run, tmp_path) -> None:
        """The old one stops working, the new one opens the same key."""
        (tmp_path / "new").write_text("brand new\n")
        changed = run("account", "password", "--new-password-file", tmp_path / "new", "--json")
        assert changed.data == {"name": "alice", "address": ADDRESS, "store": "file", "voucherKeys": 0}
        raw = ("account", "export", "alice", "--raw", "--confirm", "alice")
        assert run(*raw).exit_code == 6
        assert run(*raw, "--password-file", tmp_path / "new").succeeded().stdout == f"0x{KEY}\n"

    def test_without_a_new_one_nothing_changes(self, run) -> None:
        """Exit 6, and the flag is named."""
        failed = run("account", "password", "alice", "--json")
        assert failed.error["exitCode"] == 6
        assert failed.error["hint"] == "give --new-password-file FILE"


@pytest.mark.usefixtures("alice")
class TestRemove:
    def test_the_name_is_needed(self, run) -> None:
        """Exit 2 without it, and the account stays."""
        for confirmation in ((), ("--confirm", "bob")):
            assert run("account", "remove", "alice", *confirmation).exit_code == 2
        assert run("account", "show", "alice", "--json").data["address"] == ADDRESS

    def test_it_is_gone_and_no_longer_the_default(self, run, home) -> None:
        """Neither a file nor the setting stays."""
        assert run("account", "remove", ADDRESS, "--confirm", "alice", "--json").data["name"] == "alice"
        assert run("account", "list", "--json").data == {"accounts": []}
        assert list((home.path / "keys" / "accounts").iterdir()) == []
        assert run("account", "create", "carol", "--json").data["name"] == "carol"
        assert run("account", "show", "--json").data["name"] == "carol"


class TestChannels:
    @pytest.fixture
    def payer(self, make_home, chain):
        """A home whose account `alice` has an open channel `coffee`."""
        home = make_home("payer", chain)
        address = home.run("account", "create", "alice", "--json").data["address"]
        chain.node.add_native(address, 10**18)
        chain.node.mint(chain.token, address, 10**7)
        home.run("channel", "open", "0x" + "44" * 20, "10 USDC", "--label", "coffee", "--yes").succeeded()
        return home

    def test_an_account_is_not_removed_while_channels_hold_money(self, payer) -> None:
        """Refused with the channels and what they hold, whatever is typed."""
        refused = payer.run("account", "remove", "alice", "--confirm", "alice", "--json")
        assert refused.exit_code == 2
        assert "coffee holds 10 USDC" in refused.error["message"]
        assert refused.json["data"] == {"atRisk": ["coffee holds 10 USDC"]}
        payer.run("account", "export", "alice").succeeded()

    def test_paying_goes_on_under_a_new_password(self, payer, tmp_path) -> None:
        """The voucher keys change with the account; the old password pays no more."""
        (tmp_path / "new").write_text("brand new\n")
        changed = payer.run("account", "password", "--new-password-file", tmp_path / "new", "--json")
        assert changed.data["voucherKeys"] == 1
        pay = ("pay", "coffee", "0.001 USDC", "--json")
        assert payer.run(*pay).exit_code == 6
        assert payer.run(*pay, "--password-file", tmp_path / "new").data["cumulativeAmount"] == "1000"


class TestTerminal:
    def test_what_is_awaited_is_said(self, terminal) -> None:
        """A person who gives - for a file reads what to type, and how to end it."""
        child = terminal("voucher", "verify", "-")
        child.expect("reading what is typed here; Ctrl-D ends it")
        child.sendline("{}")
        child.sendeof()
        assert ended(child)[0] == 4

    def test_a_password_is_typed_twice_unseen(self, terminal) -> None:
        """The key opens with it; it never appears on the screen."""
        child = terminal("account", "create", "alice")
        child.expect("New password for the key of account alice: ")
        child.sendline("typed-once")
        child.expect("Once more: ")
        child.sendline("typed-twice")
        child.expect("New password")
        child.sendline("typed-right")
        child.expect("Once more: ")
        child.sendline("typed-right")
        code, shown = ended(child)
        assert code == 0
        assert "typed" not in shown
        child = terminal("account", "export", "alice", "--raw", "--confirm", "alice")
        child.expect("Password for the key of account alice: ")
        child.sendline("typed-right")
        assert ended(child)[0] == 0

    @pytest.mark.usefixtures("alice")
    def test_a_password_is_changed(self, terminal) -> None:
        """The old one once, the new one twice."""
        child = terminal("account", "password")
        child.expect("Password for the key of account alice: ")
        child.sendline(PASSWORD)
        for question in ("New password for the key of account alice: ", "Once more: "):
            child.expect(question)
            child.sendline("brand new")
        code, shown = ended(child)
        assert code == 0
        assert "the password of alice is changed" in shown
        assert "brand new" not in shown

    def test_a_private_key_is_typed_unseen(self, terminal, home) -> None:
        """`-` asks for it."""
        child = terminal(
            "account",
            "import",
            "alice",
            "--private-key-file",
            "-",
            "--password-file",
            str(home.password_file),
        )
        child.expect("Private key: ")
        child.sendline(KEY)
        code, shown = ended(child)
        assert code == 0
        assert KEY not in shown
        assert ADDRESS in shown

    @pytest.mark.usefixtures("alice")
    @pytest.mark.parametrize(("typed", "code"), [("alice", 0), ("y", 2), ("", 2)])
    def test_the_raw_key_is_shown_only_after_typing_the_name(self, terminal, home, typed, code) -> None:
        """Nothing but the name will do."""
        child = terminal("account", "export", "alice", "--raw", "--password-file", str(home.password_file))
        child.expect("Type alice to go on: ")
        child.sendline(typed)
        exit_code, shown = ended(child)
        assert exit_code == code
        assert (KEY in shown) == (code == 0)

    @pytest.mark.usefixtures("alice")
    def test_ctrl_c_at_a_prompt_is_130(self, terminal, run) -> None:
        """And changes nothing."""
        child = terminal("account", "remove", "alice")
        child.expect("Type alice to go on: ")
        child.sendintr()
        code, shown = ended(child)
        assert code == 130
        assert "Traceback" not in shown
        run("account", "show", "alice").succeeded()


@pytest.mark.usefixtures("alice")
def test_no_secret_is_ever_printed(run, home, tmp_path) -> None:
    """Key, mnemonic and password: not with --debug, not in failures, not in any file but encrypted."""
    (tmp_path / "wrong").write_text("mistyped\n")
    outputs = [
        run("--debug", "account", *words, input=text)
        for words, text in [
            (["import", "again", "--private-key-file", "-"], KEY),
            (["import", "dev", "--mnemonic-file", "-"], WORDS),
            (["list"], ""),
            (["show", "alice", "--json"], ""),
            (["export", "alice"], ""),
            (["export", "alice", "--password-file", tmp_path / "wrong"], ""),
            (["export", "alice", "--output", "/nonexistent/folder/file"], ""),
            (["password", "alice", "--new-password-file", "/nonexistent"], ""),
        ]
    ]
    shown = "".join(output.stdout + output.stderr for output in outputs)
    written = "".join(file.read_bytes().decode("latin-1") for file in home.path.rglob("*") if file.is_file())
    for secret in (KEY, WORDS, PASSWORD, "mistyped"):
        assert secret not in shown
        assert secret not in written
