"""What can be wrong with an installation, and the command that mends it."""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from microwallet.errors import LedgerCorrupt, MicrowalletError, NetworkError, UsageError, VoucherUnknown
from microwallet.files import shell_path
from microwallet.keys.key_files import Store
from microwallet.wallet import Wallet

_RESTORE = "put a backup in its place, then: microwallet channel sync"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check: ok, or what to type."""

    name: str
    ok: bool
    detail: str
    mend: str | None = None


def diagnose(wallet: Wallet, *, offline: bool) -> list[Finding]:
    """Every check, none of which changes anything."""
    checks: dict[str, Callable[[Wallet], str]] = {
        "python": _python,
        "packages": _packages,
        "files": _files,
        "keys": _keys,
        "ledger": _ledger,
    }
    if not offline:
        checks |= {"network": _network, "escrow": _escrow, "clock": _clock}
    return [_tried(name, check, wallet) for name, check in checks.items()]


def _tried(name: str, check: Callable[[Wallet], str], wallet: Wallet) -> Finding:
    """What a check found: what it says, or what it raised, whose hint mends it."""
    try:
        return Finding(name=name, ok=True, detail=check(wallet))
    except MicrowalletError as error:
        return Finding(name=name, ok=False, detail=error.message, mend=error.hint)


def _python(_: Wallet) -> str:
    return ".".join(map(str, sys.version_info[:3]))


def _packages(_: Wallet) -> str:
    try:
        names = [line.split(";")[0] for line in requires("microwallet") or () if "extra ==" not in line]
    except PackageNotFoundError:
        raise UsageError(
            "microwallet itself is not installed, only run from its folder", hint="pip install ."
        ) from None
    if missing := list(_missing(names)):
        raise UsageError(f"missing: {', '.join(missing)}", hint="pip install .")
    return f"{len(names)} installed"


def _missing(requirements: list[str]) -> Iterator[str]:
    for requirement in requirements:
        name = requirement
        for mark in "<>=!~[ ":
            name = name.split(mark)[0]
        try:
            version(name)
        except PackageNotFoundError:
            yield name


def _files(wallet: Wallet) -> str:
    home = wallet.paths.home
    if not home.exists():
        return f"{home} is not there yet: nothing to protect"
    private = [home, *wallet.paths.keys.rglob("*"), wallet.paths.ledger]
    exposed = [path for path in private if path.exists() and _is_exposed(path)]
    if exposed:
        more = f" and {len(exposed) - 1} more" if exposed[1:] else ""
        raise UsageError(f"others can read {exposed[0]}{more}", hint=f"chmod -R go-rwx {shell_path(home)}")
    return f"{home} is private"


def _is_exposed(path: Path) -> bool:
    return bool(stat.S_IMODE(path.stat().st_mode) & 0o077)


def _keys(wallet: Wallet) -> str:
    accounts = wallet.accounts.list()
    if not accounts:
        return "no account yet: microwallet account create main"
    stores = sorted({account.store for account in accounts})
    named = ", ".join(account.name for account in accounts)
    for account in accounts:
        if account.store is Store.KEYRING:
            wallet.accounts.secret(account.name)
    return f"{named} in {' and '.join(stores)}"


def _ledger(wallet: Wallet) -> str:
    if not wallet.paths.ledger.exists() and not wallet.paths.ledger.with_suffix(".mark").exists():
        if count := len(wallet.voucher_keys):
            raise LedgerCorrupt(
                f"the ledger is gone, voucher keys of {count} channels are here", hint=_RESTORE
            )
        return "not there yet"
    problems = wallet.ledger.database.integrity_problems()
    unknown = [one for one in wallet.ledger.channels.list(finalized=False) if not one.voucher_known]
    if problems:
        raise LedgerCorrupt("; ".join(problems), hint=f"keep a copy of the file, {_RESTORE}")
    if unknown:
        raise VoucherUnknown(
            f"the highest voucher of {len(unknown)} channels is not known: they do not pay",
            hint="microwallet channel sync --voucher FILE",
        )
    return str(wallet.paths.ledger)


def _network(wallet: Wallet) -> str:
    return f"{wallet.network.name}, block {wallet.reader.head().number}"


def _escrow(wallet: Wallet) -> str:
    from microwallet.escrow.network_check import escrow_found

    return escrow_found(wallet.reader, wallet.network)


def _clock(wallet: Wallet) -> str:
    from microwallet.escrow.network_check import CLOCK_SKEW

    behind = wallet.now() - wallet.reader.head().timestamp
    if wallet.rpc.is_local:
        return "a local chain keeps its own time"
    if behind < -CLOCK_SKEW:
        raise NetworkError(
            f"the newest block is {-behind} s in this machine's future", hint="timedatectl set-ntp true"
        )
    return f"the newest block is {max(0, behind)} s old"
