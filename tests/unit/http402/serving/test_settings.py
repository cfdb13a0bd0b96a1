"""What `serve` reads of a file and of flags."""

from __future__ import annotations

import pytest

from microwallet.errors import UsageError
from microwallet.http402.charging.fee_policy import fee_policy
from microwallet.http402.serving.listening import bind, certificate_warnings, check_is_private
from microwallet.http402.serving.proxy import ReverseProxy
from microwallet.http402.serving.settings import Settings

FILE = """
upstream = "http://127.0.0.1:9000"
port = 9402
realm = "api.example.org"
account = "bob"
network = "base-sepolia"
workers = 2
settle-above = "5 USDC"
settle-idle = "2h"
tls-cert = "tls/cert.pem"
tls-key = "tls/key.pem"

[[routes]]
path = "/free"
free = true

[[routes]]
path = "/**"
price = "0.001 USDC"
"""


@pytest.fixture
def file(tmp_path):
    """Writes a configuration file."""

    def write(text=FILE):
        path = tmp_path / "gateway.toml"
        path.write_text(text)
        return path

    return write


def test_a_file_says_all(file, tmp_path):
    """Paths in it are beside it; a single amount is a list of one."""
    settings = Settings.read(file(), {})
    assert (settings.upstream, settings.host, settings.port) == ("http://127.0.0.1:9000", "127.0.0.1", 9402)
    assert (settings.realm, settings.account, settings.network) == ("api.example.org", "bob", "base-sepolia")
    assert (settings.workers, settings.settle_above, settings.idle_seconds) == (2, ["5 USDC"], 7200)
    assert settings.tls_cert == str(tmp_path / "tls/cert.pem")
    assert [route["path"] for route in settings.routes] == ["/free", "/**"]


def test_flags_win(file):
    """Whatever was given as a flag; what was not is the file's."""
    settings = Settings.read(file(), {"port": 1, "settle-above": ["1 USDC", "1 ETH"], "realm": None})
    assert (settings.port, settings.settle_above, settings.realm) == (
        1,
        ["1 USDC", "1 ETH"],
        "api.example.org",
    )


def test_one_line_is_routes():
    """Free paths come before the price of everything else."""
    settings = Settings.read(
        None,
        {
            "price": "1 USDC",
            "per": "event",
            "free": ["/a", "/b/**"],
            "description": "News",
            "suggested-deposit": "5 USDC",
        },
    )
    assert settings.routes == [
        {"path": "/a", "free": True},
        {"path": "/b/**", "free": True},
        {
            "path": "/**",
            "price": "1 USDC",
            "per": "event",
            "description": "News",
            "suggested-deposit": "5 USDC",
        },
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("upstraem = 'x'", "did you mean upstream?"),
        ("port = '8402'", "port is '8402'; a number is expected"),
        ("port = true", "a number is expected"),
        ("upstream = 3", "a text is expected"),
        ("settle-idle = 900", "a text is expected"),
        ("tls-key = true", "a text is expected"),
        ("routes = [1]", "a list of tables is expected"),
        ("behind-tls-proxy = [1]", "a list of texts is expected"),
        ("behind-tls-proxy = ['nonsense']", "behind-tls-proxy: 'nonsense' is no address of a proxy"),
        ("settle-above = 5", "a list of texts is expected"),
        ("port = 65536", "not between 0 and 65535"),
        ("workers = 0", "not between 1 and"),
        ("settle-idle = '0s'", "less than 1 s"),
        ("settle-idle = 'often'", "not a duration"),
        ("tls-cert = 'a'", "go together"),
        ("tls-cert = 'a'\ntls-key = 'b'\nbehind-tls-proxy = ['::1']", "either"),
        ("[[routes", "is no TOML"),
        ('realm = "a\\nb"', r"gateway.toml: realm: 'a\nb' holds a control character"),
        ('[[routes]]\ndescription = "a\\nb"', r"route 1: description: 'a\nb' holds a control character"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(file, text, said):
    """UsageError, with what was perhaps meant."""
    with pytest.raises(UsageError) as raised:
        Settings.read(file(text), {})
    assert said in raised.value.message


@pytest.mark.parametrize("flags", [{"port": 0, "workers": 1}, {"port": 65535, "workers": 64}])
def test_what_is_between_counts_both_ends(flags):
    """As is said of a port and of workers that are refused."""
    settings = Settings.read(None, flags)
    assert {"port": settings.port, "workers": settings.workers} == flags


@pytest.mark.parametrize(
    ("text", "flags", "hint"),
    [
        ("behind-tls-proxy = ['nonsense']", {}, 'behind-tls-proxy = ["127.0.0.1"]'),
        ("", {"behind-tls-proxy": ["nonsense"]}, "--behind-tls-proxy 127.0.0.1"),
    ],
)
def test_the_hint_about_a_proxy_can_be_typed(file, text, flags, hint):
    """In a file as by a flag; it was half of a sentence, and no list."""
    with pytest.raises(UsageError, match="no address of a proxy, and no network of such") as raised:
        Settings.read(file(text), flags)
    assert raised.value.hint == hint


@pytest.mark.parametrize("key", ["price", "free", "per", "suggested-deposit"])
def test_what_is_of_a_route_is_told_to_be(file, key):
    """`--price` is a flag of the gateway, and a file has it in a route alone: it is told where."""
    with pytest.raises(UsageError) as raised:
        Settings.read(file(f"{key} = 1"), {})
    assert raised.value.message.endswith(f"gateway.toml: {key} is a setting of a route")
    assert raised.value.hint == '[[routes]], then path = "/**" and price = "0.001 USDC"'


def test_what_is_sold_is_said_once(file):
    """A price by a flag beside routes in a file is refused, and so is a free path without a price."""
    with pytest.raises(UsageError, match="describes routes"):
        Settings.read(file(), {"price": "1 USDC"})
    with pytest.raises(UsageError, match="what does everything else cost"):
        Settings.read(None, {"free": ["/"]})


def test_a_file_that_is_not_there_is_named(tmp_path):
    """UsageError with its name, and a line to type."""
    path = tmp_path / "not there.toml"
    with pytest.raises(UsageError, match=r"not there\.toml cannot be read") as raised:
        Settings.read(path, {})
    assert raised.value.hint == f"ls -l '{path}'"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "127.0.0.1.example.org", ""])
