"""Settings, and where each came from: flag, MICROWALLET_* variable, project file, user file, default."""

from __future__ import annotations

import fcntl
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from microwallet.errors import UsageError, did_you_mean
from microwallet.files import look_at, move_away, replace_file, shell_path, typed_path

PROJECT_FILE = "microwallet.toml"
PROJECT_SETTINGS = frozenset({"network", "account"})
"""A project file may choose, never trust: RPC addresses, escrows and mainnets are the user's alone."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of the user file: its default and what it means."""

    default: Any
    help: str


SETTINGS: Mapping[str, Setting] = {
    "network": Setting("anvil", "the network commands work on"),
    "account": Setting(None, "the account that pays and is paid"),
    "relayer": Setting(None, "the account that pays gas for the payee, and for payers without any"),
    "token": Setting(None, "the token amounts without a unit are in; default: the network's USDC"),
    "password-file": Setting(None, "a file whose first line is the password of encrypted keys"),
    "max-amount": Setting("0.01 USDC", "the most a request that is paid for may cost"),
    "max-deposit": Setting("1 USDC", "the most that may be deposited for one payee of such requests"),
    "rpc-url": Setting(None, "one RPC address instead of the network's own"),
    "rpc-timeout": Setting(10, "seconds a chain request may take, retries included"),
    "max-fee-gwei": Setting(200, "the most a transaction pays per gas, in gwei"),
    "wait-seconds": Setting(180, "seconds to wait for a transaction before its outcome is unknown"),
}

_SECTIONS = frozenset({"networks", "tokens", "escrows"})
"""Tables of the user file beside its settings."""

_NUMBERS = {"rpc-timeout", "max-fee-gwei", "wait-seconds"}


@dataclass(frozen=True, slots=True)
class Resolved:
    """A setting's value and its source: flag, environment, project, user or default."""

    value: Any
    source: str


@dataclass(frozen=True, slots=True)
class Paths:
    """Every place on disk microwallet uses; nothing is created by asking."""

    home: Path
    environment: Mapping[str, str]

    @property
    def cache(self) -> Path:
        """Where tools are installed once for every home."""
        named = self.environment.get("MICROWALLET_CACHE")
        if named:
            return typed_path(named)
        import platformdirs

        return Path(platformdirs.user_cache_dir("microwallet", appauthor=False))

    @property
    def user_file(self) -> Path:
        return self.home / "config.toml"

    @property
    def ledger(self) -> Path:
        return self.home / "ledger.sqlite3"

    @property
    def keys(self) -> Path:
        return self.home / "keys"

    @property
    def devnet(self) -> Path:
        return self.home / "devnet"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Paths:
        """MICROWALLET_HOME moves everything but the tool cache; else the platform's data folder.

        UsageError for a user who has none.
        """
        home = environment.get("MICROWALLET_HOME")
        try:
            if not home:
                import platformdirs

                home = platformdirs.user_data_dir("microwallet", appauthor=False)
            return cls(home=Path(home).expanduser().absolute(), environment=environment)
        except RuntimeError as error:
            raise UsageError(
                "this user has no home folder to keep a wallet in", hint="export MICROWALLET_HOME=/a/folder"
            ) from error


