"""What a transaction will cost, and whether it would succeed: all that is asked before one is signed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from microwallet.domain.identifiers import Address, hexed, word
from microwallet.errors import InsufficientFunds, NetworkError
from microwallet.escrow.calls import Call
from microwallet.escrow.fees import GWEI, Fees, suggest
from microwallet.escrow.network import Network
from microwallet.escrow.reader import read_count, read_quantity, selector
from microwallet.escrow.reverts import revert_of
from microwallet.escrow.rpc import Request, Rpc, RpcError

_PLAIN_TRANSFER = 21_000
_DATA_FEE_ORACLE = Address("0x420000000000000000000000000000000000000F")
"""Where rollups of the OP Stack tell what they take for a transaction's data, beside the gas."""
_DATA_FEE = selector("getL1FeeUpperBound(uint256)")
_FRAME = 100
"""Bytes of an unsigned transaction around its data, at most."""
_USUAL_SIZE = 1000
_GAS_PER_BYTE = 40
"""The gas of a call is at least that for each byte of its transaction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """A simulated call: its gas limit with a margin, its fees, and the next nonce of the sender."""

    gas: int
    fees: Fees
    chain_nonce: int
    balance: int
    data_fee: int = 0
    """Wei that a rollup takes for the data, at most."""

    @property
    def max_cost(self) -> int:
        """Wei the transaction costs at most, beside its value."""
        return self.gas * self.fees.max_fee_per_gas + self.data_fee


def quote(
    rpc: Rpc,
    network: Network,
    sender: Address,
    call: Call,
    *,
    purpose: str,
    cap: int,
    caller: Address | None = None,
) -> Quote:
    """Simulate a call and price it, in one request. Nothing is signed.

    `cap` is in wei per gas. It is simulated as if `caller` made it, the sender unless told otherwise.
    Raises ContractReverted when it is sure to revert, InsufficientFunds when the sender cannot pay for
    value and gas, PaymentRefused when gas is dearer than the cap.
    """
    request = call.request(caller or sender)
    simulated, gas, block, priority_fee, held, nonce, data_fee = rpc.try_batch(
        [
            ("eth_call", [request, "latest"]),
            ("eth_estimateGas", [request]),
            ("eth_getBlockByNumber", ["latest", False]),
            ("eth_maxPriorityFeePerGas", []),
            ("eth_getBalance", [sender, "latest"]),
            # Pending, so that transactions another wallet sent with this key are counted.
            ("eth_getTransactionCount", [sender, "pending"]),
            _data_fee_of(len(call.data) + _FRAME),
        ]
    )
    for answer in (block, held, nonce):
        if isinstance(answer, RpcError):
            raise answer
    where = rpc.shown
    balance = read_quantity(held, where)
    fees = suggested_fees(block, priority_fee, network=network, cap=cap, where=where)
    least = call.value + fees.cost(_PLAIN_TRANSFER)
    if balance <= call.value:
        raise _too_little(network, sender, balance, least)
    if isinstance(gas, RpcError) and not isinstance(simulated, RpcError):
        # Something that waits to be mined is in the way, and may never be mined.
        (gas,) = rpc.try_batch([("eth_estimateGas", [request, "latest"])])
    if isinstance(gas, RpcError):  # an idle chain calls at the time of its last block, estimates at the next
        refusal = simulated if isinstance(simulated, RpcError) else gas
        if refusal.is_revert:
            raise revert_of(refusal, purpose)
        if "insufficient" in refusal.rpc_message.lower():
            raise _too_little(network, sender, balance, least) from refusal
        raise refusal
    size, most = len(call.data) + _FRAME, _most_data_fee(data_fee, where)
    found = Quote(
        gas=with_margin(read_count(gas, where), call),
        fees=_with_data_fee(fees, most, size),
        chain_nonce=read_count(nonce, where),
        balance=balance,
        data_fee=most,
    )
    check_funds(found, call, network, sender)
    return found


def check_funds(quoted: Quote, call: Call, network: Network, sender: Address) -> None:
    """InsufficientFunds when the sender cannot pay for value, gas and data of a call."""
    needed = call.value + quoted.max_cost
    if quoted.balance < needed:
        raise _too_little(network, sender, quoted.balance, needed)


def quote_again(
    rpc: Rpc, network: Network, call: Call, *, gas: int, sender: Address, nonce: int, cap: int
) -> Quote:
    """Price a call anew that was simulated before, in one request.

    Raises PaymentRefused when gas is dearer than the cap.
    """
    block, priority_fee, held, data_fee = rpc.try_batch(
        [
            ("eth_getBlockByNumber", ["latest", False]),
            ("eth_maxPriorityFeePerGas", []),
            ("eth_getBalance", [sender, "latest"]),
            _data_fee_of(len(call.data) + _FRAME),
        ]
    )
    for answer in (block, held):
        if isinstance(answer, RpcError):
            raise answer
    return Quote(
        gas=gas,
        fees=suggested_fees(block, priority_fee, network=network, cap=cap, where=rpc.shown),
        chain_nonce=nonce,
        balance=read_quantity(held, rpc.shown),
        data_fee=_most_data_fee(data_fee, rpc.shown),
    )


def current_fees(rpc: Rpc, network: Network, *, cap: int) -> Fees:
    """What a transaction should offer now, and what comes to that on a rollup."""
    block, priority_fee, data_fee = rpc.try_batch(
        [
            ("eth_getBlockByNumber", ["latest", False]),
            ("eth_maxPriorityFeePerGas", []),
            _data_fee_of(_USUAL_SIZE),
        ]
    )
    if isinstance(block, RpcError):
        raise block
    offered = suggested_fees(block, priority_fee, network=network, cap=cap, where=rpc.shown)
    return _with_data_fee(offered, _most_data_fee(data_fee, rpc.shown), _USUAL_SIZE)


def suggested_fees(block: object, priority_fee: object, *, network: Network, cap: int, where: str) -> Fees:
    """Fees from the newest block and the node's advice; a gwei of tip where it gives none."""
    base_fee = block.get("baseFeePerGas") if isinstance(block, dict) else None
    if base_fee is None:
        raise NetworkError(f"{network.name} tells no base fee: transactions of EIP-1559 are needed")
    tip = GWEI if isinstance(priority_fee, RpcError) else read_quantity(priority_fee, where)
    return suggest(base_fee=read_quantity(base_fee, where), priority_fee=tip, cap=cap)


