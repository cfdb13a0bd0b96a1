"""How many examples each property is tried with: a short round, or with --long a long one."""

from __future__ import annotations

import pytest
from hypothesis import settings

SHORT, LONG = 60, 1000


def pytest_configure(config: pytest.Config) -> None:
    """Tests whose examples are large take a part of `settings.default.max_examples`."""
    for name, examples in (("short", SHORT), ("long", LONG)):
        settings.register_profile(name, max_examples=examples, deadline=None)
    settings.load_profile("long" if config.getoption("--long") else "short")
