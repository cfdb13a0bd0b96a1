"""`microwallet pay`: sign the next vouchers of a channel and print them."""

from __future__ import annotations

import itertools
import shlex
import sys
from json import loads
from typing import Annotated

import typer

from microwallet.cli import completion
from microwallet.cli.command import TakesAmount, help_text, new_group
from microwallet.cli.context import Stderr, open_wallet
from microwallet.cli.options import IdempotencyKey, Json, PasswordFile
from microwallet.cli.result import print_json, streaming, success_envelope
from microwallet.domain.channel import PayerChannel
from microwallet.domain.money import Amount
from microwallet.errors import OutcomeUnknown, UsageError
from microwallet.payer.pay import SignedPayment, new_idempotency_key
from microwallet.payer.pay import pay as pay_channel
from microwallet.payer.pay import resume as resume_payment
from microwallet.wallet import Wallet

app = new_group("Sign the next voucher of a channel.")
_LINES_A_WRITE = 64
_MOST_PAYMENTS = 2**63 - 1


def pay(
    channel: Annotated[
        str | None,
        typer.Argument(
            metavar="CHANNEL", help="Id, prefix, label, or payee.", autocompletion=completion.channels
        ),
    ] = None,
    amount: Annotated[
        str | None, typer.Argument(metavar="AMOUNT", help='Such as "0.001 USDC"; a bare number too.')
    ] = None,
    count: Annotated[
        int | None,
        typer.Option("--count", metavar="N", min=1, help="Make this many payments."),
    ] = None,
    each: Annotated[bool, typer.Option("--each", help="Print every voucher, one a line.")] = False,
    memo: Annotated[
        str | None, typer.Option("--memo", metavar="TEXT", help="A note for your own ledger.")
    ] = None,
    idempotency_key: IdempotencyKey = None,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="KEY", help="Print an earlier payment's vouchers again.")
    ] = None,
    password_file: PasswordFile = None,
    json: Json = False,
) -> None:
    """Sign the next voucher of a channel and print it, one JSON object."""
    if resume is not None and idempotency_key is not None:
        raise UsageError("--resume and --idempotency-key do not go together", hint="name the key once")
    if resume is None and (channel is None or amount is None):
        raise UsageError("pay needs a CHANNEL and an AMOUNT", hint='microwallet pay coffee "0.001 USDC"')
    if count is not None and count > _MOST_PAYMENTS:
        raise UsageError(f"--count is {count}; {_MOST_PAYMENTS} is the most", hint="microwallet pay --help")
    with streaming(enabled=each and json), open_wallet(password_file=password_file) as wallet:
        if resume is not None:
            signed = resume_payment(
                wallet.ledger,
                resume,
                key_of=wallet.voucher_key,
                reference=channel,
                amount=amount,
                count=count,
                memo=memo,
            )
        else:
            signed = _pay(wallet, channel or "", amount or "", count or 1, memo, idempotency_key)
        _print(signed, each=each, as_json=json)
    Stderr().say(_new_state(signed))
    if unspent := _unspent(signed.channel):
        Stderr().say(
            f"{unspent} that was signed before is not spent: pay does not use it, the next fetch from this"
            " payee does"
        )


app.command(
    "pay",
    help=help_text(
        pay,
        'microwallet pay coffee "0.001 USDC"',
        'microwallet pay coffee "0.0001 USDC" --count 1000 --each',
    ),
    cls=TakesAmount,
)(pay)


def _pay(
    wallet: Wallet, channel: str, amount: str, count: int, memo: str | None, idempotency_key: str | None
) -> SignedPayment:
    key = new_idempotency_key() if idempotency_key is None else idempotency_key

    def name_new_key() -> None:
        if idempotency_key is None:
            Stderr().say(f"idempotency key: {key}")

    return pay_channel(
        wallet.ledger,
        channel,
        amount,
        count=count,
        memo=memo,
        idempotency_key=key,
        key_of=wallet.voucher_key,
        before_commit=name_new_key,
        now=wallet.now(),
    )


def _print(signed: SignedPayment, *, each: bool, as_json: bool) -> None:
    out = sys.stdout.buffer
    try:
        if each:
            vouchers = signed.vouchers()
            while lines := list(itertools.islice(vouchers, _LINES_A_WRITE)):
                out.write(("\n".join(lines) + "\n").encode())
        elif as_json:
            voucher = loads(signed.last())
            print_json(success_envelope(voucher | {"idempotencyKey": signed.payment.idempotency_key}))
        else:
            out.write(signed.last().encode() + b"\n")
        out.flush()
    except OSError as error:
        key = shlex.quote(signed.payment.idempotency_key)
        raise OutcomeUnknown(
            f"not all of it could be printed ({error.strerror}), but the payment is committed:"
            f" {_new_state(signed)}; to print it again pays nothing",
            hint=f"microwallet pay --resume {key}{' --each' if each else ''}",
        ) from error


def _unspent(channel: PayerChannel) -> Amount | None:
    """What requests left of what was signed for them. A voucher by hand has to be above all of it."""
    unspent = 0 if channel.state.finalized else channel.authorized - channel.spent
    return Amount(unspent, channel.asset) if unspent else None


def _new_state(signed: SignedPayment) -> str:
    asset, payment = signed.channel.asset, signed.payment
    paid = Amount(payment.step * payment.count, asset)
    left = Amount(payment.deposit - payment.end, asset)
    times = f" in {payment.count} payments" if payment.count > 1 else ""
    return f"authorized {paid}{times} on {signed.channel.name}; {left} left"
