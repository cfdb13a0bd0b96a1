"""Challenges that are made one by one, as the draft says: what those of a ChallengeForm have to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from microwallet.http402.wire.challenge import Challenge, ChallengeSecrets, _bound_id
from microwallet.http402.wire.encoding import encode_object
from microwallet.http402.wire.timestamps import rfc3339


def issue(
    secrets: ChallengeSecrets,
    request: Mapping[str, Any] | str,
    *,
    expires_at: int,
    opaque: Mapping[str, str] | None = None,
    **parameters: str | None,
) -> Challenge:
    """A new challenge until Unix second `expires_at`; a `request` that is text has been encoded already."""
    unbound = Challenge(
        id="",
        request=request if isinstance(request, str) else encode_object(request),
        expires=rfc3339(expires_at),
        opaque=None if opaque is None else encode_object(opaque),
        **parameters,
    )
    return replace(unbound, id=_bound_id(unbound, secrets.secrets[0]))
