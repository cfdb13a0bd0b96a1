"""Crypto micropayments from a terminal: payment channels, vouchers, one on-chain close."""

__version__ = "0.1.0"
