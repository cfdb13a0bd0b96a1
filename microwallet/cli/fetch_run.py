"""Carrying a `microwallet fetch` out: what comes is shown, whatever ends it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from microwallet.cli.context import Stderr, interrupted, open_wallet
from microwallet.cli.fetch_client import fetch_client
from microwallet.cli.fetch_deposits import FetchDeposits
from microwallet.cli.fetch_dry_run import show_dry_run
from microwallet.cli.fetch_flags import FetchFlags
from microwallet.cli.fetch_output import Body, NotWritten, output, to_stdout
from microwallet.cli.fetch_proxy import proxy_of
from microwallet.cli.fetch_request import Wanted
from microwallet.cli.fetch_view import answer_document, is_metered, payments_of, say_payment
from microwallet.cli.result import print_json, success_envelope
from microwallet.domain.secret_fields import without_secrets
from microwallet.errors import HttpStatus, Interrupted, MicrowalletError, NetworkError, OutcomeUnknown

if TYPE_CHECKING:
    import httpx

    from microwallet.wallet import Wallet


def run(wanted: Wanted, flags: FetchFlags, **opened: str | None) -> None:
    """Fetch and print; raises what went wrong."""
    with ExitStack() as stack:
        wallet = stack.enter_context(open_wallet(**opened))
        write = stack.enter_context(output(flags.output))
        proxy = flags.proxy or proxy_of(wanted.url)
        deposits = FetchDeposits(wallet, yes=flags.yes)
        client = stack.enter_context(fetch_client(wallet, wanted, flags, proxy, agree=deposits.agree))
        request = wanted.build(client, _extensions(flags, proxy))
        _Fetch(flags, write, wallet, deposits).run(client, request)


def _extensions(flags: FetchFlags, proxy: str | None) -> dict[str, Any]:
    """What goes with a request for what pays; UsageError for a key that cannot be sent."""
    from microwallet.escrow.transport import redacted
    from microwallet.http402.paying.messages import IDEMPOTENCY_KEY, PROXY, REPEATS
    from microwallet.paying import check_http_key

    told: dict[str, Any] = {REPEATS: flags.repeats}
    if proxy is not None:
        told[PROXY] = redacted(proxy)
    if flags.idempotency_key is not None:
        told[IDEMPOTENCY_KEY] = check_http_key(flags.idempotency_key)
    return told


class _Fetch:
    def __init__(
        self, flags: FetchFlags, write: Callable[[bytes], None], wallet: Wallet, deposits: FetchDeposits
    ) -> None:
        self._flags = flags
        self._write = write
        self._body = Body(flags, write)
        self._wallet = wallet
        self._deposits = deposits
        self._said = 0

    def run(self, client: httpx.Client, request: httpx.Request) -> None:
        """Send it and show what comes."""
        import httpx

        from microwallet.http402.paying.messages import reading, unread

        response: httpx.Response | None = None

        def keep(hop: httpx.Response) -> None:
            """What led to a hop that failed was paid for all the same."""
            nonlocal response
            response = hop

        client.event_hooks = {**client.event_hooks, "response": [keep]}
        try:
            response = client.send(request, stream=True)
            try:
                if not self._flags.dry_run:
                    with reading():
                        self._body.take(response)
                response.close()
                self._end(response)
            except NotWritten as error:
                raise self._unwritten(error, response) from error
        except httpx.TooManyRedirects as error:
            raise self._with_data(_endless(request, error, client.max_redirects), response) from error
        except httpx.HTTPError as error:
            raise self._with_data(unread(request, error), response) from error
        except MicrowalletError as error:
            raise self._with_data(error, response) from error.__cause__
        except KeyboardInterrupt:
            raise self._with_data(self._interrupted(request, response), response) from None
        finally:
            if response is not None:
                response.close()

    def _end(self, response: httpx.Response) -> None:
        self._body.end_line()
        flags = self._flags
        if flags.dry_run:
            with to_stdout():
                show_dry_run(response, self._wallet.network.name, self._write, as_json=flags.json)
            return
        self._say_payments(response)
        if response.next_request is not None and payments_of(response):
            to = response.next_request.url
            follow = ": --follow goes there" if to.scheme in ("http", "https") and not to.userinfo else ""
            Stderr().say(f"what was paid for leads to {without_secrets(str(to))}{follow}")
        if (response.request.method, response.status_code) == ("HEAD", 402) and not flags.no_pay:
            Stderr().say("a HEAD is not paid for: a GET is")
        data = self._data(response)
        if flags.fail and response.status_code >= 400:
            url = without_secrets(str(response.url))
            raise HttpStatus(f"{url} answered {response.status_code}", data=data)
        if flags.json:
            with to_stdout():
                print_json(success_envelope(data))

    def _say_payments(self, response: httpx.Response) -> None:
        """On stderr, once."""
        for payment in payments_of(response)[self._said :]:
            say_payment(payment)
            self._said += 1

    def _data(self, response: httpx.Response) -> dict[str, Any]:
        payments = [payment.document() for payment in payments_of(response)]
        return answer_document(response, self._body.kept) | {
            "payment": payments[-1] if payments else None,
            "payments": payments,
            "deposits": self._deposits.documents(),
        }

    def _unwritten(self, error: NotWritten, response: httpx.Response) -> MicrowalletError:
        """What was received has no place to go to: what was paid for can be had again."""
        response.close()
        payments, is_stream = payments_of(response), is_metered(response)
        if not payments or (error.has_no_reader and is_stream):
            failed = MicrowalletError(str(error), hint=error.instead)
        else:
            again = self._flags.repeats(payments[-1].idempotency_key, error.instead)
            hint = f"microwallet channel show {payments[-1].channel.name}" if is_stream else again
            failed = OutcomeUnknown(f"it was paid, but {error}", hint=hint)
        failed.streamed = error.is_stdout and self._flags.json
        return failed

    def _interrupted(self, request: httpx.Request, response: httpx.Response | None) -> MicrowalletError:
        """Ctrl-C, and what may have been paid without an answer, or was and has not come whole."""
        from microwallet.http402.paying.redirects import unanswered

        error = interrupted()
        if (unknown := unanswered(request)) is not None:
            return Interrupted(f"{error.message}: {unknown.message}", hint=unknown.hint, data=unknown.data)
        if response is not None and not is_metered(response) and (payments := payments_of(response)):
            error.hint = self._flags.repeats(payments[-1].idempotency_key)
        return error

    def _with_data(self, error: MicrowalletError, response: httpx.Response | None) -> MicrowalletError:
        """The error, with what was received, paid and deposited until then."""
        self._body.end_line()
        if response is not None:
            response.close()
            self._say_payments(response)
            error.data = {**(error.data or {}), **self._data(response)}
        elif deposits := self._deposits.documents():
            error.data = {**(error.data or {}), "deposits": deposits}
        return error


def _endless(request: httpx.Request, error: httpx.TooManyRedirects, most: int) -> NetworkError:
    first, last = (without_secrets(str(one.url)) for one in (request, error.request))
    return NetworkError(
        f"{first} was redirected {most} times, and then to {last}",
        hint="--verbose  (tells where each one leads)",
    )
