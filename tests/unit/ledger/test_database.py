"""A ledger that many processes open for the first time."""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from microwallet.errors import LedgerBusy, LedgerError, LedgerReplaced, LedgerTooNew, LedgerUnwritable
from microwallet.ledger import opening
from microwallet.ledger.database import Database
from microwallet.ledger.schema import VERSIONS

NEXT = max(VERSIONS) + 1
PROCESSES, LEDGERS = 6, 25
OPEN_ALL = f"""
import sys, time
from pathlib import Path
from microwallet.ledger.database import Database, to_text
for number in range({LEDGERS}):
    time.sleep(max(0, float(sys.argv[2]) + number * 0.02 - time.time()))
    with Database.open(Path(sys.argv[1]) / str(number) / "ledger.sqlite3"):
        pass
"""


def test_processes_that_open_it_first_at_the_same_moment(tmp_path):
    """All get it: none is told that it is busy, damaged or gone while another makes it."""
    start = str(time.time() + 1.5)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN_ALL, str(tmp_path), start],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    said = [process.communicate()[1].splitlines()[-1:] for process in processes]
    assert said == [[]] * PROCESSES


COUNT_ONCE = """
import sys
from pathlib import Path
from microwallet.ledger.database import Database, to_text
with Database.open(Path(sys.argv[1])) as database, database.write_vouchers():
    pass
"""


def test_two_connections_in_a_process_beside_another_process(tmp_path):
    """Another that opens and closes the ledger is seen by both, and does not delete the log they use."""
    path = tmp_path / "ledger.sqlite3"
    with Database.open(path) as first, Database.open(path) as second:
        for expected in (1, 2):
            subprocess.run(
                [sys.executable, "-c", COUNT_ONCE, str(path)],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                check=True,
            )
            assert path.with_name("ledger.sqlite3-wal").exists()
            for database in (first, second):
                with database.read() as connection:
                    assert connection.execute("SELECT number FROM generation").fetchone() == (expected,)


def sell_once(database):
    """One of many transactions, and make it durable."""
    with database.write_one_of_many():
        pass
    database.sync()


def test_a_ledger_elsewhere(tmp_path):
    """A link to it, to another disk for instance, will do: its log is beside the file."""
    (tmp_path / "disk").mkdir()
    path = tmp_path / "ledger.sqlite3"
    path.symlink_to(tmp_path / "disk" / "real.sqlite3")
    with Database.open(path) as database:
        sell_once(database)


def test_a_backup_without_a_log(tmp_path):
    """SQLite makes one of the ledger (VACUUM INTO): in its place it gets a log again."""
    path, backup = tmp_path / "ledger.sqlite3", tmp_path / "backup.sqlite3"
    with Database.open(path) as database, database.read() as connection:
        connection.execute("VACUUM INTO ?", (str(backup),))
    backup.replace(path)
    with Database.open(path) as database:
        sell_once(database)


@pytest.mark.parametrize("rows", [1, 20_000])
def test_a_disk_that_fails_in_a_transaction(tmp_path, rows):
    """It is told as what it is, however far the transaction came, and the next one succeeds."""
    path = tmp_path / "ledger.sqlite3"

    def write(database):
        with database.write() as connection:
            connection.executemany(
                "INSERT INTO challenges VALUES (?, ?, 1)", ((str(one), "x" * 300) for one in range(rows))
            )

    with Database.open(path) as database:
        size = path.with_name(path.name + "-wal").stat().st_size
        with no_file_grows_beyond(size), pytest.raises(LedgerUnwritable):
            write(database)
        write(database)


def test_a_disk_without_room_for_the_log(tmp_path):
    """SQLite calls it an I/O error: the hint is to look at the room as well as at the permissions."""
    path = tmp_path / "ledger.sqlite3"
    Database.open(path).close()
    with no_file_grows_beyond(0), pytest.raises(LedgerUnwritable) as raised:
        Database.open(path)
    assert "disk I/O error" in raised.value.message
    assert raised.value.hint == f"ls -ld {tmp_path} {path}; df -h {tmp_path}"


