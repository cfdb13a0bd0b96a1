"""Gas of every escrow call, from receipts of real transactions on a local Anvil, as a JSON table.

Steady state: escrow, payee and payer hold tokens before and after, the payer's allowance is standing (unlimited), ids,
keys and salts are random, and vouchers are signed by an authorized signer that is neither payer nor payee. Figures hold
everything a sender pays for: the 21,000 base, calldata and execution, less refunds.

Usage: measure_gas.py [ESCROW_ARTIFACT TOKEN_ARTIFACT]. Needs web3 and an Anvil: MICROWALLET_ANVIL, or `anvil` on PATH.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils import keccak
from web3 import HTTPProvider, Web3
from web3.contract import Contract

REPOSITORY = Path(__file__).resolve().parents[2]
ARTIFACTS = (
    REPOSITORY / "microwallet/escrow/contract/ChannelEscrow.json",
    REPOSITORY / "microwallet/devnet/contract/TestUSDC.json",
)
NATIVE = "0x" + "00" * 20
NOBODY = NATIVE
DEPOSIT = 10_000_000
VOUCHER = 1_234_567
CHANNEL_TYPE = "(address,address,address,bytes32,address)"

# What each figure consists of, and the most it may be.
TARGETS = {
    "open, standing allowance": (69_000, "one new slot (22,100), transferFrom, two balance reads, the event"),
    "open, EIP-3009": (98_000, "the above, the token's new nonce slot (22,100) and signature check"),
    "open, native coin": (50_000, "one new slot and the event; nothing but value moves"),
    "top up": (53_000, "one slot rewritten, transferFrom, two balance reads, the event"),
    "settle": (56_500, "one slot rewritten, voucher signature (3,000), one transfer, the event"),
    "close with refund": (66_000, "settle and a second transfer"),
    "close with refund, native coin": (60_000, "settle with two value transfers (9,000 each, less the stipend)"),
    "request close": (32_000, "one slot rewritten, the event"),
    "withdraw": (48_500, "one slot rewritten, one transfer, the event"),
    "one more channel in a batched settle": (18_500, "descriptor and voucher in calldata, signature, slot, event"),
}


class Chain:
    """One throw-away Anvil with the escrow and a token on it; sends from unlocked accounts and returns gas used."""

    def __init__(self, web3: Web3, escrow_artifact: Path, token_artifact: Path) -> None:
        self.web3 = web3
        self.payer, self.payee, self.relayer = (Account.create() for _ in range(3))
        self.signer = Account.create()
        for account in (self.payer, self.payee, self.relayer):
            web3.provider.make_request("anvil_setBalance", [account.address, hex(10**20)])
            web3.provider.make_request("anvil_impersonateAccount", [account.address])
        self.escrow = self._deploy(escrow_artifact)
        self.token = self._deploy(token_artifact)

    def _deploy(self, artifact_file: Path) -> Contract:
        artifact = json.loads(artifact_file.read_text())
        factory, salt = artifact["create2"]["factory"], artifact["create2"]["salt"]
        self.send({"from": self.relayer.address, "to": factory, "data": salt + artifact["bytecode"][2:]})
        address = artifact["create2"]["address"]
        assert self.web3.eth.get_code(address).to_0x_hex() == artifact["deployedBytecode"], artifact_file
        return self.web3.eth.contract(address=address, abi=artifact["abi"])

    def send(self, transaction: dict[str, Any]) -> int:
        receipt = self.web3.eth.wait_for_transaction_receipt(
            self.web3.eth.send_transaction(transaction), poll_latency=0.01
        )
        assert receipt["status"] == 1, transaction
        return receipt["gasUsed"]

    def call(self, sender: str, function: Any, value: int = 0) -> int:
        return self.send(function.build_transaction({"from": sender, "value": value, "gas": 3_000_000, "gasPrice": 10**9}))

    def sign(self, account: Any, verifying_contract: str, domain: tuple[str, str], types: dict, message: dict) -> bytes:
        name, version = domain
        typed = encode_typed_data(
            {"name": name, "version": version, "chainId": self.web3.eth.chain_id, "verifyingContract": verifying_contract},
            types,
            message,
        )
        return bytes(account.sign_message(typed).signature)

    def voucher(self, channel: tuple, amount: int) -> bytes:
        return self.sign(
            self.signer,
            self.escrow.address,
            ("EVM Payment Channel", "1"),
            {"Voucher": [{"name": "channelId", "type": "bytes32"}, {"name": "cumulativeAmount", "type": "uint128"}]},
            {"channelId": self.escrow.functions.computeChannelId(*channel).call(), "cumulativeAmount": amount},
        )

    def channel(self, token: str) -> tuple:
        return (self.payer.address, self.payee.address, token, secrets.token_bytes(32), self.signer.address)

    def open(self, channel: tuple) -> int:
        _, payee, token, salt, signer = channel
        value = DEPOSIT if token == NATIVE else 0
        return self.call(self.payer.address, self.escrow.functions.open(payee, token, DEPOSIT, salt, signer), value)

    def open_with_authorization(self, channel: tuple) -> int:
        payer, payee, token, salt, signer = channel
        words = [bytes.fromhex(part[2:]).rjust(32, b"\0") for part in (payer, payee, token)]
        nonce = keccak(b"".join([*words, salt, bytes.fromhex(signer[2:]).rjust(32, b"\0")]))
        fields = ("from", "address"), ("to", "address"), ("value", "uint256")
        fields += ("validAfter", "uint256"), ("validBefore", "uint256"), ("nonce", "bytes32")
        valid_before = self.web3.eth.get_block("latest")["timestamp"] + 600
        signature = self.sign(
            self.payer,
            token,
            ("USDC", "2"),
            {"ReceiveWithAuthorization": [{"name": name, "type": kind} for name, kind in fields]},
            {
                "from": payer,
                "to": self.escrow.address,
                "value": DEPOSIT,
                "validAfter": 0,
                "validBefore": valid_before,
                "nonce": nonce,
            },
        )
        function = self.escrow.functions.openWithAuthorization(
            payee, token, DEPOSIT, salt, signer, payer, 0, valid_before, nonce, signature
        )
        return self.call(self.relayer.address, function)

    def settle(self, channel: tuple, amount: int = VOUCHER) -> int:
        function = self.escrow.functions.settle(channel, amount, amount, self.voucher(channel, amount))
        return self.call(self.payee.address, function)

    def close(self, channel: tuple) -> int:
        function = self.escrow.functions.close(channel, VOUCHER, VOUCHER, self.voucher(channel, VOUCHER))
        return self.call(self.payee.address, function)

    def settle_batch(self, size: int) -> int:
        channels = [self.channel(self.token.address) for _ in range(size)]
        for channel in channels:
            self.open(channel)
            self.settle(channel, 1_000)
        items = [(channel, VOUCHER, VOUCHER, self.voucher(channel, VOUCHER)) for channel in channels]
        return self.call(self.payee.address, self.escrow.functions.settleBatch(items))


def measure(chain: Chain) -> dict[str, int]:
    token, escrow = chain.token, chain.escrow.functions
    payer, payee = chain.payer.address, chain.payee.address
    for holder in (payer, payee):
        chain.call(payer, token.functions.mint(holder, 10**15))
    chain.call(payer, token.functions.approve(chain.escrow.address, 2**256 - 1))
    chain.open(chain.channel(token.address))
    chain.open(chain.channel(NATIVE))

    figures: dict[str, int] = {}
    channel = chain.channel(token.address)
    figures["open, standing allowance"] = chain.open(channel)
    authorized = chain.channel(token.address)
    figures["open, EIP-3009"] = chain.open_with_authorization(authorized)
    native = chain.channel(NATIVE)
    figures["open, native coin"] = chain.open(native)
    figures["top up"] = chain.call(payer, escrow.topUp(channel, DEPOSIT))
    chain.settle(channel, 1_000)
    figures["settle"] = chain.settle(channel)
    figures["close with refund"] = chain.close(authorized)
    figures["close with refund, native coin"] = chain.close(native)
    figures["request close"] = chain.call(payer, escrow.requestClose(channel))
    chain.web3.provider.make_request("evm_increaseTime", [900])
    figures["withdraw"] = chain.call(payer, escrow.withdraw(channel))
    figures["one more channel in a batched settle"] = (chain.settle_batch(10) - chain.settle_batch(2)) // 8
    return figures


def main() -> int:
    artifacts = tuple(Path(name) for name in sys.argv[1:3]) or ARTIFACTS
    anvil = os.environ.get("MICROWALLET_ANVIL", "anvil")
    process = subprocess.Popen([anvil, "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = next(line.split()[-1] for line in process.stdout if line.startswith("Listening on"))
        figures = measure(Chain(Web3(HTTPProvider(f"http://{address}")), *artifacts))
    finally:
        process.terminate()
        process.wait()
    table = {
        name: {"gas": gas, "target": TARGETS[name][0], "met": gas <= TARGETS[name][0], "why": TARGETS[name][1]}
        for name, gas in figures.items()
    }
    print(json.dumps(table, indent=2))
    return 0 if all(row["met"] for row in table.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
