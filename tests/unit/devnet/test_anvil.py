"""Where Anvil is looked for, and what is said when it is nowhere."""

import sys
from pathlib import Path

import pytest

from microwallet.devnet import anvil
from microwallet.devnet.anvil import find_anvil
from microwallet.errors import MissingTool


class Heard:
    """A reporter that remembers."""

    def __init__(self):
        self.lines = []

    def say(self, message):
        self.lines.append(message)


def program(path: Path, content: str = "#!/bin/sh\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(0o755)
    return path


def test_the_named_program_comes_first(tmp_path):
    """MICROWALLET_ANVIL wins over PATH."""
    named = program(tmp_path / "named")
    program(tmp_path / "bin" / "anvil")
    environment = {"MICROWALLET_ANVIL": str(named), "PATH": str(tmp_path / "bin")}
    assert find_anvil(environment, tmp_path / "cache", Heard()) == named


def test_a_named_program_that_is_missing_is_an_error(tmp_path):
    """A wrong MICROWALLET_ANVIL is said, not silently replaced by another Anvil."""
    program(tmp_path / "bin" / "anvil")
    environment = {"MICROWALLET_ANVIL": str(tmp_path / "nowhere"), "PATH": str(tmp_path / "bin")}
    with pytest.raises(MissingTool, match="nowhere") as raised:
        find_anvil(environment, tmp_path / "cache", Heard())
    assert raised.value.exit_code == 2


def test_a_program_on_path_comes_before_the_cache(tmp_path):
    """What the user installed is used; nothing is installed beside it."""
    on_path = program(tmp_path / "bin" / "anvil")
    heard = Heard()
    assert find_anvil({"PATH": str(on_path.parent)}, tmp_path / "cache", heard) == on_path
    assert not (tmp_path / "cache").exists()
    assert heard.lines == []


def test_without_npm_it_says_what_to_install(tmp_path):
    """No Anvil and no npm: exit 2 with what to install, and nothing left behind."""
    with pytest.raises(MissingTool, match="npm") as raised:
        find_anvil({"PATH": str(tmp_path)}, tmp_path / "cache", Heard())
    assert "Node.js" in raised.value.hint
    assert not (tmp_path / "cache").exists()


def test_a_failing_npm_is_quoted_and_leaves_nothing(tmp_path):
    """When npm fails its reason is shown, and the next run starts from nothing."""
    npm = program(
        tmp_path / "bin" / "npm",
        "#!/bin/sh\necho 'npm error code E404' >&2\necho 'npm error no such package' >&2\nexit 1\n",
    )
    with pytest.raises(MissingTool, match="no such package"):
        find_anvil({"PATH": f"{npm.parent}:/usr/bin:/bin"}, tmp_path / "cache", Heard())
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cached_program_needs_no_npm(tmp_path):
    """Once installed it is found again without npm and without a word."""
    name = anvil._package_name(sys.platform, anvil.platform.machine())
    cached = program(tmp_path / f"anvil-{anvil.VERSION}" / "node_modules" / name / "bin" / "anvil")
    heard = Heard()
    assert find_anvil({"PATH": str(tmp_path)}, tmp_path, heard) == cached
    assert heard.lines == []


@pytest.mark.parametrize(
    ("system", "machine", "package"),
    [
        ("linux", "x86_64", "linux-amd64"),
        ("linux", "aarch64", "linux-arm64"),
        ("darwin", "arm64", "darwin-arm64"),
        ("darwin", "x86_64", "darwin-amd64"),
        ("win32", "AMD64", "win32-amd64"),
    ],
)
def test_each_platform_has_its_package(system, machine, package):
    """Python's names for a platform become npm's."""
    assert anvil._package_name(system, machine) == f"@foundry-rs/anvil-{package}"


def test_a_platform_without_a_package_is_named():
    """Where no package is published, the error names the platform."""
    with pytest.raises(MissingTool, match="linux-riscv64"):
        anvil._package_name("linux", "riscv64")
