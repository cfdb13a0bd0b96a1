"""What can be wrong with an installation, and the command that mends it."""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from microwallet.errors import MicrowalletError
from microwallet.keys.key_files import Store
from microwallet.wallet import Wallet


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check: ok, or what to type."""

    name: str
    ok: bool
    detail: str
    mend: str | None = None


def diagnose(wallet: Wallet, *, offline: bool) -> list[Finding]:
    """Every check, none of which changes anything."""
    checks: list[tuple[str, Callable[[Wallet], Finding]]] = [
        ("python", _python),
        ("packages", _packages),
        ("files", _files),
        ("keys", _keys),
        ("ledger", _ledger),
    ]
    if not offline:
        checks += [("network", _network), ("escrow", _escrow), ("clock", _clock)]
    return [_tried(name, check, wallet) for name, check in checks]


def _tried(name: str, check: Callable[[Wallet], Finding], wallet: Wallet) -> Finding:
    try:
        return check(wallet)
    except MicrowalletError as error:
        return Finding(name=name, ok=False, detail=error.message, mend=error.hint)


def _python(_: Wallet) -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    return Finding(name="python", ok=sys.version_info >= (3, 11), detail=found)


def _packages(_: Wallet) -> Finding:
    try:
        names = [line.split(";")[0] for line in requires("microwallet") or () if "extra ==" not in line]
    except PackageNotFoundError:
        return Finding(
            name="packages",
            ok=False,
            detail="microwallet itself is not installed, only run from its folder",
            mend="pip install .",
        )
    missing = list(_missing(names))
    return Finding(
        name="packages",
        ok=not missing,
        detail=f"missing: {', '.join(missing)}" if missing else f"{len(names)} installed",
        mend="pip install ." if missing else None,
    )


def _missing(requirements: list[str]) -> Iterator[str]:
    for requirement in requirements:
        name = requirement
        for mark in "<>=!~[ ":
            name = name.split(mark)[0]
        try:
            version(name)
        except PackageNotFoundError:
            yield name


def _files(wallet: Wallet) -> Finding:
    home = wallet.paths.home
    if not home.exists():
        return Finding(name="files", ok=True, detail=f"{home} is not there yet: nothing to protect")
    private = [home, *wallet.paths.keys.rglob("*"), wallet.paths.ledger]
    exposed = [path for path in private if path.exists() and _is_exposed(path)]
    if exposed:
        return Finding(
            name="files",
            ok=False,
            detail=f"others can read {exposed[0]}" + (f" and {len(exposed) - 1} more" if exposed[1:] else ""),
            mend=f"chmod -R go-rwx {home}",
        )
    return Finding(name="files", ok=True, detail=f"{home} is private")


def _is_exposed(path: Path) -> bool:
    return bool(stat.S_IMODE(path.stat().st_mode) & 0o077)


def _keys(wallet: Wallet) -> Finding:
    accounts = wallet.accounts.list()
    if not accounts:
        return Finding(name="keys", ok=True, detail="no account yet: microwallet account create main")
    stores = sorted({account.store for account in accounts})
    named = ", ".join(account.name for account in accounts)
    for account in accounts:
        if account.store is Store.KEYRING:
            wallet.accounts.secret(account.name)
    return Finding(name="keys", ok=True, detail=f"{named} in {' and '.join(stores)}")


def _ledger(wallet: Wallet) -> Finding:
    if not wallet.paths.ledger.exists() and not wallet.paths.ledger.with_suffix(".mark").exists():
        return Finding(name="ledger", ok=True, detail="not there yet")
    problems = wallet.ledger.database.integrity_problems()
    unknown = [one for one in wallet.ledger.channels.list(finalized=False) if not one.voucher_known]
    if problems:
        mend = "keep a copy of the file, put a backup in its place, then: microwallet channel sync"
        return Finding(name="ledger", ok=False, detail="; ".join(problems), mend=mend)
    if unknown:
        detail = f"the highest voucher of {len(unknown)} channels is not known: they do not pay"
        return Finding(name="ledger", ok=False, detail=detail, mend="microwallet channel sync --voucher FILE")
    return Finding(name="ledger", ok=True, detail=str(wallet.paths.ledger))


def _network(wallet: Wallet) -> Finding:
    head = wallet.reader.head()
    return Finding(name="network", ok=True, detail=f"{wallet.network.name}, block {head.number}")


def _escrow(wallet: Wallet) -> Finding:
    from microwallet.escrow.network_check import escrow_found

    return Finding(name="escrow", ok=True, detail=escrow_found(wallet.reader, wallet.network))


def _clock(wallet: Wallet) -> Finding:
    from microwallet.escrow.network_check import CLOCK_SKEW

    behind = wallet.now() - wallet.reader.head().timestamp
    if wallet.rpc.is_local:
        return Finding(name="clock", ok=True, detail="a local chain keeps its own time")
    if behind < -CLOCK_SKEW:
        return Finding(
            name="clock",
            ok=False,
            detail=f"the newest block is {-behind} s in this machine's future",
            mend="timedatectl set-ntp true",
        )
    return Finding(name="clock", ok=True, detail=f"the newest block is {max(0, behind)} s old")
