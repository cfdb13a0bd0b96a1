"""Asking a server, and choosing what of its offers can be paid.

draft-httpauth-payment-00, section "Request Flow".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

from microwallet.domain.secret_fields import without_secrets
from microwallet.errors import MalformedMessage, NetworkError, NoPayableChallenge
from microwallet.http402.paying.choice import Choice, PayerRules, UntrustedEscrow, choose
from microwallet.http402.paying.client import PayingClient
from microwallet.http402.paying.exchange import Asked, NoAnswer, NotSent, Sending, ServerAnswer, Steps
from microwallet.http402.paying.foreign_escrow import foreign_escrow
from microwallet.http402.paying.origins import Origin
from microwallet.http402.wire.body_digest import matches
from microwallet.http402.wire.challenge import offered_challenges

_LOOK = "look whether the address is right and the server runs; --proxy URL where one is needed"
_PROXY = "look whether it runs, or take another: --proxy URL"
_LATE = "--timeout DURATION  (waits longer)"
_SHOWN = 80
"""Characters that are shown of what cannot be read."""
_MIXED_UP = (("wrong version number", "http"), ("disconnected without sending", "https"))
"""What is heard of a server that speaks this in place of the other."""
_OTHER_NAME = "its certificate is for another name: use that one in the URL"
_OTHER_TIME = "date -u  (if that is right, whoever runs the server has to renew its certificate)"
_TRUST = "SSL_CERT_FILE=FILE microwallet fetch ...  (if you trust it: FILE is its certificate in PEM)"


class Asking:
    """Asks for one resource."""

    def __init__(self, open_client: Callable[[], PayingClient], asked: Asked) -> None:
        """Nothing is opened for a request that turns out to be free."""
        self._open_client = open_client
        self.asked = asked
        self.origin = Origin.named_in(asked.url)

    @cached_property
    def client(self) -> PayingClient:
        """What pays."""
        return self._open_client()

    def exchange(self) -> Steps[ServerAnswer]:
        """Send the request as it is, without a credential."""
        try:
            return (yield Sending())
        except (NotSent, NoAnswer) as error:
            raise unreachable(self.origin, error) from error

    def choose(self, answer: ServerAnswer, *, is_head: bool = False) -> Choice:
        """What is to be paid, by which of its challenges; NoPayableChallenge if by none of them. `is_head`:
        what it answers is a HEAD, which had no body."""
        Origin.of(self.asked.url)
        if not self.client.is_private(self.origin):
            raise self._read_along()
        try:
            offered = offered_challenges(answer.challenges)
        except MalformedMessage as error:
            raise self._unreadable(answer, error) from error
        try:
            choice = choose(offered, self._rules(), now=self.client.clock())
        except UntrustedEscrow as error:
            raise self._refused_escrow(error) from error
        digest, body = choice.challenge.digest, b"" if is_head else self.asked.body
        if digest is not None and not matches(digest, body):
            raise NoPayableChallenge("the server's offer is for another request body than the one sent")
        return choice

    def _read_along(self) -> NoPayableChallenge:
        """Why nothing is paid in plain: this machine itself is not private where a proxy stands before it."""
        if self.origin.is_private:
            return NoPayableChallenge(
                f"{self.origin} wants to be paid over plain http, through a proxy that could read along",
                hint="leave out --proxy, or use an https URL",
            )
        return NoPayableChallenge(
            f"{self.origin} wants to be paid over plain http, where others could read along",
            hint="use an https URL",
        )

    def _unreadable(self, answer: ServerAnswer, error: MalformedMessage) -> MalformedMessage:
        """What the server sent instead of challenges, without what a terminal would obey."""
        sent = ", ".join(answer.challenges)
        shown = repr(sent[:_SHOWN]) + ("..." if len(sent) > _SHOWN else "")
        asked = replace(self.asked, url=without_secrets(self.asked.url))
        return MalformedMessage(
            f"{self.origin} wants to be paid, but not in a way that can be read: {error.message};"
            f" it sent {shown}",
            hint=f"microwallet fetch -i --no-pay {asked.words}  (shows all of it)",
        )

    def _refused_escrow(self, error: UntrustedEscrow) -> NoPayableChallenge:
        """Why an escrow is not used, by its code where the chain can be asked."""
        try:
            code = self.client.account(error.escrow_contract).reader.code(error.escrow_contract)
        except NetworkError:
            return error
        return foreign_escrow(error.escrow_contract, code)

    def _rules(self) -> PayerRules:
        client, limits = self.client, self.client.limits
        known = client.ledger.known_payees.get(str(self.origin), client.chain_id)
        return PayerRules(
            chain_id=client.chain_id,
            escrow_contracts=client.escrow_contracts,
            assets=client.assets,
            max_amounts=limits.max_amounts,
            payer=client.payer,
            known_payee=known,
            named_payee=limits.payee,
            networks=client.networks,
        )


def unreachable(origin: Origin, error: NotSent | NoAnswer) -> NetworkError:
    """Nothing came back from a server, or the proxy before it cannot be reached."""
    if isinstance(error, NoAnswer):
        said = f"{origin} does not answer: {error}"
    else:
        said = str(error) if error.at_proxy else f"{origin} cannot be reached: {error}"
    return NetworkError(said, hint=looking_at(origin, error))


def looking_at(origin: Origin, error: Exception) -> str:
    """What to do about a server that cannot be reached, or does not answer."""
    if isinstance(error, NotSent) and error.at_proxy:
        return _PROXY
    said = str(error)
    if isinstance(error, NoAnswer) and "timed out" in said:
        return _LATE
    for words, scheme in _MIXED_UP:
        if words in said and origin.scheme != scheme:
            return f"look whether it speaks {scheme}: {replace(origin, scheme=scheme)}"
    if "certificate verify failed" in said:
        if "has expired" in said or "not yet valid" in said:  # to trust it changes nothing
            return _OTHER_TIME
        return _OTHER_NAME if "mismatch" in said else _TRUST
    return _LOOK
