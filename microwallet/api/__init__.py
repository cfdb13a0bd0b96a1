"""What Python programs use: a wallet, transports of httpx, and the middleware that charges."""
