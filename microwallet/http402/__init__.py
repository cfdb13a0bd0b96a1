"""Paying and being paid over HTTP: the Payment scheme (status 402) over channels."""
