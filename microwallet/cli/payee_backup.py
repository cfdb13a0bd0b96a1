"""`microwallet payee export` and `payee import`: best vouchers to a file and back."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from microwallet.cli.context import open_wallet
from microwallet.cli.options import Json, NetworkName, RpcUrl
from microwallet.cli.payee_accept import rejected_lines, rejected_table
from microwallet.cli.result import Result, writing
from microwallet.cli.source import Vouchers, reading
from microwallet.errors import KeyUnavailable, NetworkError, UsageError
from microwallet.files import shell_path, typed_path
from microwallet.payee.line_stream import take_all
from microwallet.payee.tally import tally_document

if TYPE_CHECKING:
    from microwallet.wallet import Wallet

Target = Annotated[str, typer.Argument(metavar="FILE|-", help="Where to write; - for stdout.")]
ContractSigners = Annotated[
    bool, typer.Option("--allow-contract-signers", help="Take vouchers of ERC-1271 signers too.")
]


def export(
    target: Target = "-",
    all: Annotated[bool, typer.Option("--all", help="Of finalized channels too.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over an existing file.")] = False,
    json: Json = False,
) -> Result:
    """Write the best voucher of each channel, one a line. They are money: keep the file safe."""
    from microwallet.payee.backup import voucher_lines

    with open_wallet() as wallet:
        lines = list(voucher_lines(wallet.ledger.vouchers.list(finalized=all)))
    content = "".join(f"{line}\n" for line in lines)
    if target == "-":
        with writing():
            sys.stdout.write(content)
            sys.stdout.flush()
        raise typer.Exit
    path = typed_path(target)
    _write(path, content, force=force)
    path = path.absolute()
    return Result(
        data={"file": str(path), "vouchers": len(lines)},
        text=f"{_count(lines)} written to {path}",
        notes=["whoever has the file can read what you are owed; only you can cash it"],
    )


def import_(
    source: Vouchers,
    allow_contract_signers: ContractSigners = False,
    network: NetworkName = None,
    rpc_url: RpcUrl = None,
    json: Json = False,
) -> Result:
    """Take back vouchers that were exported; what is better here already stays."""
    from microwallet.accepting import restoration_of

    with open_wallet(network=network, rpc_url=rpc_url) as wallet:
        restoration = restoration_of(wallet, allow_contract_signers=allow_contract_signers)
        with reading(source) as read:
            take_all(restoration, read)
        notes = _refreshed(wallet)
    tally = restoration.tally
    return Result(
        data=tally_document(tally),
        text=f"taken {tally.accepted}, not better than here {tally.duplicates}, rejected {tally.rejected}"
        f"{rejected_table(tally)}",
        error=rejected_lines(tally),
        notes=notes,
    )


def _refreshed(wallet: Wallet) -> list[str]:
    from microwallet.payee.refresh import refresh

    try:
        refresh(wallet.ledger.vouchers, wallet.network.chain_id, wallet.reader_of, now=wallet.now())
    except NetworkError as error:
        return [f"the chain was not asked about the channels ({error.message}): microwallet payee list"]
    return []


def _write(path: Path, content: str, *, force: bool) -> None:
    from microwallet.keys.private_files import create_private_file, replace_private_file

    try:
        if path.exists() and not path.is_file():  # a pipe or a device would be replaced
            raise UsageError(f"{path} is no regular file", hint="microwallet payee export  (prints them)")
        if force:
            replace_private_file(path, content)
        else:
            create_private_file(path, content)
    except FileExistsError:
        raise UsageError(
            f"{path} exists already", hint=f"microwallet payee export {shell_path(path)} --force"
        ) from None
    except OSError as error:
        hint = f"ls -ld {shell_path(path.parent)}"
        raise UsageError(f"{path} cannot be written: {error.strerror}", hint=hint) from error
    except KeyUnavailable as error:
        raise UsageError(error.message, hint=error.hint) from error


def _count(lines: Sequence[str]) -> str:
    return "1 voucher" if len(lines) == 1 else f"{len(lines)} vouchers"
