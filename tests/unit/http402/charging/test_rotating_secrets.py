"""The key of a gateway's challenges: whoever has it can make some that look like the gateway's."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from microwallet.errors import KeyUnavailable
from microwallet.http402.charging.rotating_secrets import RotatingSecrets, challenge_key


def test_a_key_is_made_once_for_its_owner_alone(tmp_path):
    """Every process of a home has the same one, another home has its own; nothing tells it by mistake."""
    path, other = tmp_path / "keys" / "challenge-key", tmp_path / "other" / "challenge-key"
    key = challenge_key(path)
    assert (len(key), challenge_key(path)) == (32, key)
    assert [stat.S_IMODE(one.stat().st_mode) for one in (path.parent, path)] == [0o700, 0o600]
    assert challenge_key(other) != key
    issuing = RotatingSecrets(key, lambda: 0)
    assert repr(key) not in repr(issuing)
    assert all(repr(secret) not in repr(issuing.current) for secret in issuing.current.secrets)


def test_two_that_start_at_once_have_one_key(tmp_path, monkeypatch):
    """Whoever comes second takes what the first one made meanwhile."""
    path = tmp_path / "challenge-key"
    key = challenge_key(path)
    monkeypatch.setattr(Path, "exists", lambda _: False)
    assert challenge_key(path) == key


@pytest.mark.parametrize("content", [b"", b"\xff" * 32, b"no key", b"ab" * 31, b"ab" * 33])
def test_what_is_no_key_is_not_used(tmp_path, content):
    """One that was cut short could be guessed: how to get a new one is told."""
    path = tmp_path / "a home" / "challenge-key"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(KeyUnavailable) as raised:
        challenge_key(path)
    assert raised.value.hint == f"rm '{path}'"
    assert path.read_bytes() == content
