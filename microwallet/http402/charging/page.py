"""The page that a person gets who opens a paid URL in a browser, and who is to get it."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from collections.abc import Mapping
from functools import lru_cache
from html import escape
from urllib.parse import quote

from microwallet.domain.identifiers import Address
from microwallet.domain.money import Amount
from microwallet.http402.charging.routes import Price, Unit
from microwallet.http402.wire.weights import WEIGHT, thousandths

ACCEPT_LIMIT = 2048
"""Characters of an `Accept` field that is looked into; browsers send under 200."""
QR_LIMIT = 192
"""Characters of the longest URL with a QR code; that of a longer one is too fine for a phone's camera."""

_RANGE = re.compile(
    rf"(?P<kind>[\w!#$&^.+*-]+/[\w!#$&^.+*-]+)(?:[ \t]*;[ \t]*(?![qQ]=)[\w-]+=[^\s;,\"]+)*(?:{WEIGHT})?",
    re.ASCII,
)
_URL_CHARACTERS = "%:/?#[]@!$&'()*+,;=~"
"""What may stand in a URL beside letters, digits and `-._`. RFC 3986, section 2."""
_QR_MASK = 2
"""One of the eight; to try them all for the most even pattern would take three times as long."""

_BUYS = {
    Unit.REQUEST: "for each request",
    Unit.EVENT: "for each event of a stream",
    Unit.HEADER: "for each request, by what it uses",
}

_STYLE = """
:root {
  color-scheme: light dark;
  --ground: #f5f4f0; --sheet: #fff; --ink: #1d1c19; --quiet: #625e55; --line: #e1ded5; --well: #f5f4f0;
  --accent: #0b6850;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --ground: #131311; --sheet: #1c1c19; --ink: #eceae4; --quiet: #aaa69b; --line: #35342f; --well: #11110f;
    --accent: #74d3b0;
  }
}
* { box-sizing: border-box; margin: 0; padding: 0; }
html { background: var(--ground); color: var(--ink); -webkit-text-size-adjust: 100%; text-size-adjust: 100%;
  font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: anywhere; }
main { max-width: 40rem; margin: clamp(0rem, 6vw, 4rem) auto; padding: clamp(1.25rem, 5vw, 3rem);
  background: var(--sheet); border: 1px solid var(--line); border-radius: 1rem; }
h1 { line-height: 1.2; font-weight: 400; }
h1 span { display: block; font-size: 1rem; line-height: 1.55; color: var(--quiet); }
h1 strong { display: block; margin: .25rem 0; font-size: clamp(2.25rem, 10vw, 3.25rem); font-weight: 650;
  letter-spacing: -.02em; color: var(--accent); }
h2 { margin: 2.25rem 0 .75rem; font-size: 1.125rem; font-weight: 650; }
dl { margin-top: 1.75rem; border-top: 1px solid var(--line); }
dl div { display: grid; grid-template-columns: 6rem 1fr; gap: 0 1rem; padding: .625rem 0;
  border-bottom: 1px solid var(--line); }
dt, figcaption, .quiet { color: var(--quiet); }
code { font: .9375em/1.55 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
pre { margin: .75rem 0; padding: .875rem 1rem; white-space: pre-wrap; background: var(--well);
  border: 1px solid var(--line); border-radius: .5rem; user-select: all; -webkit-user-select: all; }
figure { display: flex; flex-wrap: wrap; align-items: center; gap: 1rem 1.5rem; margin-top: 1.5rem; }
figcaption { flex: 1 1 12rem; }
figure div { flex: 0 0 12rem; max-width: 100%; background: #fff; border: 1px solid var(--line);
  border-radius: .5rem; overflow: hidden; forced-color-adjust: none; }
pre span { display: inline-block; }
svg { display: block; width: 100%; shape-rendering: crispEdges; }
ol { padding-left: 1.25rem; }
li + li { margin-top: .5rem; }
li::marker { color: var(--quiet); }
@media (max-width: 30rem) {
  html { background: var(--sheet); }
  main { margin: 0; border: 0; }
  dl div { display: block; }
}
@media print {
  :root { color-scheme: light; --ground: #fff; }
  main { max-width: none; margin: 0; padding: 0; border: 0; }
  pre, figure, li, dl div { break-inside: avoid; }
  h2 { break-after: avoid; }
}
"""

