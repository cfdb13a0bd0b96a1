"""Which route a request is of, and that no spelling of a path gets past the one that costs."""

from __future__ import annotations

import itertools
import urllib.parse
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microwallet.domain.identifiers import ChainId, checksum_address
from microwallet.domain.money import Amount, Asset
from microwallet.errors import MalformedMessage, UsageError
from microwallet.http402.charging.paths import PATH_LIMIT, canonical_path
from microwallet.http402.charging.routes import Unit, parse_routes
from microwallet.http402.charging.setting_names import SettingNames

USDC = Asset(chain_id=ChainId(31337), token=checksum_address(b"\1" * 20), symbol="USDC", decimals=6)
ETH = Asset(chain_id=ChainId(31337), token=checksum_address(bytes(20)), symbol="ETH", decimals=18)

FILE = SettingNames(file=Path("FILE"))
FLAGS = SettingNames(flags=frozenset({"price", "free", "per"}))


def amount(text: str) -> Amount:
    return Amount.parse(text, ETH if text.endswith("ETH") else USDC)


def routes(*tables):
    return parse_routes(tables, amount)


class TestCanonicalPath:
    """One spelling of a path."""

    @pytest.mark.parametrize(
        ("raw", "canonical"),
        [
            ("/", "/"),
            ("/a/b/", "/a/b/"),
            ("/%61%2d%7E", "/a-~"),
            ("/a%c3%a4?".removesuffix("?"), "/a%C3%A4"),
            ("/a%20b;c=d/@:!$&'()*+,", "/a%20b;c=d/@:!$&'()*+,"),
            ("/%2561", "/%2561"),
            ("/...", "/..."),
            ("/a%3Fb", "/a%3Fb"),
        ],
    )
    def test_spellings_become_one(self, raw, canonical):
        """Needless escapes are undone once, needed ones are in capitals."""
        assert canonical_path(raw) == canonical
        assert canonical_path(canonical) == canonical

    @pytest.mark.parametrize(
        "raw",
        [
            "",
            "a",
            "ab",
            "*",
            "http://host/a",
            "//a",
            "/a//b",
            "/a//",
            "/.",
            "/..",
            "/a/../b",
            "/a/./b",
            "/%2e%2E/b",
            "/a/%2e",
            "/.%2e/",
            "/a/..;/b",
            "/a/%2E.;x=1/b",
            "/.;",
            "/a/;/b",
            "/a/;x",
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/a\\b",
            "/a%00",
            "/a\x00",
            "/a b",
            "/a\tb",
            "/ä",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a?b",
            "/a#b",
            '/a"b',
            "/" + "a" * PATH_LIMIT,
        ],
    )
    def test_what_could_be_read_differently_is_refused(self, raw):
        """Empty and dotted segments, with parameters too, disguised slashes, bytes that need an escape."""
        with pytest.raises(MalformedMessage):
            canonical_path(raw)

    @given(st.text(st.sampled_from("/.%2eE5cCfF0aä\\?#;~ \0"), max_size=12).map(lambda text: "/" + text))
    def test_whatever_is_let_through_means_the_same_everywhere(self, raw):
        """Decoded once, as an upstream does, it has the same segments, none empty, dotted or climbing."""
        try:
            path = canonical_path(raw)
        except MalformedMessage:
            return
        decoded = urllib.parse.unquote(path).split("/")
        assert decoded == [urllib.parse.unquote(segment) for segment in path.split("/")]
        assert not {".", ".."} & set(decoded)
        assert "" not in decoded[1:-1]
        named = [segment.partition(";")[0] for segment in path.split("/") if segment]
        assert not {"", ".", ".."} & set(named)
        assert urllib.parse.unquote(raw) == urllib.parse.unquote(path)


