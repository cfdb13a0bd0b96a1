"""Carrying a `microwallet fetch` out: the client, the payment, and where the answer goes."""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from microwallet.cli.context import Stderr, confirm, open_wallet
from microwallet.cli.fetch_request import Wanted
from microwallet.cli.fetch_view import (
    answer_document,
    head,
    output,
    say_payment,
    would_pay_document,
    would_pay_text,
)
from microwallet.cli.result import print_json, success_envelope
from microwallet.errors import HttpStatus, Interrupted, MicrowalletError, NetworkError, UsageError
from microwallet.http402.paying.origins import Origin

if TYPE_CHECKING:
    import httpx

    from microwallet.http402.paying.client import PayingClient
    from microwallet.http402.paying.receipts import HttpPayment
    from microwallet.payer.open import OpenPlan
    from microwallet.payer.paying_account import PayingAccount
    from microwallet.payer.top_up import TopUpPlan
    from microwallet.wallet import Wallet

_COMMAND_LINE_OF_HTTPX, _HTTP_2 = "httpx._main", "h2"
_SECONDS = 30
_CONNECT_SECONDS = 10
_MOST_REDIRECTS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The flags, as typed."""

    output: str | None
    include: bool
    verbose: bool
    follow: bool
    timeout: str | None
    proxy: str | None
    fail: bool
    max_amount: str | None
    deposit: str | None
    payee: str | None
    gasless: bool
    no_pay: bool
    idempotency_key: str | None
    yes: bool
    dry_run: bool
    json: bool


def run(wanted: Wanted, settings: Settings, **opened: str | None) -> None:
    """Fetch and print; raises what went wrong."""
    from microwallet.paying import check_http_key

    with ExitStack() as stack:
        wallet = stack.enter_context(open_wallet(**opened))
        write = stack.enter_context(output(settings.output))
        client = stack.enter_context(_client(wallet, wanted, settings))
        key = settings.idempotency_key
        extensions: dict[str, Any] = {"risen": {}}
        if key is not None:
            extensions["idempotency_key"] = check_http_key(key)
        request = wanted.build(client, extensions)
        _Fetch(settings, write, wallet).run(client, request)


class _Fetch:
    def __init__(self, settings: Settings, write: Callable[[bytes], None], wallet: Wallet) -> None:
        self._settings = settings
        self._write = write
        self._wallet = wallet
        self._body = bytearray()
        self._last = b""

    def run(self, client: httpx.Client, request: httpx.Request) -> None:
        """Send it and show what comes."""
        import httpx

        from microwallet.http402.paying.handshake import looking_at
        from microwallet.http402.paying.messages import told

        response: httpx.Response | None = None

        def keep(hop: httpx.Response) -> None:
            """What led to a hop that failed was paid for all the same."""
            nonlocal response
            response = hop

        client.event_hooks = {"response": [keep]}
        try:
            response = client.send(request, stream=True)
            self._show(response)
        except httpx.HTTPError as error:
            failure = NetworkError(
                f"{Origin.of(str(request.url))} cannot be read: {told(error)}", hint=looking_at(error)
            )
            raise self._with_data(failure, response) from error
        except MicrowalletError as error:
            raise self._with_data(error, response) from error.__cause__
        except BrokenPipeError as error:
            gone = MicrowalletError("what reads the output has gone away")
            raise self._with_data(gone, response) from error
        except KeyboardInterrupt:
            raise self._with_data(Interrupted("interrupted"), response) from None
        finally:
            if response is not None:
                response.close()
        self._end(response)

    def _show(self, response: httpx.Response) -> None:
        settings = self._settings
        if settings.dry_run:
            return
        take = self._body.extend if settings.json and settings.output is None else self._print
        if settings.include and not settings.json:
            take(head(response))
        for chunk in response.iter_raw():
            take(chunk)

    def _print(self, chunk: bytes) -> None:
        self._write(chunk)
        self._last = chunk[-1:] or self._last

    def _end_line(self) -> None:
        """What is said after the body begins a line of its own on a terminal."""
        to_stdout = self._settings.output in (None, "-")
        if to_stdout and self._last not in (b"", b"\n") and sys.stdout.isatty():
            self._print(b"\n")

    def _end(self, response: httpx.Response) -> None:
        self._end_line()
        settings = self._settings
        if settings.dry_run:
            self._say_what_would_be(response)
            return
        for payment in _payments(response):
            say_payment(payment)
        if (response.request.method, response.status_code) == ("HEAD", 402) and not settings.no_pay:
            Stderr().say("a HEAD is not paid for: a GET is")
        data = self._data(response)
        if settings.fail and response.status_code >= 400:
            raise HttpStatus(f"{response.url} answered {response.status_code}", data=data)
        if settings.json:
            print_json(success_envelope(data))

    def _say_what_would_be(self, response: httpx.Response) -> None:
        would = response.extensions.get("would_pay")
        if self._settings.json:
            document = None if would is None else would_pay_document(would, self._wallet.network.name)
            print_json(success_envelope({"wouldPay": document}))
        else:
            text = f"{response.status_code}: nothing to pay" if would is None else would_pay_text(would)
            self._write((text + "\n").encode())

    def _data(self, response: httpx.Response) -> dict[str, Any]:
        payments = _payments(response)
        return answer_document(response, bytes(self._body)) | {
            "payment": payments[-1].document() if payments else None
        }

    def _with_data(self, error: MicrowalletError, response: httpx.Response | None) -> MicrowalletError:
        """The error, with what was received and paid until then."""
        self._end_line()
        if response is not None:
            response.close()
            for payment in _payments(response):
                say_payment(payment)
            error.data = self._data(response)
        return error


def _payments(response: httpx.Response) -> list[HttpPayment]:
    """What was paid for, hop by hop."""
    found = [one.extensions.get("payment") for one in (*response.history, response)]
    settled = [getattr(one, "payment", one) for one in found]
    return [one for one in settled if one is not None]


@contextmanager
def _without(*names: str) -> Iterator[None]:
    """While packages are imported that can do without these modules, whose loading takes longest."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None makes an import fail
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


