"""Hints of errors in programs: arguments stand where a command has flags."""

from __future__ import annotations

import pytest

from microwallet.api.hints import for_programs
from microwallet.errors import PaymentRefused


@pytest.mark.parametrize(
    ("hint", "told"),
    [
        ('--max-amount "0.02 USDC"', 'max_amount="0.02 USDC"'),
        (
            "--max-amount AMOUNT  (for all redirects together)",
            'max_amount="AMOUNT"  (for all redirects together)',
        ),
        ("--payee 0x12  (if you know why it changed)", 'payee="0x12"  (if you know why it changed)'),
        ("--network base-sepolia", 'network="base-sepolia"'),
        (
            "--no-pay  (shows what the server says)",
            "a client without a PayingTransport  (shows what the server says)",
        ),
        ("--other x", "--other x"),
        (
            "give --password-file FILE, or set MICROWALLET_PASSWORD_FILE",
            'give password_file="FILE" to Wallet.open, or set MICROWALLET_PASSWORD_FILE',
        ),
        ("the same command as before goes on", "the same call as before goes on"),
        ("microwallet escrow trust 0x12", "microwallet escrow trust 0x12"),
        (None, None),
    ],
)
def test_flags_are_arguments(hint, told):
    """A command to type stays one, and so does a flag that no argument is like."""
    with pytest.raises(PaymentRefused) as refused, for_programs():
        raise PaymentRefused("no", hint=hint)
    assert refused.value.hint == told
