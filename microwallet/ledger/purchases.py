"""What was bought over HTTP: reserved before its voucher leaves, settled when the answer is known."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from microwallet.domain.channel import PayerChannel
from microwallet.domain.identifiers import Address, ChainId, ChannelId
from microwallet.domain.purchase import Purchase, PurchaseStatus, VoucherTerms, voucher_amount
from microwallet.domain.secret_fields import without_secrets
from microwallet.errors import IdempotencyMismatch, OutcomeUnknown, UnknownReference
from microwallet.ledger.channels import read_channel
from microwallet.ledger.database import Database, to_text

_COLUMNS = (
    "id, idempotency_key, channel_id, cumulative_amount, cost, method, url, fingerprint, status, created_at"
)
_SELECT = f"SELECT {_COLUMNS} FROM purchases"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """The request that a purchase is for: one idempotency key always stands for one request."""

    idempotency_key: str
    method: str
    url: str
    fingerprint: bytes


class Unconfirmed(NamedTuple):
    """What counts as spent on a channel without a receipt, as it is at one time. While all of this is the
    same, it is for the same purchases; base units."""

    amount: int = 0
    """It may not have been charged."""
    uncharged: int = 0
    """What turned out not to be, of all that ever was unconfirmed."""
    charged_until: int = 0
    """Unix seconds until which the payee may charge it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """A new purchase, and the channel's books as they were just before it."""

    purchase: Purchase
    before: PayerChannel
    least_spent: int
    """Base units spent before it, `unconfirmed` included, without what purchases in flight may cost."""
    unconfirmed: Unconfirmed
    is_final: bool
    """Whether the payee can no longer charge those of them that it had not charged by then."""

    @property
    def rise(self) -> int:
        """Base units by which the purchase raised what is authorized."""
        return max(0, self.purchase.cumulative_amount - self.before.authorized)


class Confirmation(NamedTuple):
    """What a request's receipt proves about the channel's books, and what it leaves open; in base units."""

    untold: int = 0
    """Counted as spent for the request, without a receipt. Below 0 if its receipts tell of more than it
    counts: so much of what was unconfirmed before was charged after all."""
    uncharged: int = 0
    """Counted as spent and unconfirmed before, and now known not to be charged."""
    known: Unconfirmed = Unconfirmed()
    """What was unconfirmed when the request was reserved."""
    charged_until: int = 0
    """Unix seconds until which the payee may still charge what is untold."""


UNCHANGED = Confirmation()


