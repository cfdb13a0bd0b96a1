"""The ledger: one SQLite file that remembers every voucher, channel and transaction."""
