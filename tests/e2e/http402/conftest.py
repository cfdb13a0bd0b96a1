"""Who sells: a payee of the tests' own, counters in this process, `serve`; and `fetch` as a test calls it."""

from __future__ import annotations

from pathlib import Path

import pytest
from counter import PAYER, Counter
from http402.payee_double import Payee, payee_address, serving
from http402.running import PRICE, Serving, Upstream

from microwallet.wallet import Wallet


@pytest.fixture
def open_files():
    """The files in a home that this process has open now."""

    def of(home):
        found = Path("/proc/self/fd")
        if not found.exists():
            pytest.skip("this system does not tell which files are open")
        names = [str(one.readlink()) for one in list(found.iterdir()) if one.is_symlink()]
        return sorted({Path(name).name for name in names if name.startswith(str(home.path))})

    return of


@pytest.fixture
def payee(chain):
    """An honest payee, until a test twists it."""
    with serving(Payee(chain=chain, address=payee_address())) as served:
        yield served


@pytest.fixture
def fetch(alice, payee):
    """Alice fetches a path of the payee, with --yes and --json."""

    def run(*arguments, path="/", url=None, yes=True, **options):
        words = ["--yes"] if yes else []
        method = arguments[:1] if arguments and arguments[0].isalpha() else ()
        flags = arguments[len(method) :]
        return alice.run("fetch", *method, (url or payee.url) + path, *flags, *words, "--json", **options)

    return run


@pytest.fixture
def books(alice):
    """What alice's ledger says: channels, and the purchases on them."""

    def read():
        with Wallet.open(environment=alice.environment) as wallet:
            ledger = wallet.ledger
            with ledger.database.read() as connection:
                purchases = connection.execute(
                    "SELECT channel_id, cumulative_amount, cost, status FROM purchases ORDER BY id"
                ).fetchall()
            channels = ledger.channels.list(finalized=True)
        return channels, [(row[0], int(row[1]), int(row[2]), row[3]) for row in purchases]

    return read


@pytest.fixture
def sold_by(tmp_path):
    """Opens counters with routes, to a payer that they know."""
    opened = []

    def open_counter(*routes, **options):
        opened.append(Counter(tmp_path, routes, **options))
        opened[-1].know(PAYER)
        return opened[-1]

    yield open_counter
    for one in opened:
        one.close()


@pytest.fixture
def counter(sold_by):
    """A counter that sells everything for 1000 base units."""
    return sold_by({"path": "/**", "price": "1000"})


@pytest.fixture
def upstream():
    """What stands behind gateways."""
    with Upstream() as server:
        yield server


@pytest.fixture
def serve(bob, upstream):
    """Starts gateways before the upstream, bob's unless told otherwise, and ends them with the test."""
    started = []

    def start(*arguments, home=bob, sells=PRICE, **options):
        started.append(Serving(home, "--upstream", upstream.url, *sells, *arguments, **options))
        return started[-1].listening()

    yield start
    for one in started:
        one.kill()


@pytest.fixture
def pay(alice):
    """Alice fetches, and says yes to a channel of 1 USDC."""

    def fetch(url, *arguments, **options):
        words = ("fetch", url, "--deposit", "1 USDC", "--yes", "--json", *arguments)
        return alice.run(*words, **options)

    return fetch
