"""The rules that hold for all of the code: who imports whom, what starts fast, what is documented."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
OFF_CHAIN = ["account", "channel", "config", "network", "pay", "payee", "voucher"]
"""Commands with a verb that never sends a transaction; their modules load nothing slow."""


def test_imports_go_one_way():
    """The contracts in pyproject.toml hold: cli, devnet, wallet, ... down to errors, never back."""
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [linter, "--no-cache"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("command", OFF_CHAIN)
def test_off_chain_commands_load_nothing_slow(command, home):
    """The module of a command that works off-chain imports neither web3 nor eth_account."""
    assert not home.imports(command, "--help") & {"web3", "eth_account"}


def test_every_test_says_what_it_shows():
    """A docstring per test; pytest's names alone do not say the behaviour."""
    silent = [
        f"{path.relative_to(REPOSITORY)}:{node.lineno} {node.name}"
        for path in sorted((REPOSITORY / "tests").rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and not ast.get_docstring(node)
    ]
    assert silent == []


def test_modules_stay_readable():
    """No module of the package is longer than 400 lines."""
    long = {
        str(path.relative_to(REPOSITORY)): lines
        for path in sorted((REPOSITORY / "microwallet").rglob("*.py"))
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert long == {}


def test_locks_name_no_registry():
    """The lock files pin every package with hashes and hold no address."""
    locks = sorted((REPOSITORY / "scripts").rglob("*.lock"))
    assert len(locks) == 4
    for lock in locks:
        text = lock.read_text(encoding="utf-8")
        assert "://" not in text
        assert text.count("==") <= text.count("--hash=sha256:")


def test_every_dependency_earns_its_place():
    """Each package the wallet installs is imported by it, and what it imports is declared."""
    modules = {"safe-pysha3": "sha3"}
    declared = {
        modules.get(name, name.replace("-", "_"))
        for line in tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"][
            "dependencies"
        ]
        if (name := re.split(r"[\[<>=!~ ]", line)[0])
    } - {"httptools"}  # imported by uvicorn where it is installed: the parser that ours is a bound for
    imported = set()
    for path in (REPOSITORY / "microwallet").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    foreign = imported - set(sys.stdlib_module_names) - {"microwallet"}
    assert foreign == declared
