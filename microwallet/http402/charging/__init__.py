"""The gateway that charges: what a request costs, and whether it is paid."""
