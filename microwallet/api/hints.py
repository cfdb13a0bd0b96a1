"""Hints of errors, as a program can follow them: arguments in place of the flags of a command."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from microwallet.errors import MicrowalletError
from microwallet.http402.paying.deposit_size import DepositAboveLimit
from microwallet.http402.paying.messages import REPEATS

_FLAG = re.compile(r'--([a-z-]+)(?: "?([^"\s][^"]*?)"?)?(?=  |$)')
_ARGUMENTS = {
    "max-amount": 'max_amount="{}"',
    "payee": 'payee="{}"',
    "network": 'network="{}"',
    "no-pay": "a client without a PayingTransport",
}

_WORDS = {
    "--password-file FILE": 'password_file="FILE" to Wallet.open',
    "use -H for credentials": "headers={...} for credentials",
    "the same command as before": "the same call as before",
}

_ONCE = "(the same request again, paid once)"


@contextmanager
def for_programs() -> Iterator[None]:
    """The same errors, with hints that name arguments where a command has flags."""
    try:
        yield
    except MicrowalletError as error:
        if isinstance(error, DepositAboveLimit) and error.in_all is not None:
            error.hint = f'max_deposit="{error.in_all}"'
        elif error.hint is not None and (flag := _FLAG.match(error.hint)) and flag[1] in _ARGUMENTS:
            error.hint = _ARGUMENTS[flag[1]].format(flag[2]) + error.hint[flag.end() :]
        elif error.hint is not None:
            for command, program in _WORDS.items():
                error.hint = error.hint.replace(command, program)
        raise


def by_client(request: httpx.Request) -> None:
    """After a lost answer the hint is what a client sends the request with to have it again."""
    request.extensions.setdefault(REPEATS, lambda key: f'extensions={{"idempotency_key": {key!r}}}  {_ONCE}')


def by_call(key: str) -> str:
    """The same for Wallet.request."""
    return f"idempotency_key={key!r}  {_ONCE}"
