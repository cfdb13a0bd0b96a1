"""The ledger's tables, by version. An amount is 39 digits of text.

uint128 does not fit INTEGER and REAL loses money; fixed width makes text compare as numbers do.
"""

from __future__ import annotations

from collections.abc import Mapping

APPLICATION_ID = 0x6D77_6C74
"""Marks a SQLite file as a microwallet ledger ("mwlt")."""

_ZERO = f"'{0:039d}'"


def _amount(column: str) -> str:
    return f"{column} TEXT NOT NULL CHECK (length({column}) = 39 AND {column} NOT GLOB '*[^0-9]*')"


# `spent` is how much of what is `authorized` was charged; `as_of` is when the chain said what is known of the
# channel, Unix seconds, NULL if it was never asked.
_CHANNEL_COLUMNS = f"""
    channel_id TEXT PRIMARY KEY CHECK (length(channel_id) = 66),
    payer TEXT NOT NULL,
    payee TEXT NOT NULL,
    token TEXT NOT NULL,
    salt TEXT NOT NULL,
    authorized_signer TEXT NOT NULL,
    escrow_contract TEXT NOT NULL,
    chain_id INTEGER NOT NULL,
    symbol TEXT NOT NULL,
    decimals INTEGER NOT NULL,
    {_amount("deposit")},
    {_amount("settled")},
    close_requested_at INTEGER NOT NULL,
    finalized INTEGER NOT NULL CHECK (finalized IN (0, 1)),
    {_amount("authorized")},
    {_amount("spent")},
    as_of INTEGER,
    created_at INTEGER NOT NULL,
"""

