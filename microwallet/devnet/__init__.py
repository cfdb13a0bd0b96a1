"""A local Anvil chain with escrow, a test USDC and funded accounts."""
