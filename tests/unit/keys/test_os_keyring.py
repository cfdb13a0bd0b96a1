"""The OS keyring: which back end is taken, which are refused, and that none makes us wait for ever."""

import sys
import time
from pathlib import Path

import keyring
import pytest
from keyring.backends.chainer import ChainerBackend

from microwallet.keys import os_keyring
from microwallet.keys.os_keyring import KeyringUnavailable, OsKeyring

ENTRY = "key of account alice"


def opened(environment, said=None, patience=2.0) -> OsKeyring:
    return OsKeyring(environment, patience=patience, say=(said if said is not None else []).append)


def test_an_entry_is_written_read_and_deleted(backends) -> None:
    """The back end's name comes back from writing, to find the entry again."""
    ring = opened(backends("Kept"))
    name = ring.write(ENTRY, "text")
    assert name == "keyring_plugins.Kept"
    assert opened({}).read(name, ENTRY) == "text"
    ring.delete(name, ENTRY)
    ring.delete(name, ENTRY)
    assert ring.read(name, ENTRY) is None


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        ("keyring.backends.fail.Keyring", "no OS keyring here"),
        ("keyring.backends.null.Keyring", "does not keep secrets safe"),
        ("no.such.module.Keyring", "cannot be loaded"),
        ("keyring.backends.fail.NoSuchClass", "cannot be loaded"),
        ("nonsense", "cannot be loaded"),
    ],
)
def test_a_useless_choice_is_explained(backend: str, reason: str) -> None:
    """What PYTHON_KEYRING_BACKEND names is respected, also when it cannot work."""
    with pytest.raises(KeyringUnavailable, match=reason):
        opened({"PYTHON_KEYRING_BACKEND": backend}).write(ENTRY, "text")


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        ("Locked", "the OS keyring is locked"),
        ("Forgetful", "did not keep what was stored"),
        ("Broken", "the OS keyring failed .ZeroDivisionError."),
    ],
)
def test_a_failure_is_one_clause(backends, backend: str, reason: str) -> None:
    """Whatever a back end raises; the secret is not in it."""
    with pytest.raises(KeyringUnavailable, match=reason) as caught:
        opened(backends(backend)).write(ENTRY, "topsecret")
    assert "topsecret" not in str(caught.value)


def test_a_silent_keyring_is_left_waiting(backends) -> None:
    """A prompt that nobody answers ends with an error in time, and what is awaited is said."""
    said: list[str] = []
    started = time.monotonic()
    with pytest.raises(KeyringUnavailable, match="does not answer within 2 s"):
        opened(backends("Silent"), said).read("keyring_plugins.Silent", ENTRY)
    assert time.monotonic() - started < 5
    assert said == ["waiting for the OS keyring to be unlocked, 2 s at most"]


@pytest.mark.parametrize("module", ["file", "pyfs", "Windows"])
def test_back_ends_with_files_of_their_own_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    """keyrings.alt makes plain text the default by being installed; also under another name."""
    package = tmp_path / "keyrings" / "alt"
    package.mkdir(parents=True)
    (package / f"{module}.py").write_text(
        "from keyring.backend import KeyringBackend\n"
        "class PlaintextKeyring(KeyringBackend):\n"
        "    priority = 0.5\n"
        "    def get_password(self, service, username): raise AssertionError\n"
        "    set_password = get_password\n"
    )
    (tmp_path / "renamed_plugin.py").write_text(
        f"from keyrings.alt.{module} import PlaintextKeyring\nclass Safe(PlaintextKeyring): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("keyrings", "keyrings.alt", f"keyrings.alt.{module}", "renamed_plugin"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in (f"keyrings.alt.{module}.PlaintextKeyring", "renamed_plugin.Safe"):
        with pytest.raises(KeyringUnavailable, match="does not keep secrets safe"):
            opened({"PYTHON_KEYRING_BACKEND": name}).write(ENTRY, "text")


def test_a_chain_is_resolved_to_its_first_safe_link(backends, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file then names a real back end, which loads without a search for all there are."""
    backends("Kept")
    import keyring_plugins
    from keyring.backends.null import Keyring as Nothing

    class Chain(ChainerBackend):
        backends = (Nothing(), keyring_plugins.Kept(), keyring_plugins.Locked())

    Chain.__module__ = ChainerBackend.__module__
    before = keyring.get_keyring()
    try:
        keyring.set_keyring(Chain())
        monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "")
        assert opened({}).write(ENTRY, "text") == "keyring_plugins.Kept"
        Chain.backends = (Nothing(),)
        with pytest.raises(KeyringUnavailable):
            opened({}).write(ENTRY, "text")
    finally:
        keyring.set_keyring(before)


def test_importing_the_module_loads_no_keyring() -> None:
    """`keyring` costs a tenth of a second; only what touches an entry pays for it."""
    import subprocess

    code = f"import sys, {os_keyring.__name__}; print('keyring' in sys.modules, 'logging' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