class Configuration:
    """The settings in force. Reads files once, when built."""

    def __init__(
        self,
        paths: Paths,
        environment: Mapping[str, str],
        *,
        flags: Mapping[str, Any] | None = None,
        project_folder: Path | None = None,
    ) -> None:
        self.paths = paths
        self._environment = environment
        self._flags = {name: value for name, value in (flags or {}).items() if value is not None}
        self._project = _read_project(project_folder / PROJECT_FILE) if project_folder else {}
        self.user = _read_user(paths.user_file)

    def get(self, name: str) -> Any:
        """The value of a setting of SETTINGS."""
        return self.resolve(name).value

    def resolve(self, name: str) -> Resolved:
        """The value of a setting and where it came from."""
        if name in self._flags:
            return Resolved(self._flags[name], "flag")
        variable = _variable(name)
        if self._environment.get(variable):
            return Resolved(_checked(name, self._environment[variable], variable), "environment")
        if name in PROJECT_SETTINGS and name in self._project:
            return Resolved(_checked(name, self._project[name], PROJECT_FILE), "project")
        if name in self.user:
            return Resolved(_checked(name, self.user[name], str(self.paths.user_file)), "user")
        return Resolved(SETTINGS[name].default, "default")

    def instead(self, name: str, value: str) -> str:
        """What to type for a setting to have another value, by where it has this one from."""
        source = self.resolve(name).source
        if source == "flag":
            return f"--{name} {shlex.quote(value)}"
        if source == "environment":
            return f"export {_variable(name)}={shlex.quote(value)}"
        if source == "project":
            return f'{name} = "{value}"  (in {PROJECT_FILE})'
        return f"microwallet config set {name} {shlex.quote(value)}"

    def given(self) -> dict[str, str]:
        """Variables for the settings of this run that the user file has not got, or has otherwise."""
        resolved = {name: self.resolve(name) for name in SETTINGS}
        return {
            _variable(name): str(one.value)
            for name, one in resolved.items()
            if one.source not in ("user", "default")
        }

    def section(self, name: str) -> dict[str, Any]:
        """A table of the user file, such as `networks`; empty when missing."""
        table = self.user.get(name, {})
        if not isinstance(table, dict):
            raise UsageError(f"{self.paths.user_file}: [{name}] is not a table")
        return table

    @contextmanager
    def editing(self) -> Iterator[dict[str, Any]]:
        """The user file's content to change; written back atomically, one process at a time.

        It is read again, so what is decided within is decided by what other processes wrote too.
        """
        import tomli_w

        with self._locked():
            self.user = content = _read_user(self.paths.user_file)
            yield content
            with _writing(self.paths.user_file):
                replace_file(self.paths.user_file, tomli_w.dumps(content))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with _writing(self.paths.user_file):
            self.paths.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = (self.paths.home / ".config.lock").open("w")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _variable(name: str) -> str:
    return "MICROWALLET_" + name.upper().replace("-", "_")


def checked_setting(name: str, value: Any) -> Any:
    """The value of a setting as the user file keeps it; UsageError if there is no such setting."""
    if name not in SETTINGS:
        raise UsageError(_no_setting(name), hint="microwallet config show")
    if value == "":
        raise UsageError(f"{name} is set to nothing", hint=f"microwallet config unset {name}")
    return _checked(name, value, "the command line")


def _no_setting(name: str, known: Iterable[str] = SETTINGS) -> str:
    return f"there is no setting {name[:64]!r}; {did_you_mean(name, known)}"


def _checked(name: str, value: Any, where: str) -> Any:
    if name not in _NUMBERS:
        if not isinstance(value, str):
            raise UsageError(f"{where}: {name} is {value!r}, not a text")
        return value
    valid = SETTINGS[name].default
    is_variable = where.startswith("MICROWALLET_")
    hint = f"export {where}={valid}" if is_variable else f"microwallet config set {name} {valid}"
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise UsageError(f"{where}: {name} is {value!r}, not a number", hint=hint) from None
    if not 0 < number < 1e9:
        raise UsageError(f"{where}: {name} is {value!r}; it must be above zero", hint=hint)
    return int(number) if number.is_integer() else number


def _read_user(path: Path) -> dict[str, Any]:
    """The user file; UsageError for a key that is no setting, such as a limit that is mistyped."""
    content = _read(path)
    for name in content:
        if name not in SETTINGS and name not in _SECTIONS:
            raise UsageError(f"{path}: {_no_setting(name)}", hint=_mend(path))
    return content


def _read_project(path: Path) -> dict[str, Any]:
    """The file of a folder; UsageError for what it does not choose, which nothing else would tell."""
    content = _read(path)
    for name in content:
        if (name in SETTINGS and name not in PROJECT_SETTINGS) or name in _SECTIONS:
            said = f"{name} is not chosen by a folder, only network and account are"
            raise UsageError(f"{path}: {said}", hint=_mend(path))
        if name not in PROJECT_SETTINGS:
            raise UsageError(f"{path}: {_no_setting(name, sorted(PROJECT_SETTINGS))}", hint=_mend(path))
    return content


def _read(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        hint = f"ls -ld {shell_path(path.parent)} {shell_path(path)}"
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint=hint) from error
    import tomllib

    try:
        return tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read: {error}", hint=_mend(path)) from error


def _mend(path: Path) -> str:
    return f"mend it, or move it away: {move_away(path)}"


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn what the file system raises into a usage error."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", hint=look_at(path.parent)) from error
