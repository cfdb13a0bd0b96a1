"""The notes a home has of its local chains: `devnet up` writes them, the network `anvil` is found by them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from microwallet.errors import UsageError
from microwallet.files import shell_path

LOCAL_CHAIN_ID = 31337
"""Of the network `anvil`, and of what `devnet up` starts unless it is told another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Devnet:
    """A local chain of this home: its process, and what is on it."""

    port: int
    chain_id: int
    pid: int
    identity: str
    """Tells the process from a later one with the same pid."""
    keeps_state: bool
    escrow_contract: str | None = None
    token: str | None = None
    """Where the contracts are; None until they are deployed."""

    @property
    def rpc_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def is_running(self) -> bool:
        """Whether its process, and not another one under its pid, is alive."""
        return process_identity(self.pid) == self.identity


def running_devnets(folder: Path) -> list[Devnet]:
    """The local chains noted in a home's folder that are alive, lowest port first."""
    notes = (read_note(path) for path in folder.glob("*.json"))
    return sorted((note for note in notes if note and note.is_running), key=lambda note: note.port)


def devnets_of_chain(folder: Path, chain_id: int) -> list[Devnet]:
    """The local chains with this id that are alive, lowest port first; none where a note is broken."""
    try:
        return [devnet for devnet in running_devnets(folder) if devnet.chain_id == chain_id]
    except UsageError:
        return []


def only_devnet(folder: Path, chain_id: int) -> Devnet | None:
    """The one local chain with this id that is alive; None where there is none, or no telling which."""
    found = devnets_of_chain(folder, chain_id)
    return found[0] if len(found) == 1 else None


def read_note(path: Path) -> Devnet | None:
    """What a note says; None if there is none. UsageError for one that cannot be read."""
    try:
        return Devnet(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, TypeError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read: {error}",
            hint=f"end that Anvil by hand if it runs, then: rm {shell_path(path)}",
        ) from error


def process_identity(pid: int) -> str | None:
    """What tells a process from a later one with the same number; None once it has ended."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            return None
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return None if fields[0] in "ZX" else f"{boot} {fields[19]}"
    import subprocess

    shown = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.split(maxsplit=1)
    return None if len(shown) != 2 or shown[0].startswith("Z") else shown[1].strip()
