"""`microwallet` as `nohup` runs it."""

from __future__ import annotations

import signal
import sys

from microwallet.cli.main import run

if __name__ == "__main__":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    sys.argv[0] = "microwallet"
    run()
