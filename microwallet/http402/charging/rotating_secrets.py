"""Secrets of challenges: a new one every day, made of a key that the processes of a home share."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path

from microwallet.errors import KeyUnavailable
from microwallet.files import shell_path
from microwallet.http402.wire.challenge import SECRET_LENGTH, Challenge, ChallengeSecrets
from microwallet.keys.private_files import create_private_file, make_private_folder

_DAY = 24 * 60 * 60


class RotatingSecrets:
    """Issues challenges with today's secret, and knows those of yesterday's."""

    def __init__(self, key: bytes, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._of = lru_cache(maxsize=1)(partial(_secrets_of, key))

    def __repr__(self) -> str:
        return "RotatingSecrets()"

    @property
    def current(self) -> ChallengeSecrets:
        """The secrets of today."""
        return self._of(self._clock() // _DAY)

    def issued(self, challenge: Challenge) -> bool:
        """Whether a challenge was issued with one of them."""
        return self.current.issued(challenge)


def _secrets_of(key: bytes, day: int) -> ChallengeSecrets:
    """A day's secret, and that of the day before."""
    texts = [f"microwallet challenge secret v1 {one}" for one in (day, day - 1)]
    return ChallengeSecrets([hmac.digest(key, text.encode(), hashlib.sha256) for text in texts])


def challenge_key(path: Path) -> bytes:
    """The key in a file of its owner alone, made when there is none. KeyUnavailable if it is no key."""
    make_private_folder(path.parent)
    with suppress(FileExistsError):
        if not path.exists():
            create_private_file(path, secrets.token_hex(SECRET_LENGTH) + "\n")
    anew = f"rm {shell_path(path)}"
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise KeyUnavailable(f"{path} cannot be read as a key: {error}", hint=anew) from error
    if len(key) != SECRET_LENGTH:
        raise KeyUnavailable(f"{path} holds no key of {SECRET_LENGTH} bytes", hint=anew)
    return key