class TestRoutes:
    """The table."""

    TABLE = (
        {"path": "/health", "free": True},
        {"method": "GET", "path": "/articles/*", "price": "0.001 USDC"},
        {"method": "POST", "path": "/articles/**", "price": "2 USDC"},
        {"path": "/files/**", "price": "3"},
        {"method": "GET", "path": "/", "price": "4"},
    )

    @pytest.mark.parametrize(
        ("method", "path", "expected"),
        [
            ("GET", "/health", "free"),
            ("DELETE", "/health", "free"),
            ("GET", "/health/", None),
            ("GET", "/articles/1", "0.001 USDC"),
            ("HEAD", "/articles/1", "0.001 USDC"),
            ("PUT", "/articles/1", None),
            ("GET", "/articles", None),
            ("GET", "/articles/1/2", None),
            ("POST", "/articles/1/2/3", "2 USDC"),
            ("POST", "/articles/", "2 USDC"),
            ("POST", "/articles", "2 USDC"),
            ("POST", "/article", None),
            ("PATCH", "/files/a/b", "3 USDC"),
            ("GET", "/Files/a", None),
            ("GET", "/", "4 USDC"),
            ("HEAD", "/", "4 USDC"),
            ("POST", "/", None),
            ("GET", "/other", None),
        ],
    )
    def test_the_first_that_fits_counts(self, method, path, expected):
        """By method and whole segments; what fits none is refused."""
        found = routes(*self.TABLE).find(method, path)
        told = None if found is None else "free" if found.price is None else str(found.price.amount)
        assert told == expected

    @pytest.mark.parametrize(
        ("path", "may_cost"),
        [
            ("/articles/1", False),
            ("/articles/1/", True),
            ("/Articles/1", True),
            ("/ARTICLES;v=1/1/", True),
            ("/articles/", False),
            ("/about/", False),
            ("/ABOUT/us", False),
            ("/report", True),
            ("/report/", True),
            ("/Report/", False),
            ("/django/1/", False),
            ("/django/1", False),
            ("/", False),
            ("/Other/", False),
        ],
    )
    def test_what_may_be_taken_for_something_that_costs(self, path, may_cost):
        """In small letters and without a slash at the end it is that of another route, with a price; but one
        that names what differs is meant so."""
        table = routes(
            {"path": "/articles/*", "price": "1"},
            {"path": "/about/**", "free": True},
            {"path": "/Report", "price": "2"},
            {"path": "/Report/", "free": True},
            {"path": "/django/*/", "price": "3"},
            {"path": "/**", "free": True},
        )
        found = table.find("GET", path)
        assert found is not None
        assert table.may_cost("GET", path, found) is may_cost

    @pytest.mark.parametrize(
        ("free", "path", "others"),
        [
            ("/*", "/", [{"path": "/**", "price": "1"}]),
            ("/docs/*/", "/docs/1/", []),
            ("/docs/*/", "/docs/1;v=2/", []),
        ],
    )
    def test_what_is_free_stays_so(self, free, path, others):
        """Where it cannot be taken for what costs: a slash alone is a path, and not all paths are sold."""
        table = routes({"path": free, "free": True}, *others)
        found = table.find("GET", path)
        assert found is not None
        assert not table.may_cost("GET", path, found)

    @pytest.mark.parametrize("path", ["/docs/", "/Docs"])
    def test_what_a_route_names_whole_is_meant_so(self, path):
        """Though all that no route names has a price."""
        table = routes({"path": path, "free": True}, {"path": "/**", "price": "1"})
        found = table.find("GET", path)
        assert found is not None
        assert not table.may_cost("GET", path, found)

    def test_all_of_a_price(self):
        """Units by a header: the most is reserved, and a channel may have just that."""
        (route,) = routes(
            {
                "path": "/v1/**",
                "price": "0.0001 USDC",
                "per": "header",
                "units-header": "X-Tokens",
                "max-units": 5000,
                "min-voucher-delta": "0.01 USDC",
                "suggested-deposit": "0.5 USDC",
                "description": "one token",
            }
        ).routes
        assert route.price is not None
        assert (route.price.unit, route.price.unit_type, route.price.header) == (
            Unit.HEADER,
            "unit",
            "x-tokens",
        )
        assert str(route.price) == "0.0001 USDC for each unit, at most 0.5 USDC"
        assert route.price.reserved == 500_000
        assert (route.price.min_voucher_delta, route.price.suggested_deposit) == (10_000, 500_000)

    @pytest.mark.parametrize(
        ("table", "message"),
        [
            ({"price": "1"}, "no path"),
            ({"path": "/a"}, "neither a price nor free"),
            ({"path": "/a", "free": True, "price": "1"}, "it is free, so it has no price"),
            ({"path": "/a", "prize": "1"}, "did you mean price"),
            ({"path": "/a", "price": 1}, "price is 1; a text is expected"),
            ({"path": "/a", "price": "0"}, "route 1"),
            ({"path": "/a", "price": "0.0000001"}, "USDC has 6"),
            ({"path": "a", "price": "1"}, "does not begin with /"),
            ({"path": "/a/../b", "price": "1"}, "dotted"),
            ({"path": "/%61", "price": "1"}, "write /a"),
            ({"path": "/a;b", "price": "1"}, "has parameters"),
            ({"path": "/a*", "price": "1"}, "whole segment"),
            ({"path": "/**/a", "price": "1"}, "at the end"),
            ({"path": "/a", "price": "1", "method": "get"}, "no method"),
            ({"path": "/a", "price": "1", "method": "GET, POST"}, "no method"),
            ({"path": "/a", "price": "1", "per": "token"}, "per is 'token'"),
            ({"path": "/a", "price": "1", "per": "header"}, "go together"),
            ({"path": "/a", "price": "1", "units-header": "x", "max-units": 5}, "go together"),
            ({"path": "/a", "price": "1", "units-header": "x"}, "go together"),
            ({"path": "/a", "price": "1", "per": "event", "max-units": 5}, "go together"),
            (
                {"path": "/a", "price": "1", "per": "header", "units-header": "X Tokens:", "max-units": 5},
                "units-header is 'X Tokens:'; the name of a field is expected",
            ),
            (
                {"path": "/a", "price": "1", "per": "header", "units-header": "x", "max-units": 0},
                "at least 1",
            ),
            ({"path": "/a", "price": "1", "min-voucher-delta": "1 ETH"}, "in ETH, the price in USDC"),
            ({"path": "/a", "price": "1", "suggested-deposit": "0.999999"}, "one request takes 1 USDC"),
        ],
    )
    def test_a_mistake_is_named(self, table, message):
        """UsageError with the number of the route and what is wrong."""
        with pytest.raises(UsageError, match="route 1: ") as raised:
            routes(table)
        assert message in raised.value.message