_FIRST = (
    # `number` counts the transactions that signed or accepted vouchers, so that an older copy of the ledger
    # is noticed; `changes`, what changed of the payee's accounts other than by a sale.
    """CREATE TABLE generation (
        number INTEGER NOT NULL,
        changes INTEGER NOT NULL
    ) STRICT""",
    "INSERT INTO generation (number, changes) VALUES (0, 0)",
    # Signed transactions, stored before they are broadcast. `position` is their order.
    """CREATE TABLE transactions (
        hash TEXT PRIMARY KEY,
        position INTEGER NOT NULL UNIQUE,
        chain_id INTEGER NOT NULL,
        sender TEXT NOT NULL,
        nonce INTEGER NOT NULL,
        operation TEXT NOT NULL,
        purpose TEXT NOT NULL,
        channel_id TEXT,
        raw BLOB NOT NULL,
        max_fee_per_gas TEXT NOT NULL,
        max_priority_fee_per_gas TEXT NOT NULL,
        status TEXT NOT NULL,
        block_number INTEGER,
        gas_used INTEGER,
        created_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX transactions_by_operation ON transactions (operation)",
    """CREATE INDEX transactions_unfinished ON transactions (chain_id, sender, nonce)
        WHERE status IN ('signed', 'broadcast')""",
    # The channels that this wallet pays through. `position` is the order in which they were added.
    # `unconfirmed` is the part of `spent` that no receipt tells of, so that it may not have been charged.
    # `charged_until`, Unix seconds, is until when the payee may still charge it: the end of a stream that was
    # left is not seen at once. `uncharged` is what purchases counted as spent and turned out not to be
    # charged. `overdrawn` is what purchases may cost beyond what was signed: not all of them can be charged.
    f"""CREATE TABLE channels ({_CHANNEL_COLUMNS}
        position INTEGER NOT NULL,
        label TEXT,
        voucher_known INTEGER NOT NULL CHECK (voucher_known IN (0, 1)),
        {_amount("unconfirmed")} DEFAULT {_ZERO},
        charged_until INTEGER NOT NULL DEFAULT 0,
        {_amount("uncharged")} DEFAULT {_ZERO},
        {_amount("overdrawn")} DEFAULT {_ZERO}
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX channels_by_payee ON channels (payee)",
    "CREATE UNIQUE INDEX channels_by_label ON channels (label) WHERE label IS NOT NULL AND finalized = 0",
    # Opens and top-ups by idempotency key: what was asked for, and what became of it.
    f"""CREATE TABLE deposits (
        idempotency_key TEXT PRIMARY KEY,
        kind TEXT NOT NULL CHECK (kind IN ('open', 'topUp')),
        channel_id TEXT NOT NULL,
        {_amount("amount")},
        arguments TEXT NOT NULL,
        method TEXT NOT NULL,
        authorization_expires_at INTEGER,
        status TEXT NOT NULL CHECK (status IN ('pending', 'done', 'abandoned')),
        created_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX deposits_pending ON deposits (channel_id) WHERE status = 'pending'",
    # One row a batch of payments, from which its vouchers can be made again.
    f"""CREATE TABLE payments (
        id INTEGER PRIMARY KEY,
        idempotency_key TEXT NOT NULL UNIQUE,
        channel_id TEXT NOT NULL REFERENCES channels,
        {_amount("start")},
        {_amount("step")},
        count INTEGER NOT NULL CHECK (count > 0),
        {_amount("deposit")},
        memo TEXT,
        created_at INTEGER NOT NULL
    ) STRICT""",
    "CREATE INDEX payments_by_channel ON payments (channel_id)",
    # What the payer bought over HTTP: a row for each voucher, committed before it is sent. All tries of one
    # request have the same key.
    f"""CREATE TABLE purchases (
        id INTEGER PRIMARY KEY,
        idempotency_key TEXT NOT NULL,
        channel_id TEXT NOT NULL REFERENCES channels,
        {_amount("cumulative_amount")},
        {_amount("cost")},
        method TEXT NOT NULL,
        url TEXT NOT NULL,
        fingerprint BLOB NOT NULL,
        status TEXT NOT NULL CHECK (status IN ('in-flight', 'paid', 'returned')),
        created_at INTEGER NOT NULL,
        UNIQUE (channel_id, cumulative_amount)
    ) STRICT""",
    "CREATE INDEX purchases_by_key ON purchases (idempotency_key)",
    "CREATE INDEX purchases_in_flight ON purchases (channel_id) WHERE status = 'in-flight'",
    # Who was paid for an origin: another payee is noticed the next time.
    """CREATE TABLE known_payees (
        origin TEXT NOT NULL,
        chain_id INTEGER NOT NULL,
        payee TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        PRIMARY KEY (origin, chain_id)
    ) STRICT, WITHOUT ROWID""",
    # The block up to which events have been read, per chain, escrow and payer.
    """CREATE TABLE scanned (
        chain_id INTEGER NOT NULL,
        escrow_contract TEXT NOT NULL,
        address TEXT NOT NULL,
        block_number INTEGER NOT NULL,
        PRIMARY KEY (chain_id, escrow_contract, address)
    ) STRICT, WITHOUT ROWID""",
    # The best voucher that the payee accepted on each channel. `authorized`, `spent`, `stream`, `signature`
    # and `accepted_at` are the channel's account; they are out of date here while the channel's head holds
    # it. `stream` is the number of the newest stream, which ends those before. `closing` is whether the payee
    # is closing the channel, so that what is paid now comes too late. `ended_closes` counts the closes that
    # have ended: what the chain said before the last of them is out of date.
    f"""CREATE TABLE vouchers ({_CHANNEL_COLUMNS}
        signature BLOB NOT NULL CHECK (length(signature) BETWEEN 1 AND 4096),
        accepted_at INTEGER NOT NULL,
        stream INTEGER NOT NULL DEFAULT 0,
        head INTEGER REFERENCES heads,
        closing INTEGER NOT NULL DEFAULT 0 CHECK (closing IN (0, 1)),
        ended_closes INTEGER NOT NULL DEFAULT 0,
        close_confirmed INTEGER NOT NULL DEFAULT 0 CHECK (close_confirmed IN (0, 1))
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX vouchers_by_payee ON vouchers (payee) WHERE finalized = 0",
    # What the payee sold, in that order, so that sales of the same moment share pages; see ledger/heads. Each
    # voucher and each idempotency key buys once. `settled` is whether `cost` is what was used, and no longer
    # what was reserved. A sale by its channel's highest voucher so far holds the account after it in `spent`,
    # `stream` and `signature`, the sale before it in the channel's chain in `previous`, and its own number in
    # the chain in `number`. A sale by an older voucher only names the next lower sale of the chain, in
    # `previous`. The row of a sale that was given back stays, as `returned`. `answer` comes last, as columns
    # after a long one are slow to read.
    f"""CREATE TABLE sales (
        position INTEGER PRIMARY KEY,
        channel_id TEXT NOT NULL,
        {_amount("cumulative_amount")},
        {_amount("cost")},
        settled INTEGER NOT NULL CHECK (settled IN (0, 1)),
        returned INTEGER NOT NULL DEFAULT 0 CHECK (returned IN (0, 1)),
        idempotency_key TEXT,
        fingerprint BLOB,
        created_at INTEGER NOT NULL,
        repeats INTEGER NOT NULL,
        spent TEXT CHECK (length(spent) = 39 AND spent NOT GLOB '*[^0-9]*'),
        stream INTEGER,
        signature BLOB,
        previous INTEGER REFERENCES sales,
        number INTEGER,
        answer BLOB,
        CHECK ((spent IS NULL) = (signature IS NULL) AND (spent IS NULL) = (stream IS NULL))
    ) STRICT""",
    """CREATE UNIQUE INDEX sales_by_key ON sales (channel_id, idempotency_key)
        WHERE idempotency_key IS NOT NULL""",
    "CREATE INDEX sales_answered ON sales (created_at) WHERE answer IS NOT NULL",
    # The last sale in a channel's chain; it holds the channel's account, unless the row in `vouchers` does.
    """CREATE TABLE heads (
        id INTEGER PRIMARY KEY,
        position INTEGER NOT NULL REFERENCES sales,
        holds_account INTEGER NOT NULL CHECK (holds_account IN (0, 1))
    ) STRICT""",
    # From where sales are found: some of each chain, and all by older vouchers.
    """CREATE TABLE landmarks (
        channel_id TEXT NOT NULL,
        cumulative_amount TEXT NOT NULL,
        position INTEGER NOT NULL,
        PRIMARY KEY (channel_id, cumulative_amount)
    ) STRICT, WITHOUT ROWID""",
    # `vouchers` with the account of each channel as it is now, wherever that is stored.
    """CREATE VIEW current_vouchers AS
        SELECT v.channel_id, v.payer, v.payee, v.token, v.salt, v.authorized_signer, v.escrow_contract,
            v.chain_id, v.symbol, v.decimals, v.deposit, v.settled, v.close_requested_at, v.finalized,
            coalesce(s.cumulative_amount, v.authorized) AS authorized,
            coalesce(s.spent, v.spent) AS spent, coalesce(s.stream, v.stream) AS stream,
            coalesce(s.signature, v.signature) AS signature,
            coalesce(s.created_at, v.accepted_at) AS accepted_at, v.as_of, v.created_at,
            v.close_confirmed, v.closing, v.ended_closes
        FROM vouchers AS v LEFT JOIN heads AS h ON h.id = v.head AND h.holds_account = 1
            LEFT JOIN sales AS s ON s.position = h.position""",
    # Makes workers read again what they remember of channels, once somebody has changed that.
    """CREATE TRIGGER channel_changed
        AFTER UPDATE OF deposit, close_requested_at, finalized, closing ON vouchers
        WHEN (NEW.deposit, NEW.authorized, NEW.spent, NEW.close_requested_at, NEW.finalized, NEW.closing)
          <> (OLD.deposit, OLD.authorized, OLD.spent, OLD.close_requested_at, OLD.finalized, OLD.closing)
        BEGIN UPDATE generation SET changes = changes + 1; END""",
    # The base units of a channel's cumulative amount that were counted as payments; see domain/handed_over.
    f"""CREATE TABLE handed_over (
        channel_id TEXT NOT NULL REFERENCES vouchers,
        {_amount("above")},
        {_amount("up_to")},
        PRIMARY KEY (channel_id, above)
    ) STRICT, WITHOUT ROWID""",
    # The challenges that were answered, each by one channel.
    """CREATE TABLE challenges (
        id TEXT PRIMARY KEY,
        channel_id TEXT NOT NULL,
        expires_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX challenges_by_expiry ON challenges (expires_at)",
    # Gas that was set aside or paid for payers' deposits within the last hour: for which operation, and the
    # budget to stay within when the fee of its transaction is raised.
    f"""CREATE TABLE gas_spending (
        id INTEGER PRIMARY KEY,
        chain_id INTEGER NOT NULL,
        operation TEXT NOT NULL,
        {_amount("wei")},
        {_amount("budget")},
        created_at INTEGER NOT NULL
    ) STRICT""",
)

_ENDS_TOLD = (
    # Whether a channel's end is still to be told by `payee watch`: others may learn of it first.
    "ALTER TABLE vouchers ADD COLUMN untold INTEGER NOT NULL DEFAULT 0 CHECK (untold IN (0, 1))",
    "CREATE INDEX untold_ends ON vouchers (chain_id) WHERE untold = 1",
    """CREATE TRIGGER end_changed AFTER UPDATE OF finalized ON vouchers
        WHEN NEW.finalized <> OLD.finalized
        BEGIN UPDATE vouchers SET untold = NEW.finalized WHERE channel_id = NEW.channel_id; END""",
)

VERSIONS: Mapping[int, tuple[str, ...]] = {10: _FIRST, 11: _ENDS_TOLD}
"""The statements that bring a ledger to each version from the one before; to the first, from an empty file.

Lower numbers were used before the first release.
"""
