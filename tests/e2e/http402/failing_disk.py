"""`microwallet` on a disk that fails while the file FAILING_DISK is there."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from microwallet.cli.main import run
from microwallet.ledger import database

_sync = database._sync


def _fail_or_sync(descriptor: int) -> None:
    if Path(os.environ["FAILING_DISK"]).exists():
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    _sync(descriptor)


if __name__ == "__main__":
    database._sync = _fail_or_sync
    sys.argv[0] = "microwallet"
    run()