@pytest.mark.parametrize("method", ["CONNECT", "TRACE"])
def test_what_is_for_intermediaries_is_not_sold(method):
    """A tunnel or an echo is no resource, not even a free one."""
    table = routes({"path": "/free/**", "free": True}, {"path": "/**", "price": "1 USDC"})
    assert table.find(method, "/free/a") is None
    assert table.find(method, "/a") is None


@pytest.mark.parametrize(
    ("names", "table", "said", "hint"),
    [
        (FILE, {"path": "/a", "price": "cheap"}, "FILE: route 1: price: 'cheap' is not", "price = "),
        (
            FILE,
            {"path": "/a", "price": "0 USDC"},
            "FILE: route 1: price: '0 USDC' is zero",
            "price = ",
        ),
        (
            FILE,
            {"path": "/a", "prise": "1"},
            "FILE: route 1: there is no setting 'prise'",
            "price = ",
        ),
        (FILE, {"path": "a", "free": True}, "FILE: route 1: path: 'a' is no path", "path = "),
        (FILE, {"path": "/a/{id}/b", "free": True}, "FILE: route 1: path: '/a/{id}/b': a", 'path = "/a/*/b"'),
        (FILE, {"path": "/a?b=1", "free": True}, "FILE: route 1: path: '/a?b=1' has a query", 'path = "/a"'),
        (
            FILE,
            {"path": "/a", "price": "1", "settle-above": "1"},
            "FILE: route 1: settle-above is no setting of a route",
            "write it above the first [[routes]]: settle-above = ",
        ),
        (FILE, {"path": "/a"}, "FILE: route 1: it has neither a price", "price = "),
        (
            FILE,
            {"path": "/a", "price": "1", "min-voucher-delta": "1 ETH"},
            "FILE: route 1: min-voucher-delta: it is in ETH, the price in USDC",
            'min-voucher-delta = "1 USDC"',
        ),
        (
            FILE,
            {
                "path": "/a",
                "price": "0.1",
                "per": "header",
                "units-header": "X-Units",
                "max-units": 5,
                "suggested-deposit": "0.4",
            },
            "FILE: route 1: suggested-deposit: one request takes 0.5 USDC",
            'suggested-deposit = "0.5 USDC"',
        ),
        (FLAGS, {"path": "/**", "price": "0 USDC"}, "--price: '0 USDC' is zero", '--price "0.001 USDC"'),
        (FLAGS, {"path": "a", "free": True}, "--free: 'a' is no path", '--free "/articles/**"'),
        (FLAGS, {"path": "/**", "price": "1", "per": "word"}, "--per is 'word'", "--per event"),
    ],
)
def test_a_mistake_is_named_where_it_was_written(names, table, said, hint):
    """By file, route and key, or by its flag; with an example that can be typed."""
    with pytest.raises(UsageError) as raised:
        parse_routes([table], amount, names)
    assert raised.value.message.startswith(said)
    assert raised.value.hint.startswith(hint)


