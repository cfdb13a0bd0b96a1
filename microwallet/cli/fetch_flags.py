"""The flags of `microwallet fetch`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from microwallet.domain.duration import parse_duration
from microwallet.errors import UsageError

_SECONDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchFlags:
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
    repeats: Callable[..., str]
    """The command that repeats it under a key, with more flags where they are given."""

    @property
    def seconds(self) -> float:
        """How long each wait may last; UsageError for what is neither seconds nor a duration."""
        try:
            seconds = _SECONDS if self.timeout is None else _seconds(self.timeout)
        except (UsageError, ValueError):
            seconds = 0
        if not 0 < seconds < 1e6:
            raise UsageError(
                f"--timeout is {self.timeout!r}, not a time above zero in seconds, or like 500ms, 5s, 1m30s",
                hint="--timeout 30s",
            )
        return seconds


def _seconds(text: str) -> float:
    """Seconds as curl takes them, with a fraction, or a duration."""
    try:
        return float(text)
    except ValueError:
        return parse_duration(text).total_seconds()
