"""Crypto micropayments from a terminal: payment channels, vouchers, one on-chain close.

For programs: `Wallet` and `AsyncWallet` are a wallet's use cases, `PayingTransport` and
`AsyncPayingTransport` make an httpx client pay, `PaymentMiddleware` charges for an ASGI application. The
names of `__all__`, and `microwallet.errors`, are what semantic versioning covers. `microwallet help python`
tells more.
"""

from __future__ import annotations

__version__ = "0.1.0"

__all__ = [
    "AboveLimit",
    "Accepted",
    "Amount",
    "Asset",
    "AsyncPayingTransport",
    "AsyncWallet",
    "Balance",
    "Capture",
    "Channel",
    "HttpPayment",
    "KeyUnavailable",
    "LedgerError",
    "MicrowalletError",
    "NetworkError",
    "OutcomeUnknown",
    "PayingTransport",
    "Payment",
    "PaymentMiddleware",
    "PaymentRefused",
    "TransactionReverted",
    "UsageError",
    "Wallet",
    "payment_of",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from microwallet.api.async_transport import AsyncPayingTransport
    from microwallet.api.async_wallet import AsyncWallet
    from microwallet.api.middleware import PaymentMiddleware
    from microwallet.api.results import Accepted, Balance, Capture, Channel, HttpPayment, Payment
    from microwallet.api.transport import PayingTransport, payment_of
    from microwallet.api.wallet import Wallet
    from microwallet.domain.money import Amount, Asset
    from microwallet.errors import (
        AboveLimit,
        KeyUnavailable,
        LedgerError,
        MicrowalletError,
        NetworkError,
        OutcomeUnknown,
        PaymentRefused,
        TransactionReverted,
        UsageError,
    )

_HOMES = {
    "api.async_transport": ("AsyncPayingTransport",),
    "api.async_wallet": ("AsyncWallet",),
    "api.middleware": ("PaymentMiddleware",),
    "api.results": ("Accepted", "Balance", "Capture", "Channel", "HttpPayment", "Payment"),
    "api.transport": ("PayingTransport", "payment_of"),
    "api.wallet": ("Wallet",),
    "domain.money": ("Amount", "Asset"),
}
"""Where each name lives; those that are not here are errors."""


def __getattr__(name: str) -> object:
    """Load a public name when it is used: `import microwallet` alone costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    home = next((module for module, names in _HOMES.items() if name in names), "errors")
    value: object = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
