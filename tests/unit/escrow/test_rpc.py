"""What is understood of a JSON-RPC error, and what an import costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from microwallet.errors import UsageError
from microwallet.escrow.rpc import Rpc, RpcError


def error(message="execution reverted", code=3, data=None):
    return RpcError(message, error_code=code, error_data=data, where="http://node")


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ("0x08c379a0", bytes.fromhex("08c379a0")),
        ("Reverted 0x08c379a0", bytes.fromhex("08c379a0")),
        ({"data": "0x08c379a0"}, bytes.fromhex("08c379a0")),
        ({"originalError": 1, "data": {"data": "0x08c379a0"}}, bytes.fromhex("08c379a0")),
        ({"result": "0x08c379a0"}, bytes.fromhex("08c379a0")),
        ("0x", b""),
        ("0x0", None),
        ("not hexadecimal", None),
        (None, None),
        (17, None),
        ([], None),
        ({"data": None}, None),
    ],
)
def test_revert_data_is_found_wherever_a_server_puts_it(data, found):
    """Nodes wrap a revert's bytes in different ways; nonsense is no data."""
    assert error(data=data).revert_data == found


def test_a_revert_is_told_from_other_errors():
    """Code 3 or the word says that a call was executed and refused."""
    assert error("oops", code=3).is_revert
    assert error("VM Exception: reverted", code=-32000).is_revert
    assert not error("insufficient funds", code=-32000).is_revert


def test_a_network_without_an_address_is_a_usage_error():
    """No address at all is a fault of the configuration, found before anything is asked."""
    with pytest.raises(UsageError, match="no RPC address"):
        Rpc([], timeout=1)


def test_importing_the_reader_loads_no_heavy_library():
    """Off-chain commands read the chain too, so this path stays light."""
    check = (
        "import sys, microwallet.escrow.reader, microwallet.escrow.networks, microwallet.escrow.tokens;"
        "heavy = {'web3', 'eth_account', 'eth_abi', 'urllib3', 'keyring', 'rich', 'asyncio'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
