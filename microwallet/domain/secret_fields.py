"""Fields of a query, a form or a header whose values are secret: by how their names end."""

from __future__ import annotations

import re

ENDING = r"(?:authorization|cookie|key|token|secret|password)"
"""How the names of secrets end, whatever stands before it."""
FIELDS = re.compile(rf"(?<![^?&])([\w.\[\]%-]*{ENDING}(?:\]|%5D)?)=[^&#]+", re.IGNORECASE)
"""Of a query, or of data."""


def without_secrets(url: str) -> str:
    """A URL to be shown."""
    return FIELDS.sub(r"\1=...", url)