def test_too_many_open_files_are_no_disk_that_failed(tmp_path):
    """What could not be made durable yet is by the next sync."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Database.open(tmp_path / "ledger.sqlite3") as database:
        with database.write_one_of_many():
            pass
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            with pytest.raises(LedgerUnwritable, match="Too many open files"):
                database.sync()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        database.check_usable()
        sell_once(database)


@pytest.mark.parametrize("by", ["nothing", "a copy"])
def test_a_ledger_that_is_replaced_while_it_is_open(tmp_path, by):
    """What were written would be in a file that nobody opens again."""
    path = tmp_path / "ledger.sqlite3"
    with Database.open(path) as database:
        sell_once(database)
        copy = path.read_bytes()
        path.rename(tmp_path / "moved")
        if by == "a copy":
            path.write_bytes(copy)
        for use in (sell_once, Database.check_usable, Database.check_writable):
            with pytest.raises(LedgerReplaced, match=f"the ledger {path} was moved or replaced"):
                use(database)
        path.unlink(missing_ok=True)
        (tmp_path / "moved").rename(path)
        sell_once(database)


@pytest.mark.parametrize("failure", [errno.EIO, errno.ESTALE, errno.EACCES, errno.ETIMEDOUT])
def test_a_ledger_that_cannot_be_looked_at_is_not_replaced(tmp_path, monkeypatch, failure):
    """As where its file system is away for a moment: nothing is recorded until it is there again."""
    path = tmp_path / "ledger.sqlite3"
    with Database.open(path) as database:
        sell_once(database)

        def away(self, **_):
            raise OSError(failure, os.strerror(failure), str(self))

        with monkeypatch.context() as patched:
            patched.setattr(Path, "stat", away)
            database.check_usable()
            for use in (sell_once, Database.check_writable):
                with pytest.raises(LedgerUnwritable, match=os.strerror(failure)):
                    use(database)
        sell_once(database)


@contextmanager
def no_file_grows_beyond(size):
    """A disk that fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def older(tmp_path, monkeypatch):
    """The path of a ledger with 10,000 challenges, older than a version that gives each two columns more."""
    path = tmp_path / "ledger.sqlite3"
    with Database.open(path) as database, database.write() as connection:
        connection.executemany(
            "INSERT INTO challenges (id, channel_id, expires_at) VALUES (?, 'c', 1)",
            ((f"{one:0300d}",) for one in range(10_000)),
        )
    following = (
        "ALTER TABLE challenges ADD COLUMN realm TEXT",
        "ALTER TABLE challenges ADD COLUMN digest TEXT",
        "UPDATE challenges SET digest = id",
    )
    monkeypatch.setattr(opening, "VERSIONS", {**VERSIONS, NEXT: following})
    return path


def columns(path):
    """The columns of challenges, and the version of the ledger."""
    with closing(sqlite3.connect(path)) as connection:
        named = connection.execute("SELECT name FROM pragma_table_info('challenges')").fetchall()
        return [name for (name,) in named], connection.execute("PRAGMA user_version").fetchone()[0]


OLD = (["id", "channel_id", "expires_at"], NEXT - 1)
NEW = ([*OLD[0], "realm", "digest"], NEXT)


def test_a_ledger_is_migrated_when_it_is_opened(older):
    """All it held is in it, and in a copy of what it was, which stays as it is."""
    for _ in range(2):
        with Database.open(older) as database, database.read() as connection:
            held = connection.execute("SELECT count(*), min(id = digest) FROM challenges").fetchone()
            assert held == (10_000, 1)
    copy = older.with_name(f"ledger.sqlite3.before-migration-{NEXT}")
    assert (columns(older), columns(copy)) == (NEW, OLD)
    assert copy.stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("older")
def test_a_new_ledger_has_the_newest_version(tmp_path):
    """Of one that is made there is nothing to keep a copy of."""
    path = tmp_path / "other" / "ledger.sqlite3"
    Database.open(path).close()
    assert columns(path) == NEW
    assert list(path.parent.glob("*before*")) == []


