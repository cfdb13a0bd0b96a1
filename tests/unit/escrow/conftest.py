"""What tests of what the user adds to a chain begin with."""

from __future__ import annotations

import pytest
import tomli_w

from microwallet.config import Configuration, Paths


@pytest.fixture
def configured(tmp_path):
    """Makes a configuration from the content of a user file."""

    def make(**content):
        paths = Paths.from_environment({"MICROWALLET_HOME": str(tmp_path)})
        paths.user_file.write_bytes(tomli_w.dumps(content).encode())
        return Configuration(paths, {})

    return make
