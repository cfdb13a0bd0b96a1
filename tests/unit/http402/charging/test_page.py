"""The page for a person who opens a paid URL: who gets it, what it says, and that values stay text."""

from __future__ import annotations

import shlex
from html.parser import HTMLParser
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microwallet.domain.identifiers import Address, ChainId, checksum_address
from microwallet.domain.money import Amount, Asset
from microwallet.http402.charging.page import ACCEPT_LIMIT, PAGE_HEADERS, QR_LIMIT, payment_page, wants_page
from microwallet.http402.charging.routes import Price, Unit

USDC = Asset(chain_id=ChainId(31337), token=checksum_address(b"\1" * 20), symbol="USDC", decimals=6)
PAYEE = checksum_address(b"\2" * 20)
URL = "http://127.0.0.1:8402/articles/1"
HOSTILE = (
    "</title><script>alert(1)</script>",
    "</style></pre></code>",
    "'; rm -rf ~ #",
    '" onload="alert(1)',
    "<!--",
    "]]>",
    "&lt;&#60;&amp",
    "\x00\x1b[201~\r\n\u202e\u2028",
    "$(id) `id` !! \\",
)
BROWSERS = (
    "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "text/html,application/xml;q=0.9,image/avif,image/apng,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7",
    "text/html, text/plain, text/sgml, text/css, application/xhtml+xml, */*;q=0.01",
)


class Page(HTMLParser):
    """Every tag with its attributes, but for what is drawn, and the whole text of each element."""

    def __init__(self, content: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, ...]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[tuple[str, list[str]]] = []
        self.feed(content.decode())
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, *(f"{name}={value}" for name, value in attrs if name not in ("d", "viewbox"))))
        if tag not in ("meta", "link"):
            self._open.append((tag, []))

    def handle_data(self, data):
        for _, text in self._open:
            text.append(data)

    def handle_endtag(self, tag):
        opened, text = self._open.pop()
        assert opened == tag
        self.texts.append((tag, "".join(text)))

    def handle_comment(self, data):
        self.tags.append(("comment", data))

    def of(self, tag: str) -> list[str]:
        """The texts of all elements of a kind."""
        return [text for known, text in self.texts if known == tag]

    @property
    def command(self) -> list[str]:
        """What a shell takes the command for."""
        (command,) = self.of("pre")
        return shlex.split(command)

    @property
    def facts(self) -> dict[str, str]:
        """What the page lists about the payment."""
        return dict(zip(self.of("dt"), self.of("dd"), strict=True))


def page(
    *,
    url: str = URL,
    network: str = "anvil",
    payee: Address = PAYEE,
    description: str | None = "x",
    unit: Unit = Unit.REQUEST,
    max_units: int = 1,
) -> Page:
    price = Price(amount=Amount(1000, USDC), unit=unit, max_units=max_units, description=description)
    return Page(payment_page(url=url, price=price, payee=payee, network=network))


class TestWantsPage:
    """Browsers get the page, programs get problem details."""

    @pytest.mark.parametrize(
        "accept",
        [
            *BROWSERS,
            "text/html",
            "text/*",
            "TEXT/HTML ; Q=0.5 , application/json;q=0.4",
            "text/html;charset=utf-8",
            "*/*;q=0.1, text/html;q=0.2",
            "application/xml, text/html, application/json;q=0, */*;q=0.9",
            "application/problem+json;q=0.8,text/html;q=0.9",
            ",text/html,,",
        ],
    )
    def test_who_prefers_html_gets_it(self, accept):
        """The weight of HTML is above those of JSON and of problem details."""
        assert wants_page(accept)

    @pytest.mark.parametrize(
        "accept",
        [
            "",
            "*/*",
            "application/json",
            "application/problem+json",
            "text/html, application/json",
            "text/html, application/problem+json",
            "text/html;q=0.9, */*",
            "text/html;q=0",
            "text/html;q=0, text/*",
            "text/event-stream",
            "image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5",
            "text/html;q=2",
            "text/html;q=0.1234",
            "text/html;q=\N{ARABIC-INDIC DIGIT ONE}",
            "text/html, nonsense",
            'text/html;a=","',
            "text/html," + " " * ACCEPT_LIMIT,
        ],
    )
    def test_everybody_else_gets_problem_details(self, accept):
        """Equal weights, none, and what is malformed or too long are no wish for HTML."""
        assert not wants_page(accept)

    @given(st.text())
    def test_any_text_is_answered(self, accept):
        """No field raises."""
        assert wants_page(accept) in (True, False)

    def test_a_field_made_to_be_slow_is_not(self):
        """Parameters with many ways to be read have only one: this ends."""
        assert not wants_page(f"text/html{' ; a=b ' * 250}!")
        assert not wants_page(f"text/html{'; q=1' * 250}")


