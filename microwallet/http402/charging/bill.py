"""What a paid request costs, as it stands: for whoever logs it."""

from __future__ import annotations

from dataclasses import dataclass

from microwallet.http402.charging.channel_book import KnownChannel
from microwallet.http402.charging.sales import Sold


@dataclass(slots=True)
class Bill:
    """Kept in the scope of the request, so it knows nothing of the request: no cycle keeps both in memory."""

    channel: KnownChannel
    """Which pays."""
    sold: Sold | None
    """None once it was given back."""
    warning: str | None = None
    """What the seller should know of what the application told."""