class Purchases:
    """Every voucher signed for a request; rows are never deleted, and no amount is used twice."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of_request(self, request: HttpRequest) -> Sequence[Purchase]:
        """Purchases under the request's key, oldest first; IdempotencyMismatch if it was for another."""
        with self._database.read() as connection:
            return _of_request(connection, request)

    def of_key(self, idempotency_key: str) -> Sequence[Purchase]:
        """Purchases under a key, whatever they are for, oldest first."""
        with self._database.read() as connection:
            return _of_key(connection, idempotency_key)

    def newest(self, channel_id: ChannelId) -> Purchase | None:
        """The last purchase on a channel, or None."""
        with self._database.read() as connection:
            row = connection.execute(
                f"{_SELECT} WHERE channel_id = ? ORDER BY id DESC LIMIT 1", (channel_id,)
            ).fetchone()
            return _purchase(row) if row else None

    def newest_from(self, payee: Address, chain_id: ChainId) -> Purchase | None:
        """The last purchase from a payee, through whichever channel, or None."""
        query = f"""{_SELECT} WHERE channel_id IN
            (SELECT channel_id FROM channels WHERE payee = ? AND chain_id = ?) ORDER BY id DESC LIMIT 1"""
        with self._database.read() as connection:
            row = connection.execute(query, (payee, chain_id)).fetchone()
            return _purchase(row) if row else None

    def uncertain(self, channel_id: ChannelId) -> int:
        """Base units counted as spent that the payee may not have charged: no answer or no receipt tells."""
        with self._database.read() as connection:
            counts = _counts(connection, channel_id)
            return counts.spent - counts.certain

    def certain(self, channel_id: ChannelId) -> int:
        """Base units that the payee has charged at least."""
        with self._database.read() as connection:
            return _counts(connection, channel_id).certain

    def chargeable(self, channel_id: ChannelId) -> int:
        """Base units that were signed and not certainly charged: a stream may have cost all of it."""
        with self._database.read() as connection:
            counts = _counts(connection, channel_id)
            return counts.authorized - counts.certain

    def counted(self, channel_id: ChannelId) -> int:
        """Base units that a channel's purchases cost at most; may be more than was signed."""
        with self._database.read() as connection:
            return _counts(connection, channel_id).total

    def reserve(
        self,
        channel_id: ChannelId,
        request: HttpRequest,
        terms: VoucherTerms,
        *,
        now: int,
        continues: bool = False,
    ) -> Reserved:
        """Commit a purchase, and raise the channel's spent and, where it must, authorized.

        Atomic over processes. OutcomeUnknown if the request has a purchase already that was not returned,
        unless this one `continues` it. Raises what voucher_amount and of_request raise.
        """
        with self._database.write_vouchers() as connection:
            channel = read_channel(connection, channel_id)
            if channel is None:
                raise UnknownReference(f"there is no channel {channel_id}")
            begun = [one for one in _of_request(connection, request) if one.status != PurchaseStatus.RETURNED]
            if begun and not continues:
                raise OutcomeUnknown(
                    f"another process is buying under the idempotency key {request.idempotency_key!r}",
                    hint="run the command again when it has ended",
                )
            terms = terms.on(channel, channel.authorized)
            counts = _counts(connection, channel_id)
            amount = voucher_amount(
                channel,
                terms,
                is_used=lambda one: _is_used(connection, channel_id, one),
                highest_unused=lambda least: _highest_unused(
                    connection, channel_id, least, channel.authorized
                ),
                now=now,
            )
            authorized = max(channel.authorized, amount)
            terms = terms.on(channel, authorized)
            connection.execute(
                "UPDATE channels SET authorized = ? WHERE channel_id = ?", (to_text(authorized), channel_id)
            )
            _spend(connection, channel_id, terms.cost)
            row = connection.execute(
                f"""INSERT INTO purchases ({_COLUMNS}) VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                RETURNING {_COLUMNS}""",
                (
                    request.idempotency_key,
                    channel_id,
                    to_text(amount),
                    to_text(terms.cost),
                    request.method,
                    request.url,
                    request.fingerprint,
                    PurchaseStatus.IN_FLIGHT,
                    now,
                ),
            ).fetchone()
            return Reserved(
                purchase=_purchase(row),
                before=channel,
                least_spent=counts.total - counts.in_flight,
                unconfirmed=counts.doubt,
                is_final=counts.charged_until <= now,
            )

    def settle(
        self, purchases: Sequence[Purchase], cost: int, confirmation: Confirmation = UNCHANGED
    ) -> None:
        """Store that the purchases of one request, all on one channel, cost `cost` base units together.

        What was reserved beyond that is no longer spent. If it cost more than was reserved, the rest is spent
        too, up to what is authorized, even where it is reserved for other requests: these cannot all be
        served then. A purchase that was settled before stays as it is.
        """
        with self._database.write() as connection:
            counts = _counts(connection, purchases[-1].channel_id)
            most = counts.authorized - counts.certain
            if confirmation.charged_until:  # the payee may charge all of it, once more is signed
                most = max(most, sum(purchase.cost for purchase in purchases))
            left, charged = min(cost, most), 0
            for purchase in purchases[:-1]:
                actual = min(left, purchase.cost)
                left -= actual
                if _end(connection, purchase, PurchaseStatus.PAID, actual):
                    charged += actual
            last = purchases[-1]
            if _end(connection, last, PurchaseStatus.PAID, left):
                untold = min(confirmation.untold, charged + left)
                _confirm(connection, last.channel_id, confirmation._replace(untold=untold))

    def give_back(self, purchases: Iterable[Purchase]) -> None:
        """Store that purchases were answered without service: they no longer count as spent."""
        with self._database.write() as connection:
            for purchase in purchases:
                _end(connection, purchase, PurchaseStatus.RETURNED, 0)


def _end(connection: sqlite3.Connection, purchase: Purchase, status: PurchaseStatus, actual: int) -> bool:
    """End a purchase in flight, and take what it did not cost off what is spent. False if it had ended."""
    kept = purchase.cost if status is PurchaseStatus.RETURNED else actual
    ended = connection.execute(
        "UPDATE purchases SET status = ?, cost = ? WHERE id = ? AND status = 'in-flight'",
        (status, to_text(kept), purchase.id),
    )
    if ended.rowcount:
        _spend(connection, purchase.channel_id, actual - purchase.cost)
    return ended.rowcount > 0