def test_elsewhere_nothing_listens_in_the_clear(host):
    """Not without TLS or a proxy that does it; an empty address is every address."""
    with pytest.raises(UsageError, match="in the clear"):
        bind(Settings(host=host, port=0))


def test_an_address_of_ipv6_has_no_brackets():
    """As in a URL it is refused for its brackets, with what to write: it may be this machine's own."""
    with pytest.raises(UsageError, match="without brackets") as refused:
        bind(Settings(host="[::1]", port=0))
    assert refused.value.hint == "--host ::1"


@pytest.mark.parametrize(
    ("flags", "named", "mended"),
    [({}, "gateway.toml: host: ", 'host = "::1"'), ({"host": "[::1]"}, "--host: ", "--host ::1")],
)
def test_an_address_that_is_refused_is_named_where_it_was_written(file, flags, named, mended):
    """The file and its key, or the flag, and what mends it there."""
    with pytest.raises(UsageError, match="without brackets") as refused:
        check_is_private(Settings.read(file('host = "[::1]"'), flags))
    assert named in refused.value.message
    assert refused.value.hint == mended
    with pytest.raises(UsageError, match=r"host: 0\.0\.0\.0 can be reached by others"):
        check_is_private(Settings.read(file('host = "0.0.0.0"'), dict.fromkeys(flags, "0.0.0.0")))


def test_an_address_of_another_machine():
    """Another port would change nothing."""
    with pytest.raises(UsageError, match="cannot be listened on") as refused:
        bind(Settings(host="192.0.2.1", port=0, behind_tls_proxy=["10.0.0.1"]))
    assert refused.value.hint == "an address of this machine; --host 0.0.0.0 is all of them"


def test_behind_a_proxy_it_listens():
    """A named proxy, or a certificate, is enough."""
    bind(Settings(host="0.0.0.0", port=0, behind_tls_proxy=["10.0.0.1"])).close()


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("upstraem = 'x'", ": there is no setting 'upstraem'; ", 'upstream = "http://127.0.0.1:9000"'),
        ("colour = 'x'", ": there is no setting 'colour'; ", "microwallet help selling"),
        (
            "price = 0.001 USDC",
            " is no TOML: ",
            'microwallet help selling  (text is in quotes, as in price = "0.001 USDC")',
        ),
        ("port = 65536", ": port 65536 is not between", "port = 8402"),
        ("workers = 'two'", ": workers is 'two'; a number", "workers = 2"),
        ("settle-above = 5", ": settle-above is 5; a list of texts", 'settle-above = ["5 USDC"]'),
        ("settle-above = [5]", ": settle-above is [5]; a list of texts", 'settle-above = ["5 USDC"]'),
        (
            "routes = [5]",
            ": routes is [5]; a list of tables",
            '[[routes]], then path = "/**" and price = "0.001 USDC"',
        ),
        ("routes = 5", ": routes is 5; ", '[[routes]], then path = "/**" and price = "0.001 USDC"'),
        ("tls-cert = 'a'", "there is no tls-key", 'tls-cert = "cert.pem", tls-key = "key.pem"'),
    ],
)
def test_file_and_key_are_named_with_a_line_to_type(file, text, said, hint):
    """Whoever has to mend it sees where, and what may stand there."""
    with pytest.raises(UsageError) as raised:
        Settings.read(file(text), {})
    assert said in raised.value.message
    assert raised.value.hint == hint