@pytest.mark.parametrize("version", [1, min(VERSIONS) - 1])
def test_a_ledger_from_before_the_first_release(tmp_path, version):
    """It is refused, and left as it is, byte for byte."""
    path = tmp_path / "ledger.sqlite3"
    Database.open(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    held = path.read_bytes()
    for _ in range(2):
        with pytest.raises(
            LedgerError, match=f"has version {version}, from before the first release"
        ) as raised:
            Database.open(path)
        assert type(raised.value) is LedgerError
    assert path.read_bytes() == held
    assert sorted(one.name for one in tmp_path.iterdir()) == ["ledger.mark", "ledger.sqlite3"]


def test_a_disk_that_fails_in_a_migration(older):
    """It is told as what it is; the ledger is as it was, and is migrated once there is room."""
    older.with_name(f"{older.name}.before-migration-{NEXT}").touch()
    with no_file_grows_beyond(1_000_000), pytest.raises(LedgerUnwritable):
        Database.open(older)
    assert columns(older) == OLD
    Database.open(older).close()
    assert columns(older) == NEW


def test_a_migration_that_was_killed_leaves_nothing_behind(older, tmp_path):
    """What it had of a copy, as large as the ledger, is removed by the next; the copy itself stays."""
    copy = older.with_name(f"ledger.sqlite3.before-migration-{NEXT}")
    for left in (".4711", ".4711-journal"):
        copy.with_name(copy.name + left).write_bytes(b"half a ledger")
    Database.open(older).close()
    assert [one.name for one in tmp_path.glob("*before*")] == [copy.name]


@pytest.mark.parametrize("is_large", [True, False])
def test_a_migration_that_takes_long_is_told_of_once(older, monkeypatch, is_large):
    """Before it begins; opened again, nothing is said, and a small ledger is no news."""
    monkeypatch.setattr(opening, "LARGE_BYTES", 1 if is_large else 10**9)
    said = []
    for _ in range(2):
        Database.open(older, say=said.append).close()
    assert [line.startswith(f"migrating the ledger {older}, 7 MB: ") for line in said] == [True] * is_large


def test_who_waits_for_a_migration_says_so(older, tmp_path, monkeypatch):
    """Longer than for a busy ledger, and at once when it has ended; but not for ever."""
    monkeypatch.setattr(opening, "QUIET_SECONDS", 0.0)
    said = []
    with opening.alone(tmp_path), monkeypatch.context() as patched:
        patched.setattr(opening, "MIGRATION_SECONDS", 0.0)
        with pytest.raises(LedgerBusy, match="has been migrating"):
            Database.open(older)
    with ThreadPoolExecutor(1) as pool:
        with opening.alone(tmp_path):
            waiting = pool.submit(lambda: Database.open(older, busy_seconds=0.1, say=said.append).close())
            with pytest.raises(TimeoutError):
                waiting.result(0.3)
        waiting.result(10)
    assert said == [f"another process migrates the ledger {older} to this version: waiting for it"]


class TestMigratedMeanwhile:
    """A newer microwallet has migrated the ledger while an older one has it open."""

    @pytest.fixture
    def database(self, tmp_path):
        path = tmp_path / "ledger.sqlite3"
        with Database.open(path) as opened:
            other = sqlite3.connect(path, isolation_level=None)
            other.execute("ALTER TABLE challenges RENAME TO questions")
            other.execute(f"PRAGMA user_version = {NEXT}")
            other.close()
            yield opened

    @pytest.mark.parametrize(
        "transaction",
        [
            lambda database: database.write(),
            lambda database: database.write_vouchers(),
            lambda database: database.write_one_of_many(),
        ],
    )
    def test_nothing_is_written_any_more(self, database, transaction):
        """LedgerTooNew before anything is done, as at opening; no transaction stays open."""
        with pytest.raises(LedgerTooNew) as opening:
            Database.open(database.path)
        for _ in range(2):
            with pytest.raises(LedgerTooNew) as writing, transaction(database):
                raise AssertionError("it was let in")
            assert str(writing.value) == str(opening.value)
            assert "start this again" in writing.value.hint
        with database.read() as connection:
            assert not connection.in_transaction
            assert connection.execute("SELECT number FROM generation").fetchone() == (0,)

    def test_what_is_read_in_vain(self, database):
        """What is no longer where it was is told as that; what can still be read can be."""
        with pytest.raises(LedgerTooNew), database.read() as connection:
            connection.execute("SELECT * FROM challenges")
        with pytest.raises(LedgerTooNew):
            database.check_unchanged()


@pytest.mark.parametrize("held_seconds", [0.005, 0.1])
def test_a_gateway_waits_for_its_turn(tmp_path, held_seconds):
    """Whether another connection ends its transaction soon or late; its patience is then as before."""
    path = tmp_path / "ledger.sqlite3"
    begun = threading.Event()

    def hold():
        with Database.open(path) as other, other.write():
            begun.set()
            time.sleep(held_seconds)

    with Database.open(path) as database:
        holder = threading.Thread(target=hold)
        holder.start()
        begun.wait()
        with database.write_one_of_many() as (connection, _):
            connection.execute("SELECT 1")
        holder.join()
        with database.read() as connection:
            assert connection.execute("PRAGMA busy_timeout").fetchone() == (30_000,)


def test_a_transaction_of_many_that_fails_before_it_has_begun(tmp_path):
    """The next ordinary one is durable when it ends, all the same."""

    def deny(_action, name, *_):
        return sqlite3.SQLITE_DENY if name == "busy_timeout" else sqlite3.SQLITE_OK

    with Database.open(tmp_path / "ledger.sqlite3") as database, database.read() as connection:
        connection.set_authorizer(deny)
        with pytest.raises(LedgerError), database.write_one_of_many():
            raise AssertionError("it was let in")
        connection.set_authorizer(None)
        with database.write():
            assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_gateway_does_not_wait_for_ever(tmp_path):
    """LedgerBusy once its patience is over."""
    path = tmp_path / "ledger.sqlite3"
    with (
        Database.open(path) as other,
        Database.open(path, busy_seconds=0.1) as database,
        other.write(),
        pytest.raises(LedgerBusy),
        database.write_one_of_many(),
    ):
        raise AssertionError("two transactions at once")