PAGE_HEADERS: Mapping[str, str] = {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": (
        "default-src 'none'; img-src data:; style-src 'sha256-"
        + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
        + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""What to send with the page, names in lowercase, beside the challenge and `cache-control: no-store`."""


@lru_cache(maxsize=64)
def wants_page(accept: str) -> bool:
    """Whether a client wants HTML more than JSON, by its `Accept` field: a browser that opens a URL does.

    Not one that takes both alike, as `*/*` does, nor one whose field is missing (""), malformed or
    longer than ACCEPT_LIMIT: those get problem details. To be asked for GET and HEAD alone, since the
    page's command repeats no other request. RFC 9110, section 12.5.1.
    """
    if len(accept) > ACCEPT_LIMIT:
        return False
    parts = [part for member in accept.split(",") if (part := member.strip(" \t"))]
    matches = [_RANGE.fullmatch(part) for part in parts]
    weights: dict[str, int] = {}
    for match in matches:
        if match is None:
            return False
        kind = match["kind"].lower()
        weights[kind] = max(weights.get(kind, 0), thousandths(match["weight"]))

    def weight(kind: str) -> int:
        family = kind.partition("/")[0] + "/*"
        return next((weights[known] for known in (kind, family, "*/*") if known in weights), 0)

    return weight("text/html") > max(weight("application/problem+json"), weight("application/json"))


def payment_page(*, url: str, price: Price, payee: Address, network: str) -> bytes:
    """The page, HTML in UTF-8, to be sent with PAGE_HEADERS: what `url` costs, for what, and how to pay.

    It has no script and loads nothing. `url` is absolute, as the client would ask for it again;
    characters that cannot stand in a URL are escaped. Whatever the values are, they stay text.

    The QR code holds the URL, not the command: a phone opens it, and a wallet that pays for URLs
    needs no more, for the terms come with the challenge, fresh each time.
    """
    url = quote(url, safe=_URL_CHARACTERS, errors="replace")
    cost = str(Amount(price.reserved, price.amount.asset))
    heading, units = "Payment required:", None
    command = [["microwallet", "fetch"], [url], ["--max-amount", cost]]
    bound = f"It pays no more than {escape(cost)} for this request."
    if price.unit == Unit.HEADER:
        heading, units = "Payment required: at most", f"{price.amount} each, at most {price.max_units}"
    if price.unit == Unit.EVENT:
        command.pop()
        bound = "It stops at the limit of your wallet; <code>--max-amount</code> sets another."
    facts = {
        "For": price.description and f"<bdi>{escape(price.description)}</bdi>",
        "Units": units and escape(units),
        "Address": f"<code>{escape(url)}</code>",
        "Payee": f"<code>{escape(payee)}</code>",
        "Network": escape(network),
    }
    rows = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>\n" for name, value in facts.items() if value)
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{heading} {escape(cost)}</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1><span>{heading}</span> <strong>{escape(cost)}</strong> <span>{_BUYS[price.unit]}</span></h1>
<dl>
{rows}</dl>
<section aria-labelledby="pay">
<h2 id="pay">How to pay</h2>
<p>With microwallet, a wallet for the command line:</p>
<pre><code>{" ".join(f"<span>{escape(shlex.join(words))}</span>" for words in command)}</code></pre>
<p class="quiet">{bound} Before a deposit is made, it asks you.</p>
{_qr_code(url) if len(url) <= QR_LIMIT else ""}</section>
<section aria-labelledby="happens">
<h2 id="happens">What happens</h2>
<ol>
<li>The first time, your wallet opens a channel: a deposit in an escrow contract, for this payee alone.</li>
<li>From then on it pays with signed vouchers: no account, no transaction, no fee.</li>
<li>When the channel is closed, the payee gets what you have spent, and you get the rest back.</li>
</ol>
</section>
</main>
</body>
</html>
"""
    return page.encode("utf-8", errors="replace")


@lru_cache(maxsize=256)
def _qr_code(url: str) -> str:
    """A figure with the QR code, for eyes, cameras and screen readers; kept, since it takes milliseconds."""
    import segno

    code = segno.make_qr(url, error="l", mask=_QR_MASK)
    drawing = code.svg_inline(omitsize=True, border=4, svgclass=None, lineclass=None)
    svg = drawing.replace("<svg", '<svg role="img" aria-label="QR code: the address of this page"', 1)
    return f"""<figure>
<div>{svg}</div>
<figcaption>Scan it to open this address on another device.</figcaption>
</figure>
"""
