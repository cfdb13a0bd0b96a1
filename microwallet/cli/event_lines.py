"""What commands that run on say of events: a line each, on stdout or stderr."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any


def event_line(event: str, details: Mapping[str, Any]) -> str:
    """An event for a person, with the local time; amounts in their units."""
    from microwallet.domain.money import format_units

    words = [time.strftime("%Y-%m-%d %H:%M:%S"), event.replace("-", " ")]
    for key, value in details.items():
        if (event, key) == ("settled", "refunded"):
            continue  # nothing is, before the close
        if key in ("unsettled", "captured", "refunded"):
            words.append(f"{key} {format_units(int(value), details['decimals'])} {details['asset']}")
        elif key == "withdrawableAt":
            from microwallet.cli.channel_view import local_time

            words.append(f"withdrawable at {local_time(value)}")
        elif key == "worker":
            words.append(f"worker {value}")
        elif key not in ("asset", "decimals", "gasUsed"):
            words.append(str(value))
    return "  ".join(words)
