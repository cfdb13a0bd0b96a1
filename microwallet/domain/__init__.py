"""The rules of payment channels, pure: no I/O, no clock, no web3."""