def _with_data_fee(fees: Fees, data_fee: int, size: int) -> Fees:
    """Fees where a rollup takes so much for so many bytes."""
    return replace(fees, data_fee_per_gas=-(-data_fee // (size * _GAS_PER_BYTE)))


def _data_fee_of(size: int) -> Request:
    """Asks what a rollup takes for so many bytes."""
    data = hexed(_DATA_FEE + word(size))
    return "eth_call", [{"to": _DATA_FEE_ORACLE, "data": data}, "latest"]


def _most_data_fee(answer: object, where: str) -> int:
    """Twice what it says: it follows the price of another chain, until the transaction is mined. 0 where
    nobody answers."""
    if isinstance(answer, RpcError) or answer == "0x":
        return 0
    return 2 * read_quantity(answer, where)


def with_margin(gas: int, call: Call) -> int:
    """A quarter more than estimated, as state may change before it is mined."""
    return gas if gas == _PLAIN_TRANSFER and not call.data else gas * 5 // 4


def _too_little(network: Network, sender: Address, balance: int, needed: int) -> InsufficientFunds:
    return InsufficientFunds(
        f"{sender} holds {network.coins(balance)} on {network.name}; up to {network.coins(needed)} is needed"
        " for this transaction and its gas",
        hint=network.faucet_hint(sender),
    )
