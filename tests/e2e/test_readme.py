"""The README and the guide: every command in them runs, every command there is stands in them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from microwallet.cli.help import TOPICS
from microwallet.cli.main import COMMANDS

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def pasted(home, anvil, tmp_path):
    """Pastes the block of the README with a word in it into a shell; what it said."""

    def paste(word):
        session = next(block for block in BLOCKS if "devnet up" in block and word in block)
        programs = tmp_path / ".venv" / "bin"
        programs.mkdir(parents=True)
        environment = home.environment | {
            "MICROWALLET_ANVIL": str(anvil),
            "TMPDIR": str(tmp_path),
        }
        shell = subprocess.Popen(
            ["bash", "-eo", "pipefail"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=tmp_path,
            pass_fds=home.install(programs),
            start_new_session=True,
            text=True,
        )
        try:
            said, chatter = shell.communicate(session, timeout=300)
        finally:
            with suppress(ProcessLookupError):  # what it left in the background too
                os.killpg(shell.pid, signal.SIGKILL)
        assert shell.returncode == 0, said + chatter
        return said

    return paste


@pytest.mark.usefixtures("default_port")
def test_readme_session(pasted):
    """The session can be pasted line by line into a shell and ends with a settled channel."""
    said = pasted("channel open")
    assert '"cumulativeAmount":"1000"' in said
    assert "accepted 10000, duplicates 0, rejected 0; 1 channel" in said
    assert re.search(r"coffee .* 1\.001 .*finalized", said)
    assert re.search(r"alice\s+USDC\s+998\.999", said)


@pytest.mark.usefixtures("default_port")
def test_readme_session_over_http(pasted):
    """The second session buys an article twice and ends with a channel closed by its payee."""
    said = pasted("microwallet serve")
    assert said.count("an article worth a tenth of a cent\n") == 2
    assert re.search(r"alice\s+USDC\s+999\.998", said)


def test_readme_names_the_two_scripts():
    """The other shell blocks are the two commands of the set-up, and those programs are there."""
    others = [block.strip() for block in BLOCKS if "devnet up" not in block]
    assert others == ["scripts/demo", "scripts/test"]
    assert all(os.access(REPOSITORY / script, os.X_OK) for script in others)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_is_in_the_readme(command):
    """Each command has a row in the README's table."""
    assert re.search(rf"^\| `{command}[ `]", README, flags=re.MULTILINE)


@pytest.mark.parametrize("command", re.findall(r"`microwallet ([a-z][a-z -]*)", README))
def test_commands_named_in_prose_exist(run, command):
    """What the prose tells to type is a command."""
    words = command.split()
    if words[0] == "help":
        assert len(words) == 1 or words[1] in TOPICS
    else:
        assert run(*words, "--help").exit_code == 0


@pytest.mark.parametrize("topic", sorted(TOPICS))
def test_guide_topics(run, topic):
    """`help TOPIC` prints the topic, and no line of it is broken by a terminal of 80 columns."""
    text = run("help", topic, "--json").data["text"]
    assert text.startswith("# ")
    assert [line for line in text.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize(
    ("document", "paths"),
    [
        ("microwallet/guide/selling.md", ["/docs/**", "/articles/*", "/stream", "/ask"]),
        ("README.md", ["/about/**", "/articles/*"]),
    ],
)
def test_the_file_of_a_gateway_is_one(home, tmp_path, document, paths):
    """What the guide and the README show can be saved and sold by."""
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    file = tmp_path / "gateway.toml"
    file.write_text(re.findall(r"```toml\n(.*?)```", text, flags=re.DOTALL)[0])
    home.run("account", "create", "main").succeeded()
    told = home.run("serve", "--config", file, "--dry-run", "--json").data
    assert [route["path"] for route in told["routes"]] == paths


def test_exit_codes_are_those_of_the_errors():
    """README and guide list exactly the exit codes that errors have."""
    from microwallet import errors

    codes = {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.MicrowalletError)
    } | {0}
    guide = (REPOSITORY / "microwallet" / "guide" / "scripting.md").read_text(encoding="utf-8")
    for text in (README, guide):
        table = text.split("| exit code | meaning |")[1].split("\n\n")[0]
        assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, flags=re.MULTILINE)} == codes
