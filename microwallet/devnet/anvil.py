"""Finds the Anvil program: named, on PATH, or the pinned npm package in the user's cache folder."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from microwallet.domain.ports import Reporter
from microwallet.errors import MissingTool
from microwallet.files import typed_path

VERSION = "1.7.1"
INSTALL_HINT = (
    "install Node.js, whose npm brings Anvil, or Foundry;"
    " or name the program: MICROWALLET_ANVIL=/path/to/anvil"
)
INSTALL_SECONDS = 300

_SYSTEMS = {"linux": "linux", "darwin": "darwin", "win32": "win32"}
_MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
_PUBLISHED = frozenset({"linux-amd64", "linux-arm64", "darwin-amd64", "darwin-arm64", "win32-amd64"})
_INTEGRITY = {
    "linux-amd64": (
        "sha512-+XmShybEaxfCrr0OUUZwYEy2OnYZt5pHH9TzBtLv3+VrK0O/ANuNSVEahqNhKHlgX7GRJ59383ofNhxkRWIYTg=="
    ),
}
"""Hashes of the packages, as npm checks them; the others are pinned by version alone."""


def find_anvil(environment: Mapping[str, str], cache: Path, reporter: Reporter) -> Path:
    """The Anvil program; installs the npm package in `cache` if it is nowhere else.

    Raises MissingTool when none can be had.
    """
    named = environment.get("MICROWALLET_ANVIL")
    if named:
        return _named(typed_path(named))
    on_path = shutil.which("anvil", path=environment.get("PATH"))
    if on_path:
        return Path(on_path).absolute()
    installed = cache / f"anvil-{VERSION}"
    name = _package_name(sys.platform, platform.machine())
    program = installed / "node_modules" / name / "bin" / ("anvil.exe" if "win32" in name else "anvil")
    if not program.exists():
        _install(name, installed, environment, reporter)
    if not os.access(program, os.X_OK):
        raise MissingTool(f"the npm package {name}@{VERSION} holds no program {program}", hint=INSTALL_HINT)
    return program


def _named(program: Path) -> Path:
    if not program.is_file() or not os.access(program, os.X_OK):
        raise MissingTool(
            f"MICROWALLET_ANVIL is {str(program)!r}, which is no program",
            hint="unset MICROWALLET_ANVIL, or let it name Foundry's anvil",
        )
    return program.absolute()


def _package_name(system: str, machine: str) -> str:
    key = f"{_SYSTEMS.get(system, system)}-{_MACHINES.get(machine.lower(), machine)}"
    if key not in _PUBLISHED:
        raise MissingTool(f"there is no Anvil package for {key}", hint=INSTALL_HINT)
    return f"@foundry-rs/anvil-{key}"


def _install(name: str, target: Path, environment: Mapping[str, str], reporter: Reporter) -> None:
    """Install into a new folder, then rename: a killed or a second installation does no harm."""
    npm = shutil.which("npm", path=environment.get("PATH"))
    if npm is None:
        raise MissingTool("Anvil, the local chain, is not installed, and neither is npm", hint=INSTALL_HINT)
    reporter.say(f"installing Anvil {VERSION} in {target} (about 45 MB, once)")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
            _run_npm(npm, name, Path(folder), environment)
            _move(Path(folder) / "package", target)
    except OSError as error:
        raise MissingTool(f"Anvil cannot be kept in {target.parent}: {error}", hint=INSTALL_HINT) from error


def _move(fresh: Path, target: Path) -> None:
    try:
        fresh.rename(target)
    except OSError:
        if not target.is_dir():  # else another process was faster, with the same content
            raise


def _run_npm(npm: str, name: str, folder: Path, environment: Mapping[str, str]) -> None:
    project = folder / "package"
    project.mkdir()
    package = {"private": True, "dependencies": {name: VERSION}}
    entry = {"version": VERSION}
    integrity = _INTEGRITY.get(name.removeprefix("@foundry-rs/anvil-"))
    if integrity:
        entry["integrity"] = integrity
    lock = {
        "lockfileVersion": 3,
        "packages": {"": {"dependencies": package["dependencies"]}, f"node_modules/{name}": entry},
    }
    (project / "package.json").write_text(json.dumps(package))
    (project / "package-lock.json").write_text(json.dumps(lock))
    command = [npm, "ci", "--ignore-scripts", "--no-fund", "--no-audit", "--no-update-notifier"]
    try:
        done = subprocess.run(
            [*command, "--loglevel=error"],
            cwd=project,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise MissingTool(
            f"npm did not bring {name}@{VERSION} within {INSTALL_SECONDS} s", hint=INSTALL_HINT
        ) from error
    if done.returncode:
        raise MissingTool(
            f"npm could not install {name}@{VERSION}: {_reason(done.stderr)}", hint=INSTALL_HINT
        )


def _reason(said: str) -> str:
    """The line of npm's complaint that says why."""
    lines = [line.removeprefix("npm error").strip() for line in said.splitlines() if "npm error" in line]
    telling = [line for line in lines if line and not line.startswith(("code ", "A complete log"))]
    return telling[0][:300] if telling else "it gave no reason"
