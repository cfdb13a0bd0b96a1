"""Account keys and voucher keys: in the OS keyring, or in encrypted files."""
