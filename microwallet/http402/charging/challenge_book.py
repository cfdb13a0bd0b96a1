"""Challenges that come back: whether they were issued here, for this, and can still be answered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from microwallet.domain.identifiers import ChannelId
from microwallet.http402.charging.offers import Offer
from microwallet.http402.charging.refusal import refused
from microwallet.http402.charging.rotating_secrets import RotatingSecrets
from microwallet.http402.charging.sales import served_another
from microwallet.http402.wire.challenge import Challenge
from microwallet.http402.wire.problems import ProblemType
from microwallet.http402.wire.timestamps import parse_rfc3339

KEPT = 50_000
"""Challenges remembered; what is forgotten is checked again."""

_OTHER = "the challenge was issued for something else"


@dataclass(slots=True, kw_only=True)
class AnsweredChallenge:
    """A challenge of ours that came back."""

    challenge: Challenge
    offer: Offer
    """What it is for."""
    expires_at: int
    """Unix seconds."""
    channel_id: ChannelId | None = None
    """The one channel it serves; None until that is durable."""

    def check_serves(self, channel_id: ChannelId) -> None:
        """Refused if it has served another channel."""
        if self.channel_id is not None and self.channel_id != channel_id:
            raise served_another()


class ChallengeBook:
    """The challenges that were answered lately."""

    def __init__(self, secrets: RotatingSecrets, clock: Callable[[], int]) -> None:
        self._secrets = secrets
        self._clock = clock
        self._known: OrderedDict[str, AnsweredChallenge] = OrderedDict()

    def check(self, challenge: Challenge, offer: Offer) -> AnsweredChallenge:
        """The challenge, if it was issued here for this offer, and has not expired; else Refused."""
        known = self._known.get(challenge.id)
        if known is None or (known.challenge is not challenge and known.challenge != challenge):
            known = self._recognised(challenge, offer)
        if known.expires_at <= self._clock():
            raise refused(ProblemType.PAYMENT_EXPIRED, f"the challenge expired at {challenge.expires}")
        if known.offer is not offer:
            raise refused(ProblemType.INVALID_CHALLENGE, _OTHER)
        return known

    def _recognised(self, challenge: Challenge, offer: Offer) -> AnsweredChallenge:
        if not self._secrets.issued(challenge) or challenge.expires is None:
            raise refused(ProblemType.CHALLENGE_NOT_FOUND, "the challenge is none that was issued here")
        if not offer.asked_by(challenge):
            raise refused(ProblemType.INVALID_CHALLENGE, _OTHER)
        known = AnsweredChallenge(
            challenge=challenge,
            offer=offer,
            expires_at=parse_rfc3339(challenge.expires),
        )
        self._known[challenge.id] = known
        if len(self._known) > KEPT:
            self._known.popitem(last=False)
        return known
