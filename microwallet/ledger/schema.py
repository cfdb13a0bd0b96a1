"""The ledger's tables, one migration after another. An amount is 39 digits of text.

uint128 does not fit INTEGER and REAL loses money; fixed width makes text compare as numbers do.
"""

from __future__ import annotations

APPLICATION_ID = 0x6D77_6C74
"""Marks a SQLite file as a microwallet ledger ("mwlt")."""

_AMOUNT = "TEXT NOT NULL CHECK (length({0}) = 39 AND {0} NOT GLOB '*[^0-9]*')"


def _amount(column: str) -> str:
    return f"{column} {_AMOUNT.format(column)}"


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
    as_of INTEGER,
    created_at INTEGER NOT NULL,
"""

_NOT_TOLD = """(SELECT up_to FROM handed_over WHERE channel_id = NEW.channel_id
    ORDER BY above DESC LIMIT 1) IS NOT NEW.authorized"""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # What the payer knows of the channels it pays through.
        f"""CREATE TABLE channels ({_CHANNEL_COLUMNS}
            label TEXT,
            voucher_known INTEGER NOT NULL CHECK (voucher_known IN (0, 1))
        ) STRICT, WITHOUT ROWID""",
        "CREATE INDEX channels_by_payee ON channels (payee)",
        "CREATE UNIQUE INDEX channels_by_label ON channels (label) WHERE label IS NOT NULL AND finalized = 0",
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
        # Opens and top-ups: what was asked for under which key, until the chain has it.
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
        # What the payee has accepted: the best voucher of each channel. While the payee closes it, what is
        # paid comes too late; once a close has ended, what the chain said before is worth nothing.
        f"""CREATE TABLE vouchers ({_CHANNEL_COLUMNS}
            signature BLOB NOT NULL CHECK (length(signature) BETWEEN 1 AND 4096),
            accepted_at INTEGER NOT NULL,
            close_confirmed INTEGER NOT NULL DEFAULT 0 CHECK (close_confirmed IN (0, 1)),
            closing INTEGER NOT NULL DEFAULT 0 CHECK (closing IN (0, 1)),
            ended_closes INTEGER NOT NULL DEFAULT 0
        ) STRICT, WITHOUT ROWID""",
        "CREATE INDEX vouchers_by_payee ON vouchers (payee) WHERE finalized = 0",
        # Signed transactions, stored before they are broadcast.
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
        # Counts what the ledger has recorded, against a copy that is older than it claims.
        "CREATE TABLE generation (number INTEGER NOT NULL) STRICT",
        "INSERT INTO generation VALUES (0)",
        # The block up to which events have been read, per chain, escrow and payer.
        """CREATE TABLE scanned (
            chain_id INTEGER NOT NULL,
            escrow_contract TEXT NOT NULL,
            address TEXT NOT NULL,
            block_number INTEGER NOT NULL,
            PRIMARY KEY (chain_id, escrow_contract, address)
        ) STRICT, WITHOUT ROWID""",
    ),
    (
        # How much of what is authorized was charged; before there were sessions, all of it.
        *(
            statement
            for table in ("channels", "vouchers")
            for statement in (
                f"ALTER TABLE {table} ADD COLUMN {_amount('spent')} DEFAULT '{0:039d}'",
                f"UPDATE {table} SET spent = authorized",
            )
        ),
        # The stream that a payee's channel pays for: a later one takes its place.
        "ALTER TABLE vouchers ADD COLUMN stream INTEGER NOT NULL DEFAULT 0",
        # What the payee sold: each voucher buys once, each idempotency key too.
        f"""CREATE TABLE sales (
            channel_id TEXT NOT NULL,
            {_amount("cumulative_amount")},
            {_amount("cost")},
            idempotency_key TEXT,
            fingerprint BLOB,
            answer BLOB,
            created_at INTEGER NOT NULL,
            repeats INTEGER NOT NULL DEFAULT 0,
            PRIMARY KEY (channel_id, cumulative_amount)
        ) STRICT, WITHOUT ROWID""",
        """CREATE UNIQUE INDEX sales_by_key ON sales (channel_id, idempotency_key)
            WHERE idempotency_key IS NOT NULL""",
        "CREATE INDEX sales_answered ON sales (created_at) WHERE answer IS NOT NULL",
        # The challenges that were answered, each by one channel.
        """CREATE TABLE challenges (
            id TEXT PRIMARY KEY,
            channel_id TEXT NOT NULL,
            expires_at INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID""",
        "CREATE INDEX challenges_by_expiry ON challenges (expires_at)",
        # What the payer bought over HTTP, a row a voucher, committed before it leaves. Tries of one request
        # have one key.
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
        "CREATE INDEX payments_by_channel ON payments (channel_id)",
        # Whom an origin was paid to: it is to be the same the next time.
        """CREATE TABLE known_payees (
            origin TEXT NOT NULL,
            chain_id INTEGER NOT NULL,
            payee TEXT NOT NULL,
            created_at INTEGER NOT NULL,
            PRIMARY KEY (origin, chain_id)
        ) STRICT, WITHOUT ROWID""",
        # Gas that was set aside or paid for payers' deposits within the last hour.
        f"""CREATE TABLE gas_spending (
            id INTEGER PRIMARY KEY,
            chain_id INTEGER NOT NULL,
            {_amount("wei")},
            created_at INTEGER NOT NULL
        ) STRICT""",
    ),
    (
        # Whether what a sale costs is what was used, and not what was reserved.
        "ALTER TABLE sales ADD COLUMN settled INTEGER NOT NULL DEFAULT 1 CHECK (settled IN (0, 1))",
        # What was sold lately, in the order it was, each with the account of its channel after it: rows that
        # share their pages, for thousands of channels. Carried over into `sales` and `vouchers` now and then.
        f"""CREATE TABLE recent_sales (
            position INTEGER PRIMARY KEY,
            channel_id TEXT NOT NULL,
            {_amount("authorized")},
            {_amount("spent")},
            stream INTEGER NOT NULL,
            signature BLOB NOT NULL,
            {_amount("cumulative_amount")},
            {_amount("cost")},
            idempotency_key TEXT,
            fingerprint BLOB,
            answer BLOB,
            created_at INTEGER NOT NULL,
            repeats INTEGER NOT NULL,
            settled INTEGER NOT NULL
        ) STRICT""",
        "CREATE INDEX recent_sales_by_channel ON recent_sales (channel_id)",
        # What the payee has accepted and charged by now.
        """CREATE VIEW current_vouchers AS
            SELECT v.channel_id, v.payer, v.payee, v.token, v.salt, v.authorized_signer, v.escrow_contract,
                v.chain_id, v.symbol, v.decimals, v.deposit, v.settled, v.close_requested_at, v.finalized,
                coalesce(r.authorized, v.authorized) AS authorized, coalesce(r.spent, v.spent) AS spent,
                coalesce(r.stream, v.stream) AS stream, coalesce(r.signature, v.signature) AS signature,
                coalesce(r.created_at, v.accepted_at) AS accepted_at, v.as_of, v.created_at,
                v.close_confirmed, v.closing, v.ended_closes
            FROM vouchers AS v LEFT JOIN recent_sales AS r ON r.position =
                (SELECT max(position) FROM recent_sales WHERE channel_id = v.channel_id)""",
    ),
    (
        # The recent sales of the form before are carried over for the last time.
        """INSERT INTO sales (channel_id, cumulative_amount, cost, idempotency_key, fingerprint, answer,
                created_at, repeats, settled)
            SELECT channel_id, cumulative_amount, cost, idempotency_key, fingerprint, answer, created_at,
                repeats, settled
            FROM recent_sales""",
        """UPDATE vouchers SET authorized = r.authorized, spent = r.spent, stream = r.stream,
                signature = r.signature, accepted_at = r.created_at
            FROM (SELECT channel_id, max(position), authorized, spent, stream, signature, created_at
                FROM recent_sales GROUP BY channel_id) AS r WHERE r.channel_id = vouchers.channel_id""",
        # What the payee sold, in the order it did, so that what is sold together shares its pages. A sale by
        # the best voucher of its channel holds what was spent after it, and the channel's stream.
        f"""CREATE TABLE sales_in_order (
            position INTEGER PRIMARY KEY,
            channel_id TEXT NOT NULL,
            {_amount("cumulative_amount")},
            {_amount("cost")},
            idempotency_key TEXT,
            fingerprint BLOB,
            answer BLOB,
            created_at INTEGER NOT NULL,
            repeats INTEGER NOT NULL,
            settled INTEGER NOT NULL CHECK (settled IN (0, 1)),
            spent TEXT CHECK (length(spent) = 39 AND spent NOT GLOB '*[^0-9]*'),
            stream INTEGER,
            signature BLOB,
            CHECK ((spent IS NULL) = (signature IS NULL) AND (spent IS NULL) = (stream IS NULL))
        ) STRICT""",
        """INSERT INTO sales_in_order (channel_id, cumulative_amount, cost, idempotency_key, fingerprint,
                answer, created_at, repeats, settled)
            SELECT channel_id, cumulative_amount, cost, idempotency_key, fingerprint, answer, created_at,
                repeats, settled
            FROM sales ORDER BY created_at, channel_id, cumulative_amount""",
        "DROP VIEW current_vouchers",
        "DROP TABLE recent_sales",
        "DROP TABLE sales",
        "ALTER TABLE sales_in_order RENAME TO sales",
        """CREATE UNIQUE INDEX sales_by_key ON sales (channel_id, idempotency_key)
            WHERE idempotency_key IS NOT NULL""",
        "CREATE INDEX sales_answered ON sales (created_at) WHERE answer IS NOT NULL",
        # Where the sale of a voucher is, but for the recent ones: a commit would change a page for each.
        """CREATE TABLE used_vouchers (
            channel_id TEXT NOT NULL,
            cumulative_amount TEXT NOT NULL,
            position INTEGER NOT NULL,
            PRIMARY KEY (channel_id, cumulative_amount)
        ) STRICT, WITHOUT ROWID""",
        "INSERT INTO used_vouchers SELECT channel_id, cumulative_amount, position FROM sales",
        # How often something else was changed than by a sale, and the position up to which sales are counted
        # in `vouchers` and found in `used_vouchers`.
        "ALTER TABLE generation ADD COLUMN changes INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE generation ADD COLUMN carried_over INTEGER NOT NULL DEFAULT 0",
        "UPDATE generation SET carried_over = coalesce((SELECT max(position) FROM sales), 0)",
        """CREATE VIEW recent_accounts AS
            SELECT channel_id, max(position), cumulative_amount AS authorized, spent, stream, signature,
                created_at AS accepted_at
            FROM sales WHERE position > (SELECT carried_over FROM generation) AND signature IS NOT NULL
            GROUP BY channel_id""",
        # What the payee has accepted and charged by now.
        """CREATE VIEW current_vouchers AS
            SELECT v.channel_id, v.payer, v.payee, v.token, v.salt, v.authorized_signer, v.escrow_contract,
                v.chain_id, v.symbol, v.decimals, v.deposit, v.settled, v.close_requested_at, v.finalized,
                coalesce(r.authorized, v.authorized) AS authorized, coalesce(r.spent, v.spent) AS spent,
                coalesce(r.stream, v.stream) AS stream, coalesce(r.signature, v.signature) AS signature,
                coalesce(r.accepted_at, v.accepted_at) AS accepted_at, v.as_of, v.created_at,
                v.close_confirmed, v.closing, v.ended_closes
            FROM vouchers AS v LEFT JOIN recent_accounts AS r USING (channel_id)""",
        # What workers remember of a channel is read again once anybody has changed that, a process of an
        # older version too.
        """CREATE TRIGGER channel_changed
            AFTER UPDATE OF deposit, close_requested_at, finalized, closing ON vouchers
            BEGIN UPDATE generation SET changes = changes + 1; END""",
    ),
    (
        # Which base units of a channel's cumulative amount were counted as handed over. Of what was accepted
        # before that was kept, all: nothing counts twice.
        f"""CREATE TABLE handed_over (
            channel_id TEXT NOT NULL REFERENCES vouchers,
            {_amount("above")},
            {_amount("up_to")},
            PRIMARY KEY (channel_id, above)
        ) STRICT, WITHOUT ROWID""",
        f"""INSERT INTO handed_over SELECT channel_id, '{0:039d}', authorized FROM current_vouchers
            WHERE authorized > '{0:039d}'""",
        # Who accepts tells here first which base units count. A process of an older version does not, nor
        # does who finds a channel again of which more is settled than known: all of it was counted then.
        f"""CREATE TRIGGER accepted_first AFTER INSERT ON vouchers
            WHEN NEW.authorized > '{0:039d}' AND {_NOT_TOLD}
            BEGIN INSERT INTO handed_over VALUES (NEW.channel_id, '{0:039d}', NEW.authorized); END""",
        f"""CREATE TRIGGER accepted_more AFTER UPDATE OF deposit ON vouchers
            WHEN NEW.authorized > OLD.authorized AND {_NOT_TOLD}
            BEGIN INSERT INTO handed_over VALUES (NEW.channel_id, OLD.authorized, NEW.authorized); END""",
        # How much of what the payer has spent no receipt tells of: it may not have been charged.
        f"ALTER TABLE channels ADD COLUMN {_amount('unconfirmed')} DEFAULT '{0:039d}'",
    ),
    (
        # Unix seconds until which the payee may go on charging it, as a stream was left: its end is not seen
        # at once.
        "ALTER TABLE channels ADD COLUMN charged_until INTEGER NOT NULL DEFAULT 0",
        # What the channel's purchases count as spent, and was not charged after all.
        f"ALTER TABLE channels ADD COLUMN {_amount('uncharged')} DEFAULT '{0:039d}'",
    ),
    (
        # Counts the payer's channels: those of one second are listed as they were added.
        "ALTER TABLE channels ADD COLUMN position INTEGER NOT NULL DEFAULT 0",
    ),
    (
        # What the channel's purchases may cost beyond what it can have spent: not all that is in flight is.
        f"ALTER TABLE channels ADD COLUMN {_amount('overdrawn')} DEFAULT '{0:039d}'",
    ),
    (
        # The recent sales of the form before are carried over for the last time.
        """INSERT INTO used_vouchers SELECT channel_id, cumulative_amount, position FROM sales
            WHERE position > (SELECT carried_over FROM generation)""",
        """UPDATE vouchers SET authorized = r.authorized, spent = r.spent, stream = r.stream,
                signature = r.signature, accepted_at = r.accepted_at
            FROM recent_accounts AS r WHERE r.channel_id = vouchers.channel_id""",
        "DROP VIEW current_vouchers",
        "DROP VIEW recent_accounts",
        "ALTER TABLE generation DROP COLUMN carried_over",
        # Sales by the best voucher of a channel, each with the one before it and how many they are by then; a
        # sale by an older voucher names the last of them below it. The row of one that is given back stays.
        "ALTER TABLE sales ADD COLUMN previous INTEGER REFERENCES sales",
        "ALTER TABLE sales ADD COLUMN number INTEGER",
        "ALTER TABLE sales ADD COLUMN returned INTEGER NOT NULL DEFAULT 0 CHECK (returned IN (0, 1))",
        # Where they are found: all before these columns, and then one of many, and those by older vouchers.
        "ALTER TABLE used_vouchers RENAME TO landmarks",
        # The last sale of each channel's chain. It holds the account of the channel, unless `vouchers` does.
        """CREATE TABLE heads (
            id INTEGER PRIMARY KEY,
            position INTEGER NOT NULL REFERENCES sales,
            holds_account INTEGER NOT NULL CHECK (holds_account IN (0, 1))
        ) STRICT""",
        "ALTER TABLE vouchers ADD COLUMN head INTEGER REFERENCES heads",
        # As before, but not where it is written down that nothing has changed.
        "DROP TRIGGER channel_changed",
        """CREATE TRIGGER channel_changed
            AFTER UPDATE OF deposit, close_requested_at, finalized, closing ON vouchers
            WHEN (NEW.deposit, NEW.authorized, NEW.spent, NEW.close_requested_at, NEW.finalized, NEW.closing)
              <> (OLD.deposit, OLD.authorized, OLD.spent, OLD.close_requested_at, OLD.finalized, OLD.closing)
            BEGIN UPDATE generation SET changes = changes + 1; END""",
        # What the payee has accepted and charged by now.
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
    ),
    (
        # Whose transaction gas is for, and the budget that it is to stay within where its fee is raised.
        "ALTER TABLE gas_spending ADD COLUMN operation TEXT NOT NULL DEFAULT ''",
        f"ALTER TABLE gas_spending ADD COLUMN {_amount('budget')} DEFAULT '{0:039d}'",
    ),
)
