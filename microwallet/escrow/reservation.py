"""The nonce of a transaction: free, and its operation's alone; that of an earlier try while it is unused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from microwallet.domain.identifiers import Address
from microwallet.domain.ports import SignedTransaction, TransactionJournal
from microwallet.errors import LedgerBusy, OutcomeUnknown
from microwallet.escrow.fees import Fees
from microwallet.escrow.network import Network
from microwallet.escrow.quotes import Quote
from microwallet.escrow.reader import transaction_count
from microwallet.escrow.rpc import Rpc

_TRIES = 20


def reserved(
    rpc: Rpc,
    network: Network,
    journal: TransactionJournal,
    sender: Address,
    asked: Quote,
    sign: Callable[[int, Fees], SignedTransaction],
    *,
    earlier: SignedTransaction | None,
) -> SignedTransaction:
    """Sign and journal at a nonce that is free, and as a transaction that is its operation's alone.

    Another process may have used the nonce up between quote and reservation. Two operations
    that do the same would then even have the same hash, and one receipt would count for both.

    With `earlier`, one of the operation that was taken for ended, at its nonce alone: a node may have it all
    the same, and only one of the two can be mined. OutcomeUnknown while another operation has that nonce.
    """
    if earlier is not None:
        asked = replace(asked, chain_nonce=earlier.nonce)
    for _ in range(_TRIES):

        def sign_at(nonce: int, fees: Fees = asked.fees) -> SignedTransaction:
            if earlier is not None and nonce != earlier.nonce:
                raise _undecided(earlier)
            return sign(nonce, fees)

        transaction = journal.reserve(network.chain_id, sender, chain_nonce=asked.chain_nonce, sign=sign_at)
        entries = journal.of_operation(transaction.operation)
        ours = any(entry.transaction.hash == transaction.hash for entry in entries)
        used = transaction_count(rpc, sender)
        is_free = used <= transaction.nonce or earlier is not None
        # Another process that finds it in the journal may send it first: then it used the nonce.
        if ours and (is_free or not journal.withdraw(transaction.hash)):
            return transaction
        asked = replace(
            asked,
            chain_nonce=max(used, asked.chain_nonce),
            fees=replace(asked.fees, max_fee_per_gas=asked.fees.max_fee_per_gas - 1),
        )
    raise LedgerBusy(f"no nonce of {sender} stayed free: many transactions are sent at once")


def _undecided(earlier: SignedTransaction) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"{earlier.purpose} was signed as {earlier.hash}, and may be mined until another transaction has used"
        f" up nonce {earlier.nonce}",
        data={"transactionHash": earlier.hash},
    )
