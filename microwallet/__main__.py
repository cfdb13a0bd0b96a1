"""`python -m microwallet`."""

from microwallet.cli.main import run

run()
