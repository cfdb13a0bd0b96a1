"""`microwallet escrow`: the contract that holds deposits."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Annotated

import typer

from microwallet.cli.channel_view import transaction_line
from microwallet.cli.command import command, new_group
from microwallet.cli.context import confirm, open_wallet
from microwallet.cli.escrow_allowances import allowances
from microwallet.cli.options import AccountName, DryRun, Json, NetworkName, PasswordFile, RpcUrl, Yes
from microwallet.cli.result import Result
from microwallet.cli.table import named
from microwallet.domain.identifiers import parse_address
from microwallet.errors import TransactionReverted
from microwallet.escrow.artifacts import artifact
from microwallet.escrow.deployment import (
    Deployment,
    deploy_call,
    deployment_of,
    trust_escrow,
    trusted_escrows,
)
from microwallet.wallet import Wallet

app = new_group("The contract that holds deposits.")


@command(app, "show", "microwallet escrow show --network base-sepolia")
def show(network: NetworkName = None, rpc_url: RpcUrl = None, json: Json = False) -> Result:
    """Show where the escrow is, whether its code is there, and which others you trust."""
    with open_wallet(network=network, rpc_url=rpc_url) as wallet:
        return _shown(wallet, deployment_of(wallet.reader, artifact("ChannelEscrow")))


@command(app, "deploy", "microwallet escrow deploy --network base-sepolia --dry-run")
def deploy(
    network: NetworkName = None,
    account: AccountName = None,
    rpc_url: RpcUrl = None,
    password_file: PasswordFile = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> Result:
    """Put the escrow on the chain, if nobody did yet.

    Anyone may deploy it, once a chain: its address is the same everywhere.
    """
    flags = {"network": network, "account": account, "rpc_url": rpc_url, "password_file": password_file}
    with open_wallet(**flags) as wallet, wallet.ledger.turns.turn(f"deploy {wallet.network.chain_id}"):
        try:
            return _deployed(wallet, yes=yes, dry_run=dry_run)
        except TransactionReverted as error:
            found = deployment_of(wallet.reader, artifact("ChannelEscrow"))
            if found is not Deployment.DEPLOYED:
                raise
            # Somebody else was faster.
            shown = _shown(wallet, found)
            return Result(data=shown.data | (error.data or {}), text=shown.text)


command(app, "allowances", "microwallet escrow allowances", "microwallet escrow allowances --revoke")(
    allowances
)


@command(app, "trust", "microwallet escrow trust 0xESCROW --network base-sepolia")
def trust(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="Address of another escrow contract.")],
    network: NetworkName = None,
    yes: Yes = False,
    json: Json = False,
) -> Result:
    """Accept channels of another escrow on this network. Its code can do what it likes with deposits."""
    with open_wallet(network=network) as wallet:
        escrow = parse_address(address)
        chain_id = wallet.network.chain_id
        if escrow not in trusted_escrows(wallet.configuration, chain_id):
            confirm(
                f"trust the escrow {escrow} on {wallet.network.name} with deposits", yes=yes, dry_run=False
            )
            trust_escrow(wallet.configuration, chain_id, escrow)
        trusted = sorted(trusted_escrows(wallet.configuration, chain_id))
    data = {"escrowContract": escrow, "chainId": chain_id, "trusted": trusted}
    return Result(data=data, text=f"{escrow} is trusted on {wallet.network.name}")


def _deployed(wallet: Wallet, *, yes: bool, dry_run: bool) -> Result:
    call = deploy_call(wallet.reader, artifact("ChannelEscrow"))
    if call is None:
        shown = _shown(wallet, Deployment.DEPLOYED)
        return replace(shown, data=shown.data | {"dryRun": True}) if dry_run else shown
    sender = wallet.sender()
    quoted = sender.quote(call, purpose="deploy")
    summary = named(
        [
            ("deploy the escrow", ""),
            ("  escrow", wallet.escrow_contract),
            ("  from", f"{wallet.account.name} {wallet.account.address}"),
            ("  network", wallet.network.described),
            ("  fee", f"at most {wallet.network.coins(quoted.max_cost)}"),
        ]
    )
    if dry_run:
        return Result(data={"dryRun": True, "maxFee": str(quoted.max_cost)}, text=summary)
    confirm(summary, yes=yes)
    receipt = sender.send(call, operation=f"deploy-{secrets.token_hex(8)}", purpose="deploy")
    shown = _shown(wallet, deployment_of(wallet.reader, artifact("ChannelEscrow")))
    data = shown.data | {"transactionHash": receipt.hash, "gasUsed": receipt.gas_used}
    return Result(data=data, text=f"{shown.text}{transaction_line(receipt.hash, receipt.gas_used)}")


def _shown(wallet: Wallet, found: Deployment) -> Result:
    chain_id = wallet.network.chain_id
    trusted = sorted(trusted_escrows(wallet.configuration, chain_id))
    others = [address for address in trusted if address != wallet.escrow_contract]
    data = {
        "escrowContract": wallet.escrow_contract,
        "network": wallet.network.name,
        "chainId": chain_id,
        "status": str(found),
        "trusted": trusted,
    }
    rows = {
        "escrow": wallet.escrow_contract,
        "network": wallet.network.described,
        "status": str(found).replace("-", " "),
        "also trusted": ", ".join(others) or "-",
    }
    text = named(rows.items())
    notes = ["deploy it: microwallet escrow deploy"] if found is Deployment.MISSING else []
    return Result(data=data, text=text, notes=notes)
