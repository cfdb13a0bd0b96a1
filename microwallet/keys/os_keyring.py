"""The operating system's keyring, with a bound on how long it may take to answer."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

T = TypeVar("T")

SERVICE_NAME = "microwallet"
BACKEND_VARIABLE = "PYTHON_KEYRING_BACKEND"
NO_KEYRING: Mapping[str, str] = {BACKEND_VARIABLE: "keyring.backends.fail.Keyring"}
"""The environment in which keys are kept in files, and nobody's keyring is touched."""

_REFUSED = ("keyring.backends.fail", "keyring.backends.null", "keyrings.alt")
"""Back ends that keep nothing, or keep it in files of their own, some in plain text."""
_CHAINER = "keyring.backends.chainer"
_LOCKED = {"KeyringLocked", "InitError", "LockedException", "PromptDismissedException"}
_QUIET_SECONDS = 1.0


class KeyringUnavailable(Exception):
    """The OS keyring cannot be used; the message is a clause that says why."""


class OsKeyring:
    """Entries of the OS keyring, each a text under a name of its own.

    Every call ends within `patience` seconds, even if the keyring waits for someone to unlock it.
    """

    def __init__(
        self, environment: Mapping[str, str], *, patience: float, say: Callable[[str], None]
    ) -> None:
        chosen = environment.get(BACKEND_VARIABLE)
        self._chosen = None if not chosen or chosen.startswith(_CHAINER) else chosen
        self._patience = patience
        self._say = say

    def write(self, entry: str, text: str) -> str:
        """Store `text` and read it back; returns the name of the back end that has it."""

        def write() -> str:
            backend = self._backend_for_new()
            backend.set_password(SERVICE_NAME, entry, text)
            if backend.get_password(SERVICE_NAME, entry) != text:
                raise KeyringUnavailable("the OS keyring did not keep what was stored")
            return _class_name(type(backend))

        return self._bounded(write)

    def read(self, backend_name: str, entry: str) -> str | None:
        """The text of an entry, or None if there is none."""
        return self._bounded(lambda: self._backend(backend_name).get_password(SERVICE_NAME, entry))

    def delete(self, backend_name: str, entry: str) -> None:
        """Remove an entry; no error if it is gone already."""

        def delete() -> None:
            backend = self._backend(backend_name)
            if backend.get_password(SERVICE_NAME, entry) is not None:
                backend.delete_password(SERVICE_NAME, entry)

        self._bounded(delete)

    def _backend_for_new(self) -> KeyringBackend:
        """The best back end that keeps secrets safe."""
        _quieten()
        if self._chosen:
            return self._backend(self._chosen)
        import keyring

        backend = keyring.get_keyring()
        if type(backend).__module__ == _CHAINER:
            chain: Any = backend
            safe = [one for one in chain.backends if not _is_refused(type(one))]
            backend = safe[0] if safe else backend
        return _accepted(backend)

    def _backend(self, name: str) -> KeyringBackend:
        """The back end `name`, or the one the user chose; without a search for all there are."""
        _quieten()
        module, _, class_name = (self._chosen or name).rpartition(".")
        try:
            backend_class = getattr(importlib.import_module(module), class_name)
        except (ImportError, AttributeError, ValueError) as error:
            raise KeyringUnavailable(f"the OS keyring {self._chosen or name} cannot be loaded") from error
        return _accepted(backend_class())

    def _bounded(self, action: Callable[[], T]) -> T:
        """Run `action` in a thread that may be left behind: some back ends wait for ever."""
        import threading

        results: list[T] = []
        failures: list[Exception] = []

        def run() -> None:
            try:
                results.append(action())
            except Exception as error:  # noqa: BLE001 a back end is a plug-in: it may raise anything
                failures.append(error)

        thread = threading.Thread(target=run, name="keyring", daemon=True)
        thread.start()
        thread.join(min(_QUIET_SECONDS, self._patience))
        if thread.is_alive():
            self._say(f"waiting for the OS keyring to be unlocked, {self._patience:.0f} s at most")
            thread.join(self._patience - _QUIET_SECONDS)
        if failures:
            raise _explained(failures[0]) from failures[0]
        if not results:
            raise KeyringUnavailable(
                f"the OS keyring is locked, or does not answer within {self._patience:.0f} s"
            )
        return results[0]


def _accepted(backend: KeyringBackend) -> KeyringBackend:
    if not _is_refused(type(backend)):
        return backend
    name = _class_name(type(backend))
    if name.startswith("keyring.backends.fail"):
        raise KeyringUnavailable("there is no OS keyring here")
    raise KeyringUnavailable(f"the keyring {name} does not keep secrets safe")


def _is_refused(backend_class: type[Any]) -> bool:
    modules = [parent.__module__ for parent in backend_class.__mro__]
    if backend_class.__module__ == _CHAINER:
        return True  # one that is still a chainer here found nothing to chain
    return any(module.startswith(_REFUSED) for module in modules)


def _explained(error: Exception) -> KeyringUnavailable:
    if isinstance(error, KeyringUnavailable):
        return error
    kind = type(error).__name__
    if kind == "NoKeyringError":
        return KeyringUnavailable("there is no OS keyring here")
    if kind in _LOCKED:
        return KeyringUnavailable("the OS keyring is locked")
    return KeyringUnavailable(f"the OS keyring failed ({kind})")


def _class_name(backend_class: type[Any]) -> str:
    return f"{backend_class.__module__}.{backend_class.__qualname__}"


def _quieten() -> None:
    """Without a handler, Python prints the tracebacks of broken back ends on stderr."""
    import logging

    logger = logging.getLogger("keyring")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
