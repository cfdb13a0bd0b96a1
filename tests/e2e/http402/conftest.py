"""A payee that serves over HTTP on the local chain."""

from __future__ import annotations

import pytest
from http402.payee_double import Payee, payee_address, serving


@pytest.fixture
def payee(chain):
    """An honest payee, until a test twists it."""
    with serving(Payee(chain=chain, address=payee_address())) as served:
        yield served
