"""What tests of many folders begin with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from microwallet.ledger.ledger import Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """An empty ledger."""
    with Ledger.open(tmp_path / "ledger.sqlite3") as opened:
        yield opened
