"""Reading what a server tells after a payment, whatever it is."""

from __future__ import annotations

import json

import pytest

from microwallet.http402.paying.receipts import read_receipt
from microwallet.http402.wire.encoding import base64url


@pytest.mark.parametrize("name", [b"method", b"more"])
def test_a_receipt_that_nests_deeper_than_python_recurses(name):
    """It is told of as a problem, and nothing is kept of it that could not be shown."""
    for depth in (10, 200, 500, 1000):
        told = read_receipt(base64url(b'{"%s":%s}' % (name, b"[" * depth + b"]" * depth)))
        assert told.problem is not None
        assert told.receipt is None
        json.dumps(told.document)
