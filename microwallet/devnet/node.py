"""What a local Anvil does that no other chain does: unlocked accounts, free coins, a movable clock."""

from __future__ import annotations

from dataclasses import dataclass

from microwallet.domain.identifiers import Address, TxHash, hexed, word
from microwallet.errors import NetworkError, TransactionReverted, UsageError
from microwallet.escrow.artifacts import Artifact, artifact
from microwallet.escrow.deployment import deploy_call
from microwallet.escrow.network import built_in_networks
from microwallet.escrow.reader import EscrowReader, Head, selector
from microwallet.escrow.rpc import Rpc
from microwallet.polling import polls

RECEIPT_SECONDS = 20
DEPLOYMENT_GAS = 6_000_000

_MINT = selector("mint(address,uint256)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contracts:
    """Where the escrow and the test USDC are on a local chain."""

    escrow_contract: Address
    token: Address


class AnvilNode:
    """An Anvil behind an Rpc. Everything here is refused by a node that is not Anvil."""

    def __init__(self, rpc: Rpc) -> None:
        self.rpc = rpc
        self._reader = EscrowReader(rpc, artifact("ChannelEscrow").address)

    def require_anvil(self) -> None:
        """UsageError unless the node is an Anvil: funds cannot be made up anywhere else."""
        version = self.rpc.call("web3_clientVersion")
        if not isinstance(version, str) or not version.lower().startswith("anvil/"):
            raise UsageError(
                f"{self.rpc.shown} is {str(version)[:80]!r}, not Anvil: this works on a local chain alone",
                hint="microwallet devnet up, then microwallet network use anvil",
            )

    def deploy_contracts(self, chain_id: int) -> Contracts:
        """Put escrow and test USDC on the chain, where they are not there already.

        The token gets the address that the built-in network with this chain id knows as its USDC.
        """
        escrow, token = artifact("ChannelEscrow"), artifact("TestUSDC")
        self._deploy(escrow)
        known = next((net.usdc for net in built_in_networks().values() if net.chain_id == chain_id), None)
        if known in (None, token.address):
            self._deploy(token)
            return Contracts(escrow_contract=escrow.address, token=token.address)
        if not self._reader.has_code(known):
            self.rpc.call("anvil_setCode", [known, hexed(token.deployed_bytecode)])
        return Contracts(escrow_contract=escrow.address, token=known)

    def add_native(self, owner: Address, wei: int) -> int:
        """Give `owner` coins out of nothing; the new balance in wei."""
        balance = self._reader.native_balance(owner) + wei
        self.rpc.call("anvil_setBalance", [owner, hex(balance)])
        return balance

    def mint(self, token: Address, owner: Address, base_units: int) -> int:
        """Mint test tokens to `owner`; the new balance in base units.

        Raises UsageError for a token that lets nobody mint, such as a copy of a real one.
        """
        before = self._reader.token_balance(token, owner)
        try:
            self._send(token, _MINT + word(owner) + word(base_units), gas=200_000)
        except TransactionReverted as error:
            raise UsageError(
                f"the token {token} cannot be minted at will: it is not the test USDC"
            ) from error
        balance = self._reader.token_balance(token, owner)
        if balance != before + base_units:
            raise UsageError(f"the token {token} did not mint: it is not the test USDC")
        return balance

    def advance(self, seconds: int) -> Head:
        """Move the chain's clock forward and mine a block; that block."""
        self.rpc.call("evm_increaseTime", [hex(seconds)])
        self.rpc.call("evm_mine")
        return self._reader.head()

    def _deploy(self, contract: Artifact) -> None:
        call = deploy_call(self._reader, contract)
        if call is None:
            return
        self._send(call.to, call.data, gas=DEPLOYMENT_GAS)
        if deploy_call(self._reader, contract) is not None:
            raise NetworkError(f"{contract.name} could not be deployed on {self.rpc.shown}")

    def _send(self, to: Address, data: bytes, *, gas: int) -> None:
        sender = self.rpc.call("eth_accounts")
        if not isinstance(sender, list) or not sender:
            raise UsageError(
                f"{self.rpc.shown} has no unlocked account", hint="start Anvil with --accounts 1"
            )
        transaction = {"from": sender[0], "to": to, "data": hexed(data), "gas": hex(gas)}
        sent = TxHash(self.rpc.call("eth_sendTransaction", [transaction]))
        for _ in polls(within=RECEIPT_SECONDS, every=0.01):
            if (receipt := self.rpc.call("eth_getTransactionReceipt", [sent])) is not None:
                break
        else:
            raise NetworkError(f"{self.rpc.shown} did not mine {sent} within {RECEIPT_SECONDS} s")
        if receipt["status"] != "0x1":
            raise TransactionReverted(f"the transaction {sent} to {to} reverted")
