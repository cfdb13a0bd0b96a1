"""The user file where it cannot be written."""

from __future__ import annotations

import resource

import pytest

from microwallet.config import Configuration, Paths
from microwallet.errors import UsageError


def configuration(home):
    """The settings of a home."""
    return Configuration(Paths(home=home, environment={}), {})


def test_a_home_that_cannot_be_made_is_a_usage_error(tmp_path):
    """There is a file where its parent should be."""
    (tmp_path / "file").touch()
    with (
        pytest.raises(UsageError, match="cannot be written"),
        configuration(tmp_path / "file" / "home").editing(),
    ):
        pass


def test_a_full_disk_keeps_the_file_as_it_was(tmp_path):
    """What could not be written whole is not put in its place."""
    with configuration(tmp_path).editing() as content:
        content["account"] = "alice"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5, hard))
    try:
        with (
            pytest.raises(UsageError, match="cannot be written"),
            configuration(tmp_path).editing() as content,
        ):
            content["account"] = "bob"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert configuration(tmp_path).get("account") == "alice"
