"""`microwallet doctor`: check this installation; each line is ok or the command that mends it."""

from __future__ import annotations

from typing import Any

from microwallet.cli.command import command, new_group
from microwallet.cli.context import open_wallet
from microwallet.cli.options import Json, NetworkName, Offline, RpcUrl
from microwallet.cli.result import Result
from microwallet.diagnosis import Finding, diagnose
from microwallet.errors import UsageError

app = new_group("Check this installation.")


@command(app, "doctor", "microwallet doctor", "microwallet doctor --offline")
def doctor(
    network: NetworkName = None,
    rpc_url: RpcUrl = None,
    offline: Offline = False,
    json: Json = False,
) -> Result:
    """Check Python, packages, files, keys, ledger, network, escrow and clock."""
    with open_wallet(network=network, rpc_url=rpc_url) as wallet:
        findings = diagnose(wallet, offline=offline)
    bad = [finding for finding in findings if not finding.ok]
    error = None
    if bad:
        error = UsageError(f"{len(bad)} of {len(findings)} checks failed", hint=bad[0].mend)
    return Result(
        data={"checks": [_document(finding) for finding in findings]},
        text="\n".join(_line(finding) for finding in findings),
        error=error,
    )


def _document(finding: Finding) -> dict[str, Any]:
    return {"name": finding.name, "ok": finding.ok, "detail": finding.detail, "mend": finding.mend}


def _line(finding: Finding) -> str:
    mend = f"\n          mend: {finding.mend}" if finding.mend else ""
    return f"{'ok' if finding.ok else 'BAD':<4} {finding.name:<12} {finding.detail}{mend}"
