"""The escrow contract and the only code that talks to a chain."""
