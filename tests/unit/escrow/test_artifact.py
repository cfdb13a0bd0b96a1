"""The compiled contracts that ship are what their sources compile to, and say where they belong."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from microwallet.domain.identifiers import keccak

REPOSITORY = Path(__file__).parents[3]
ARTIFACTS = {
    "ChannelEscrow": REPOSITORY / "microwallet/escrow/contract/ChannelEscrow.json",
    "TestUSDC": REPOSITORY / "microwallet/devnet/contract/TestUSDC.json",
}
LARGEST_CODE = 24_576
"""EIP-170: no chain takes more bytes."""


@pytest.fixture(params=sorted(ARTIFACTS))
def artifact_text(request):
    """The file of one artifact, as it ships."""
    return ARTIFACTS[request.param].read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed: it brings the compiler")
def test_artifacts_are_not_stale():
    """The pinned compiler makes the very bytes that ship out of the sources beside them."""
    done = subprocess.run(
        [REPOSITORY / "scripts/build_contract", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_artifacts_are_written_in_one_way(artifact_text):
    """Sorted keys and two spaces, so that a rebuilt artifact differs only where the contract does."""
    assert artifact_text == json.dumps(json.loads(artifact_text), indent=2, sort_keys=True) + "\n"


def test_artifacts_say_how_they_were_compiled(artifact_text):
    """Compiler and settings are pinned, and nothing of the build machine is in the code."""
    compiler = json.loads(artifact_text)["compiler"]
    assert compiler["version"].startswith("0.8.37+commit.")
    assert compiler["settings"]["metadata"] == {"appendCBOR": False, "bytecodeHash": "none"}
    assert compiler["settings"]["evmVersion"] == "cancun"


def test_creation_code_ends_in_the_deployed_code(artifact_text):
    """No constructor fills anything in: the code is the same on every chain, and fits on each."""
    artifact = json.loads(artifact_text)
    deployed = artifact["deployedBytecode"].removeprefix("0x")
    assert deployed in artifact["bytecode"]
    assert len(deployed) // 2 <= LARGEST_CODE


def test_address_is_the_factorys(artifact_text):
    """The last 20 bytes of keccak256(0xff, factory, salt, hash of the creation code)."""
    artifact = json.loads(artifact_text)
    factory, salt = artifact["create2"]["factory"], artifact["create2"]["salt"]
    code_hash = keccak(bytes.fromhex(artifact["bytecode"][2:]))
    parts = b"\xff" + bytes.fromhex(factory[2:]) + bytes.fromhex(salt[2:]) + code_hash
    assert artifact["create2"]["address"].lower() == "0x" + keccak(parts)[-20:].hex()