def test_a_certificate_in_a_form_of_openssl_alone_is_served_without_a_word(tmp_path):
    """Nothing can be said of its time; that stops nobody."""
    certificate = tmp_path / "trusted.pem"
    certificate.write_text("-----BEGIN TRUSTED CERTIFICATE-----\nAAAA\n-----END TRUSTED CERTIFICATE-----\n")
    assert certificate_warnings(Settings(tls_cert=str(certificate)), now=0) == []


def test_a_flag_without_its_other_half_gets_a_flag(file):
    """Beside a file too: the hint is written as the half was that is there."""
    with pytest.raises(UsageError, match="there is no tls-key") as raised:
        Settings.read(file("port = 1"), {"tls-cert": "a"})
    assert raised.value.hint == "--tls-cert cert.pem --tls-key key.pem"


def test_what_is_missing_is_asked_for_where_it_is_written(file):
    """In the file if there is one, else by a flag."""
    for settings, said, hint in [
        (
            Settings.read(file("port = 1"), {}),
            "gateway.toml: there is no upstream: what is served?",
            "upstream = ",
        ),
        (Settings.read(None, {"port": 1}), "what is served?", "--upstream "),
    ]:
        with pytest.raises(UsageError) as raised:
            settings.require("upstream", "what is served?")
        assert raised.value.message.endswith(said)
        assert raised.value.hint.startswith(hint)


def test_a_flag_that_a_hint_names_is_a_key_where_there_is_a_file(file):
    """The value is the same, written as the file has it."""
    for settings, hint in [
        (Settings.read(file("upstream = '127.0.0.1:9'"), {}), 'upstream = "http://127.0.0.1:9"'),
        (Settings.read(None, {"upstream": "127.0.0.1:9"}), "--upstream http://127.0.0.1:9"),
        (Settings.read(file('upstream = "http://it\'s:9/x"'), {}), 'upstream = "http://it\'s:9"'),
    ]:
        with pytest.raises(UsageError) as raised, settings.names.naming("upstream"):
            ReverseProxy(settings.upstream)
        assert raised.value.hint == hint


@pytest.mark.parametrize(("per", "field"), [("header", "X-Tokens-Used"), ("header:X-Words", "X-Words")])
def test_units_by_header_need_a_file(per, field):
    """A command line cannot tell the maximum: the hint has the lines."""
    with pytest.raises(UsageError, match="--per header needs") as raised:
        Settings.read(None, {"price": "1 USDC", "per": per})
    assert f'per = "header", units-header = "{field}", max-units = 4000' in raised.value.hint


@pytest.mark.parametrize(
    ("per", "said"),
    [
        ("minute", "there are: request, event; a file has header too"),
        ("headers", "there are: request, event; a file has header too"),
        ("evnt", "did you mean event?"),
    ],
)
def test_units_of_the_flag(per, said):
    """Only what the flag takes is offered for it."""
    with pytest.raises(UsageError) as raised:
        Settings.read(None, {"price": "1 USDC", "per": per})
    assert raised.value.message == f"--per is {per!r}; {said}"
    assert raised.value.hint == "--per event"


def test_a_gas_budget_for_nothing_is_named(file):
    """Where it was written, and what has to stand beside it."""
    for names, place in [
        (Settings.read(file("gas-budget = '1 ETH'"), {}).names, "gateway.toml: gas-budget: "),
        (Settings.read(None, {"gas-budget": "1 ETH"}).names, "--gas-budget: "),
    ]:
        with pytest.raises(UsageError) as raised:
            fee_policy(None, "1 ETH", lambda _text: pytest.fail("no amount is read"), names)
        assert f"{place}nobody's gas is paid without pay-fees-from" in raised.value.message
        assert raised.value.hint == '--pay-fees-from "1 USDC"'
