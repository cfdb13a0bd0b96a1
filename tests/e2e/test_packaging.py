"""What is released: a wheel and a source distribution that work where nothing else is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
LOCK = REPOSITORY / "scripts" / "requirements.lock"


def command(*words: object, **options: object) -> str:
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The source distribution, and the wheel built from it."""
    folder = tmp_path_factory.mktemp("dist")
    command(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, REPOSITORY)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def installed(distributions, tmp_path_factory):
    """The wheel and its locked dependencies in an environment of their own."""
    folder = tmp_path_factory.mktemp("environment")
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    venv.create(folder, with_pip=uv is None, symlinks=True)
    python = folder / "bin" / "python"
    install = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
    command(*install, "--require-hashes", "-r", LOCK)
    command(*install, "--no-deps", "--no-index", distributions[1])
    return folder / "bin" / "microwallet"


def names(archive: Path) -> set[str]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return set(wheel.namelist())
    with tarfile.open(archive) as sdist:
        return {name.partition("/")[2] for name in sdist.getnames()}


def package_files() -> set[str]:
    """Every file of the package that git knows."""
    listed = command(
        "git", "ls-files", "--cached", "--others", "--exclude-standard", "microwallet", cwd=REPOSITORY
    )
    return {name for name in listed.splitlines() if (REPOSITORY / name).exists()}


def test_both_hold_the_whole_package(distributions):
    """Contracts, artifacts and guides are in the wheel and in the source distribution, like all code."""
    for archive in distributions:
        assert package_files() <= names(archive)
    assert {"tests/conftest.py", "LICENSE", "README.md"} <= names(distributions[0])
    assert not any(name.startswith("tests/") for name in names(distributions[1]))


def test_the_installed_command_tells_its_version(installed, tmp_path):
    """The console script works, and what the wheel asks for is what the lock holds."""
    assert command(installed, "--version", cwd=tmp_path) == "microwallet 0.1.0\n"
    metadata = (
        "import importlib.metadata as m, packaging.requirements as r\n"
        "for text in m.requires('microwallet'):\n"
        "    needed = r.Requirement(text)\n"
        "    assert needed.specifier.contains(m.version(needed.name)), text\n"
    )
    command(installed.with_name("python"), "-c", metadata, cwd=tmp_path)


def test_the_installed_command_runs_the_demo(installed, anvil, tmp_path):
    """In an empty environment the wheel alone runs the whole main job."""
    environment = {
        "PATH": f"{installed.parent}{os.pathsep}/usr/bin{os.pathsep}/bin",
        "HOME": str(tmp_path),
        "MICROWALLET_ANVIL": str(anvil),
    }
    shown = command(installed, "demo", "--payments", 50, "--json", cwd=tmp_path, env=environment)
    data = json.loads(shown)["data"]
    assert (data["payments"], data["onChainTransactions"], data["conserved"]) == (50, 2, True)