class TestContent:
    """What it costs, for what, and how to pay."""

    def test_a_price_for_each_request(self):
        """The price is in title, heading and command, which bounds the payment by it."""
        shown = page(description="One article")
        assert shown.of("title") == ["Payment required: 0.001 USDC"]
        assert shown.of("h1") == ["Payment required: 0.001 USDC for each request"]
        assert shown.facts == {"For": "One article", "Address": URL, "Payee": PAYEE, "Network": "anvil"}
        assert shown.command == ["microwallet", "fetch", URL, "--max-amount", "0.001 USDC"]

    def test_a_price_by_use(self):
        """The most that a request can cost is what the command allows; no header's name is shown."""
        shown = page(unit=Unit.HEADER, max_units=500)
        assert shown.of("title") == ["Payment required: at most 0.5 USDC"]
        assert shown.facts["Units"] == "0.001 USDC each, at most 500"
        assert shown.command[3:] == ["--max-amount", "0.5 USDC"]

    def test_a_price_for_each_event(self):
        """A stream has no price in advance, so the wallet's own limit bounds it."""
        shown = page(unit=Unit.EVENT)
        assert shown.of("h1") == ["Payment required: 0.001 USDC for each event of a stream"]
        assert shown.command == ["microwallet", "fetch", URL]

    def test_no_description(self):
        """What nobody described has no row that is empty."""
        assert "For" not in page(description=None).facts

    @pytest.mark.parametrize(("length", "codes"), [(QR_LIMIT, 1), (QR_LIMIT + 1, 0), (20_000, 0)])
    def test_a_long_address_has_no_qr_code(self, length, codes):
        """A code that is too fine to be scanned is left out; the command is there all the same."""
        url = URL.ljust(length, "a")
        shown = page(url=url)
        assert [tag[0] for tag in shown.tags].count("svg") == codes
        assert shown.command[2] == url


class TestSafety:
    """Values of others stay text."""

    def test_nothing_runs_and_nothing_is_loaded(self):
        """No script, no event handler, no address; and the policy that is sent forbids them as well."""
        shown = page()
        assert not {"script", "a", "img", "form", "iframe", "object"} & {tag[0] for tag in shown.tags}
        attributes = [attribute for tag in shown.tags for attribute in tag[1:]]
        assert [one for one in attributes if one.startswith(("href=", "src=", "on", "style="))] == [
            "href=data:,"
        ]
        assert PAGE_HEADERS["content-security-policy"].startswith("default-src 'none';")
        assert "unsafe" not in PAGE_HEADERS["content-security-policy"]

    @pytest.mark.parametrize("text", [*HOSTILE, "\ud800"])
    def test_hostile_values(self, text):
        """What is known to break out of markup or quotes does not."""
        self.check(text, text, text)

    @given(st.text(min_size=1), st.text(max_size=12), st.text(min_size=1))
    def test_any_values(self, description, path, network):
        """No text changes the page's structure, and each is shown as it is."""
        self.check(description, path, network)

    def check(self, description: str, path: str, network: str) -> None:
        shown = page(description=description, url=f"https://h/{path}", network=network)
        assert shown.tags == page().tags
        assert shown.facts["For"] == as_sent(description)
        assert shown.facts["Network"] == as_sent(network)
        program, verb, url, flag, amount = shown.command
        assert [program, verb, flag, amount] == ["microwallet", "fetch", "--max-amount", "0.001 USDC"]
        assert url == shown.facts["Address"]
        assert url.isascii()
        assert url.isprintable()
        assert not set(url) & set(' "<>\\^`{|}')
        assert unquote_to_bytes(url) == unquote_to_bytes(as_sent(f"https://h/{path}"))


def as_sent(text: str) -> str:
    """A text as UTF-8 can hold it."""
    return text.encode(errors="replace").decode()