def _client(wallet: Wallet, wanted: Wanted, settings: Settings) -> httpx.Client:
    seconds = _seconds(settings.timeout)
    proxy = settings.proxy or _proxy_of(wanted.url)
    may_need_tls = settings.follow or proxy is not None or wanted.url.startswith("https:")
    with _without(_COMMAND_LINE_OF_HTTPX, *(() if may_need_tls else (_HTTP_2,))):
        inner = _http(proxy, tls=may_need_tls)
    import httpx

    if settings.verbose:
        from microwallet.cli.fetch_wire import ToldTransport

        inner = ToldTransport(inner)
    if not settings.no_pay:
        inner = _paying(wallet, settings, inner, is_direct=proxy is None)
    return httpx.Client(
        transport=inner,
        follow_redirects=settings.follow,
        max_redirects=_MOST_REDIRECTS,
        timeout=httpx.Timeout(seconds, connect=min(seconds, _CONNECT_SECONDS)),
    )


def _http(proxy: str | None, *, tls: bool) -> httpx.BaseTransport:
    import httpx

    # Loading the certificates takes longer than a request; a context without any trusts nobody.
    verify: ssl.SSLContext | bool = True if tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        return httpx.HTTPTransport(verify=verify, http1=True, http2=tls, proxy=proxy)
    except (ValueError, httpx.InvalidURL) as error:
        raise UsageError(
            f"--proxy cannot be used: {error}", hint="--proxy socks5://127.0.0.1:1080"
        ) from error
    except OSError as error:
        named = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")
        raise UsageError(
            f"the certificates to trust, {named}, cannot be read: {error.strerror}",
            hint="echo $SSL_CERT_FILE",
        ) from error


def _proxy_of(url: str) -> str | None:
    """The proxy that the environment names for a URL; this machine is reached without one."""
    origin = Origin.of(url)
    if origin.scheme == "http" and origin.is_private:
        return None
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    return None if proxy_bypass(origin.host) else proxies.get(origin.scheme, proxies.get("all"))


def _paying(
    wallet: Wallet, settings: Settings, inner: httpx.BaseTransport, *, is_direct: bool
) -> httpx.BaseTransport:
    from microwallet.http402.paying.transport import PayingTransport
    from microwallet.paying import limits_of, paying_client

    limits = limits_of(
        wallet,
        max_amount=settings.max_amount,
        deposit=settings.deposit,
        payee=None if settings.payee is None else wallet.address_of(settings.payee),
        is_gasless=settings.gasless,
        dry_run=settings.dry_run,
    )

    def agree(account: PayingAccount, plan: OpenPlan | TopUpPlan) -> None:
        from microwallet.cli.channel_open import open_summary
        from microwallet.cli.channel_top_up import top_up_summary
        from microwallet.payer.open import OpenPlan

        summary = open_summary(account, plan) if isinstance(plan, OpenPlan) else top_up_summary(account, plan)
        confirm(summary, yes=settings.yes)

    def is_private(origin: Origin) -> bool:
        """Even this machine's own name means another one to a proxy."""
        return origin.is_private if is_direct else origin.scheme == "https"

    @cache
    def client() -> PayingClient:
        return replace(paying_client(wallet, limits, confirm=agree), is_private=is_private)

    return PayingTransport(client, inner)


def _seconds(text: str | None) -> float:
    try:
        seconds = _SECONDS if text is None else float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < 1e6:
        raise UsageError(f"--timeout is {text!r}, not a number of seconds above zero", hint="--timeout 30")
    return seconds
