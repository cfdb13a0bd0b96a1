"""The page for people, as a real browser shows it: on a phone and a desk, to eyes and to a screen reader."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from local_server import Handler, LocalServer

from microwallet.domain.identifiers import ChainId, checksum_address
from microwallet.domain.money import Amount, Asset
from microwallet.http402.charging.page import PAGE_HEADERS, payment_page, wants_page
from microwallet.http402.charging.routes import Price, Unit

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)"
)

ZBAR = shutil.which("zbarimg")
ETH = Asset(chain_id=ChainId(31337), token=checksum_address(bytes(20)), symbol="ETH", decimals=18)
PAYEE = checksum_address(b"\xfa" * 20)
LONG = "https://api.example.org/v1/weather/forecast?city=Malm%C3%B6&days=14&units=metric&note='a'$(b)!#"
HOSTILE = "</dd></style><script>document.title='broken'</script><img src=x onerror=alert(1)> &lt;"
PRICES = {
    "/request": Price(
        amount=Amount(10**15, ETH), unit=Unit.REQUEST, description="One article, with its figures"
    ),
    "/event": Price(amount=Amount(1, ETH), unit=Unit.EVENT),
    "/header": Price(amount=Amount(10**12 + 1, ETH), unit=Unit.HEADER, max_units=4000, description="A" * 200),
    "/hostile": Price(amount=Amount(10**15, ETH), unit=Unit.REQUEST, description=HOSTILE),
}
WIDTHS = (320, 390, 1280)
SCHEMES = ("light", "dark")

COLOURS = """(() => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), seen = []
  while (walker.nextNode()) {
    if (!walker.currentNode.data.trim()) continue
    let element = walker.currentNode.parentElement
    const colour = getComputedStyle(element).color
    while (element && getComputedStyle(element).backgroundColor == 'rgba(0, 0, 0, 0)')
      element = element.parentElement
    seen.push([walker.currentNode.data, colour, getComputedStyle(element).backgroundColor])
  }
  return seen
})()"""


class Answer(Handler):
    """A 402 with the page for PRICES of the path, as the gateway sends it."""

    def respond(self):
        assert wants_page(self.headers["Accept"])
        content = payment_page(url=LONG, price=PRICES[self.path], payee=PAYEE, network="base-sepolia")
        self.answer(402, PAGE_HEADERS, content)
        self.server.asked.append(self.path)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser.started(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def site():
    with LocalServer(Answer) as server:
        server.asked = []
        yield server


@pytest.fixture
def shown(browser, site):
    """A function that opens the page of a path on a phone."""

    def show(path: str) -> Browser:
        browser.show(width=390)
        browser.open(site.url + path)
        return browser

    return show


def complaints(browser: Browser) -> list[str]:
    """What the console says, but for the status that makes it a paid URL."""
    told = [
        str(parameters)
        for method, parameters in browser.events
        if method in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
    ]
    return [one for one in told if "status of 402" not in one]


def luminance(colour: str) -> float:
    """Relative luminance of an opaque CSS colour. WCAG 2.2."""
    channels = [int(value) / 255 for value in re.fullmatch(r"rgb\((\d+), (\d+), (\d+)\)", colour).groups()]
    red, green, blue = (
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, 1 to 21. WCAG 2.2."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_a_screen_reader_meets_all_of_it(shown):
    """A named page, one heading above two, a list of terms, steps, and a QR code with a name."""
    browser = shown("/request")
    roles = browser.roles()
    named = [pair for pair in roles if pair[0] in ("RootWebArea", "main", "heading", "region", "image")]
    assert named == [
        ("RootWebArea", "Payment required: 0.001 ETH"),
        ("main", ""),
        ("heading", "Payment required: 0.001 ETH for each request"),
        ("region", "How to pay"),
        ("heading", "How to pay"),
        ("image", "QR code: the address of this page"),
        ("region", "What happens"),
        ("heading", "What happens"),
    ]
    assert [role for role, _ in roles if role in ("term", "definition")] == ["term", "definition"] * 4
    assert [role for role, _ in roles if role in ("list", "listitem")] == ["list", *["listitem"] * 3]
    assert browser.evaluate("document.documentElement.lang") == "en"
    assert browser.evaluate("[...document.querySelectorAll('h1, h2')].map(one => one.localName)") == [
        "h1",
        "h2",
        "h2",
    ]


@pytest.mark.parametrize("path", PRICES)
def test_it_fits_every_screen(shown, path):
    """No page scrolls sideways, be the price, the address or the description as long as it likes."""
    browser = shown(path)
    for width in WIDTHS:
        browser.show(width=width)
        assert browser.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
        right = browser.evaluate(
            "Math.max(...[...document.querySelectorAll('*')].map(one => one.getBoundingClientRect().right))"
        )
        assert right <= width


def test_text_stands_out(shown):
    """Every text keeps the contrast of WCAG AA on a light screen and on a dark one, which differ."""
    browser = shown("/header")
    grounds = {}
    for scheme, width in itertools.product(SCHEMES, WIDTHS):
        browser.show(width=width, scheme=scheme)
        colours = browser.evaluate(COLOURS)
        assert len(colours) > 20
        assert [text for text, colour, ground in colours if contrast(colour, ground) < 4.5] == []
        grounds[scheme] = luminance(
            browser.evaluate("getComputedStyle(document.body.parentNode).backgroundColor")
        )
    assert grounds["light"] > 0.8
    assert grounds["dark"] < 0.05


def test_the_command_can_be_pasted(shown):
    """What is selected with one click is what a shell takes for the program, the address and the limit."""
    browser = shown("/request")
    copied = browser.evaluate(
        "getSelection().selectAllChildren(document.querySelector('pre')), getSelection().toString()"
    )
    assert copied == browser.evaluate("document.querySelector('pre').textContent")
    done = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {copied}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["microwallet", "fetch", LONG, "--max-amount", "0.001 ETH"]


@pytest.mark.skipif(ZBAR is None, reason="zbarimg is not installed (Debian: apt-get install zbar-tools)")
def test_the_qr_code_can_be_scanned(shown, tmp_path: Path):
    """A decoder that is not ours reads the address off a small dark screen and a large light one."""
    browser = shown("/request")
    for width, scheme in ((320, "dark"), (1280, "light")):
        browser.show(width=width, scheme=scheme)
        (tmp_path / f"{width}.png").write_bytes(browser.screenshot())
    done = subprocess.run(
        [
            str(ZBAR),
            "--quiet",
            "--raw",
            "--nodbus",
            "-Sdisable",
            "-Sqrcode.enable",
            *sorted(tmp_path.glob("*.png")),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [LONG] * 2


def test_it_is_one_request_and_the_console_is_silent(shown, site):
    """The policy lets the style in; no icon, script or font is asked for, and nothing is reported."""
    for path in PRICES:
        browser = shown(path)
        assert complaints(browser) == []
        assert browser.evaluate("getComputedStyle(document.querySelector('h1 span')).display") == "block"
    assert site.asked == list(PRICES)


def test_hostile_words_are_words(shown):
    """A description full of markup is shown letter for letter; the page has the same elements."""
    count = "document.querySelectorAll('*').length"
    expected = shown("/request").evaluate(count)
    browser = shown("/hostile")
    assert browser.evaluate(count) == expected
    assert browser.evaluate("document.title") == "Payment required: 0.001 ETH"
    assert browser.evaluate("document.querySelector('dd').textContent") == HOSTILE


def test_it_prints_on_white(shown):
    """On paper all is white, and the sheet has no border, whatever the screen is."""
    browser = shown("/request")
    browser.show(width=700, media="print", scheme="dark")
    for element in ("html", "main"):
        style = f"getComputedStyle(document.querySelector('{element}'))"
        assert browser.evaluate(f"{style}.backgroundColor") == "rgb(255, 255, 255)"
        assert browser.evaluate(f"{style}.borderTopWidth") == "0px"