def _confirm(connection: sqlite3.Connection, channel_id: ChannelId, confirmation: Confirmation) -> None:
    """Take what turned out not to be charged off the channel's spent, once.

    Two requests may learn it at the same time: the second finds something else unconfirmed than when it was
    reserved.
    """
    counts = _counts(connection, channel_id)
    is_news = counts.doubt == confirmation.known
    uncharged = min(confirmation.uncharged, counts.unconfirmed) if is_news else 0
    _spend(connection, channel_id, -uncharged)
    connection.execute(
        "UPDATE channels SET unconfirmed = ?, charged_until = ?, uncharged = ? WHERE channel_id = ?",
        (
            to_text(max(0, counts.unconfirmed - uncharged + confirmation.untold)),
            max(counts.charged_until, confirmation.charged_until),
            to_text(counts.uncharged + uncharged),
            channel_id,
        ),
    )


def _spend(connection: sqlite3.Connection, channel_id: ChannelId, more: int) -> None:
    """Add to what the channel's purchases cost, or take away. What exceeds what was signed is overdrawn."""
    counts = _counts(connection, channel_id)
    total = counts.total + more
    spent = min(total, counts.authorized)
    connection.execute(
        "UPDATE channels SET spent = ?, overdrawn = ? WHERE channel_id = ?",
        (to_text(spent), to_text(total - spent), channel_id),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counts:
    """The sums of a channel's books, purchases and payments together, in base units."""

    authorized: int
    spent: int
    overdrawn: int
    """What purchases may cost beyond what was signed: not all that is uncertain can be charged."""
    unconfirmed: int
    charged_until: int
    """Unix seconds until which the payee may charge what is unconfirmed."""
    uncharged: int
    in_flight: int
    """What purchases without an answer may cost."""

    @property
    def doubt(self) -> Unconfirmed:
        """What may not have been charged, though no purchase waits for its answer."""
        return Unconfirmed(self.unconfirmed, self.uncharged, self.charged_until)

    @property
    def total(self) -> int:
        """What was charged at most."""
        return self.spent + self.overdrawn

    @property
    def certain(self) -> int:
        """What was charged at least. No more than was signed can be, whatever purchases have cost."""
        return min(self.total - self.in_flight - self.unconfirmed, self.authorized)


_COUNTED = ("authorized", "spent", "overdrawn", "unconfirmed", "charged_until", "uncharged")


def _counts(connection: sqlite3.Connection, channel_id: ChannelId) -> _Counts:
    row = connection.execute(
        f"SELECT {', '.join(_COUNTED)} FROM channels WHERE channel_id = ?", (channel_id,)
    ).fetchone()
    reserved = connection.execute(
        "SELECT cost FROM purchases WHERE channel_id = ? AND status = 'in-flight'", (channel_id,)
    )
    counted = dict(zip(_COUNTED, map(int, row), strict=True))
    return _Counts(**counted, in_flight=sum(int(cost) for (cost,) in reserved))


def _is_used(connection: sqlite3.Connection, channel_id: ChannelId, amount: int) -> bool:
    query = "SELECT 1 FROM purchases WHERE channel_id = ? AND cumulative_amount = ?"
    return connection.execute(query, (channel_id, to_text(amount))).fetchone() is not None


def _highest_unused(
    connection: sqlite3.Connection, channel_id: ChannelId, least: int, highest: int
) -> int | None:
    """The highest amount from `least` to `highest` that no purchase has; None if all are taken."""
    rows = connection.execute(
        """SELECT cumulative_amount FROM purchases WHERE channel_id = ? AND cumulative_amount <= ?
        ORDER BY cumulative_amount DESC""",
        (channel_id, to_text(highest)),
    )
    candidate = highest
    for (used,) in rows:
        if int(used) < candidate:
            break
        candidate -= 1
    return candidate if candidate >= least else None


def _of_request(connection: sqlite3.Connection, request: HttpRequest) -> list[Purchase]:
    found = _of_key(connection, request.idempotency_key)
    if found and found[0].fingerprint != request.fingerprint:
        raise IdempotencyMismatch(
            f"the idempotency key {request.idempotency_key!r} was used for another request:"
            f" {found[0].method} {without_secrets(found[0].url)}, perhaps with another body;"
            " nothing was signed",
        )
    return found


def _of_key(connection: sqlite3.Connection, idempotency_key: str) -> list[Purchase]:
    rows = connection.execute(f"{_SELECT} WHERE idempotency_key = ? ORDER BY id", (idempotency_key,))
    return [_purchase(row) for row in rows]


def _purchase(row: tuple[Any, ...]) -> Purchase:
    row_id, key, channel_id, amount, cost, method, url, fingerprint, status, created_at = row
    return Purchase(
        id=row_id,
        idempotency_key=key,
        channel_id=ChannelId(channel_id),
        cumulative_amount=int(amount),
        cost=int(cost),
        method=method,
        url=url,
        fingerprint=fingerprint,
        status=PurchaseStatus(status),
        created_at=created_at,
    )
