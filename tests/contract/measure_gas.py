"""Gas of the escrow's calls, from receipts of real transactions on a local Anvil, as a JSON table.

Steady state: escrow, payee and payer hold coins of the token before and after, the payer's allowance is
standing (and unlimited), and vouchers are signed by an authorized signer that is neither payer nor payee. The
figures hold all that a sender pays for: the base of 21,000, call data, execution, less refunds. Keys and
salts are fixed, so figures repeat.

Usage: measure_gas.py. Needs web3, and an Anvil: MICROWALLET_ANVIL, or `anvil` on PATH.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eth_abi import encode
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils import keccak
from web3 import HTTPProvider, Web3

REPOSITORY = Path(__file__).resolve().parents[2]
ESCROW = REPOSITORY / "microwallet/escrow/contract/ChannelEscrow.json"
TOKEN = REPOSITORY / "microwallet/devnet/contract/TestUSDC.json"
NATIVE = "0x" + "00" * 20
DEPOSIT = 10_000_000
FIRST_VOUCHER = 1_000
VOUCHER = 1_234_567


@dataclass(frozen=True, slots=True)
class Figure:
    """What a call may cost at most, and what it consists of."""

    target: int
    explanation: str


FIGURES = {
    "open, standing allowance": Figure(
        69_000,
        "base 21,000; call data 1,800; the channel's slot, new, 22,100; event 2,900; the token: 2,600 to "
        "load it, 15,900 for two balance reads and transferFrom; guard 300; the rest is checks and encoding",
    ),
    "open, EIP-3009": Figure(
        98_000,
        "as above, and the token's slot for the used nonce, new, 22,100; its event 1,500; the signature in "
        "call data and its check 5,900; typed data; less the allowance that it does not read",
    ),
    "open, native coin": Figure(
        50_000, "base 21,000; call data 1,600; the channel's slot, new, 22,100; event 2,900; guard 300"
    ),
    "top up": Figure(
        53_000, "as open, but the channel's slot is rewritten (5,000); call data 2,300; event 2,400"
    ),
    "settle": Figure(
        56_500,
        "base 21,000; call data 3,900; the slot rewritten 5,000; signature 3,000; event 2,400; the token: "
        "2,600 to load it, 12,500 for transfer; guard 300; the rest is checks and encoding",
    ),
    "close with refund": Figure(
        66_000,
        "as settle, and a second transfer, whose receiver's slot is rewritten (5,000), event 1,800",
    ),
    "close with refund, native coin": Figure(
        60_000,
        "as settle without the token; two transfers of value at 6,700; the payer's account 2,600",
    ),
    "request close": Figure(
        32_000,
        "base 21,000; call data 2,100; the slot rewritten 5,000; event 2,100; no guard, as it calls nobody",
    ),
    "withdraw": Figure(
        48_500,
        "base 21,000; call data 2,100; the slot rewritten 5,000; event 2,400; the token's transfer 15,100",
    ),
    "one more channel in a batched settle": Figure(
        18_500,
        "call data 4,300; the slot rewritten 5,000; signature 3,000; event 2,400; no transfer of its own",
    ),
}


class Chain:
    """One throw-away Anvil with the escrow and a token; transactions are sent without a signature."""

    def __init__(self, web3: Web3) -> None:
        self.web3 = web3
        self.payer, self.payee, self.signer, self.relayer = (
            Account.from_key(keccak(text=name)) for name in ("payer", "payee", "signer", "relayer")
        )
        self.salts = 0
        for account in (self.payer, self.payee, self.relayer):
            web3.provider.make_request("anvil_setBalance", [account.address, hex(10**20)])
            web3.provider.make_request("anvil_impersonateAccount", [account.address])
        self.escrow = self._deploy(ESCROW)
        self.token = self._deploy(TOKEN)

    def _deploy(self, artifact_file: Path) -> Any:
        artifact = json.loads(artifact_file.read_text())
        create2 = artifact["create2"]
        data = create2["salt"] + artifact["bytecode"][2:]
        self._send({"from": self.relayer.address, "to": create2["factory"], "data": data})
        assert self.web3.eth.get_code(create2["address"]).to_0x_hex() == artifact["deployedBytecode"]
        return self.web3.eth.contract(address=create2["address"], abi=artifact["abi"])

    def _send(self, transaction: dict[str, Any]) -> int:
        hash_ = self.web3.eth.send_transaction(transaction)
        receipt = self.web3.eth.wait_for_transaction_receipt(hash_, poll_latency=0.01)
        assert receipt["status"] == 1, transaction
        return receipt["gasUsed"]

    def call(self, sender: str, function: Any, value: int = 0) -> int:
        """Send a call in a transaction of its own; returns the gas that it used."""
        fields = {"from": sender, "value": value, "gas": 3_000_000, "gasPrice": 10**9}
        return self._send(function.build_transaction(fields))

    def sign(self, account: Any, domain: dict[str, str], type_name: str, members: str, values: list) -> bytes:
        """Sign typed data whose members are given as in its type string."""
        fields = [dict(zip(("type", "name"), member.split(), strict=True)) for member in members.split(",")]
        message = {field["name"]: value for field, value in zip(fields, values, strict=True)}
        chain = {"chainId": self.web3.eth.chain_id}
        return bytes(
            account.sign_message(encode_typed_data(domain | chain, {type_name: fields}, message)).signature
        )

    def voucher(self, channel: tuple, amount: int) -> bytes:
        channel_id = self.escrow.functions.computeChannelId(*channel).call()
        domain = {"name": "EVM Payment Channel", "version": "1", "verifyingContract": self.escrow.address}
        members = "bytes32 channelId,uint128 cumulativeAmount"
        return self.sign(self.signer, domain, "Voucher", members, [channel_id, amount])

    def channel(self, token: str) -> tuple:
        self.salts += 1
        salt = keccak(self.salts.to_bytes(32))
        return (self.payer.address, self.payee.address, token, salt, self.signer.address)

    def open(self, channel: tuple) -> int:
        payer, payee, token, salt, signer = channel
        value = DEPOSIT if token == NATIVE else 0
        return self.call(payer, self.escrow.functions.open(payee, token, DEPOSIT, salt, signer), value)

    def open_with_authorization(self, channel: tuple) -> int:
        payer, payee, token, salt, signer = channel
        nonce = keccak(encode(["address", "address", "address", "bytes32", "address"], channel))
        valid_before = self.web3.eth.get_block("latest")["timestamp"] + 600
        domain = {"name": "USDC", "version": "2", "verifyingContract": token}
        members = "address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce"
        values = [payer, self.escrow.address, DEPOSIT, 0, valid_before, nonce]
        signature = self.sign(self.payer, domain, "ReceiveWithAuthorization", members, values)
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
            self.settle(channel, FIRST_VOUCHER)
        items = [(channel, VOUCHER, VOUCHER, self.voucher(channel, VOUCHER)) for channel in channels]
        return self.call(self.payee.address, self.escrow.functions.settleBatch(items))


def measure(chain: Chain) -> dict[str, int]:
    token, escrow = chain.token, chain.escrow.functions
    payer = chain.payer.address
    for holder in (payer, chain.payee.address):
        chain.call(payer, token.functions.mint(holder, 10**15))
    chain.call(payer, token.functions.approve(chain.escrow.address, 2**256 - 1))
    chain.open(chain.channel(token.address))
    chain.open(chain.channel(NATIVE))

    channel, authorized = chain.channel(token.address), chain.channel(token.address)
    native = chain.channel(NATIVE)
    figures = {
        "open, standing allowance": chain.open(channel),
        "open, EIP-3009": chain.open_with_authorization(authorized),
        "open, native coin": chain.open(native),
        "top up": chain.call(payer, escrow.topUp(channel, DEPOSIT)),
    }
    chain.settle(channel, FIRST_VOUCHER)
    figures |= {
        "settle": chain.settle(channel),
        "close with refund": chain.close(authorized),
        "close with refund, native coin": chain.close(native),
        "request close": chain.call(payer, escrow.requestClose(channel)),
    }
    chain.web3.provider.make_request("evm_increaseTime", [900])
    figures["withdraw"] = chain.call(payer, escrow.withdraw(channel))
    figures["one more channel in a batched settle"] = (chain.settle_batch(10) - chain.settle_batch(2)) // 8
    return figures


def main() -> int:
    anvil = os.environ.get("MICROWALLET_ANVIL", "anvil")
    with subprocess.Popen([anvil, "--port", "0"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = next(line.split()[-1] for line in process.stdout if line.startswith("Listening on"))
            figures = measure(Chain(Web3(HTTPProvider(f"http://{address}"))))
        finally:
            process.terminate()
    table = {
        name: {"gas": gas, "target": FIGURES[name].target, "explanation": FIGURES[name].explanation}
        for name, gas in figures.items()
    }
    print(json.dumps(table, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