@pytest.mark.parametrize(
    ("earlier", "later", "is_reached"),
    [
        ("* /**", "GET /a", False),
        ("* /a", "GET /a", False),
        ("GET /a", "* /a", True),
        ("GET /a", "POST /a", True),
        ("GET /a", "GET /a/b", True),
        ("GET /a", "GET /a/**", True),
        ("GET /a/*", "GET /a/b", False),
        ("GET /a/b", "GET /a/*", True),
        ("GET /a/**", "GET /a", False),
        ("GET /a/**", "GET /a/*/c", False),
        ("GET /a/**", "GET /a/b/**", False),
        ("GET /a/b/**", "GET /a/**", True),
        ("GET /a/*", "GET /a/**", True),
        ("GET /*/b", "GET /a/*", True),
        ("GET /b", "HEAD /a", False),
        ("GET /b", "TRACE /a", False),
    ],
)
def test_what_no_request_reaches_is_told(earlier, later, is_reached):
    """A route behind one that fits all of its requests, or for a method that no route is for."""
    told = table_of(earlier, later).warnings()
    assert [one.startswith(f"no request reaches route 2, {later}: ") for one in told] == [True] * (
        not is_reached
    )


def test_the_route_that_comes_first_is_named():
    """By its number and what it is for."""
    (told,) = table_of("GET /b", "GET /**", "GET /a").unreachable()
    assert told[0] == 3
    assert "route 2, GET /**" in told[1]


@pytest.mark.parametrize(
    ("more", "is_told"),
    [
        ({"min-voucher-delta": "0.001 USDC"}, False),
        ({"min-voucher-delta": "0.002 USDC"}, True),
        ({"per": "event", "min-voucher-delta": "0.002 USDC"}, False),
        ({"per": "header", "units-header": "X", "max-units": 2, "min-voucher-delta": "0.002 USDC"}, False),
        ({"per": "header", "units-header": "X", "max-units": 1, "min-voucher-delta": "0.002 USDC"}, True),
    ],
)
def test_a_step_above_what_a_request_costs_is_told(more, is_told):
    """A payer with a limit between the two cannot pay."""
    table = {"method": "GET", "path": "/a", "price": "0.001 USDC", **more}
    told = parse_routes([table], amount).warnings()
    assert [one.startswith("route 1, GET /a: a payer has to authorize 0.002 USDC, ") for one in told] == [
        True
    ] * is_told


PATTERNS = st.lists(st.sampled_from(["a", "b", "*"]), min_size=1, max_size=3).flatmap(
    lambda segments: st.sampled_from(["/" + "/".join(segments), "/" + "/".join([*segments, "**"])])
)
ROUTES = st.tuples(st.sampled_from(["*", "GET", "POST"]), PATTERNS).map(" ".join)
PATHS = [path for length in range(1, 5) for path in itertools.product("abc", repeat=length)]
REQUESTS = list(itertools.product(("GET", "HEAD", "POST", "PUT"), PATHS))


@given(ROUTES, ROUTES)
def test_what_is_said_not_to_be_reached_is_not(earlier, later):
    """And what is not said so, by one earlier route, is reached by some request."""
    table = table_of(earlier, later)
    first, second = table.routes
    fitting = [request for request in REQUESTS if second.fits(*request)]
    reached = [request for request in fitting if not first.fits(*request)]
    assert bool(table.unreachable()) == (not reached)


def table_of(*words):
    return routes(*({"method": one.split()[0], "path": one.split()[1], "free": True} for one in words))
