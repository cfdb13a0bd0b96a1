"""The public surface: what `import microwallet` costs and offers, name by name."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import microwallet

SURFACE = Path(__file__).with_name("surface.txt")


def described(name: str) -> list[str]:
    """A public name with its signature, its methods' or its fields'. Wallets are opened, not constructed."""
    thing = getattr(microwallet, name)
    if not inspect.isclass(thing):
        return [f"{name}{signature(thing)}"]
    if issubclass(thing, BaseException):
        return [f"{name}({', '.join(base.__name__ for base in thing.__bases__)}): {thing.code}"]
    if dataclasses.is_dataclass(thing):
        return [f"{name}.{field.name}: {field.type}" for field in dataclasses.fields(thing)]
    lines = [] if name.endswith("Wallet") else [f"{name}{signature(thing)}"]
    for member, value in sorted(vars(thing).items()):
        if member.startswith("_"):
            continue
        if isinstance(value, property):
            lines.append(f"{name}.{member}: {value.fget.__annotations__['return']}")
        else:
            is_async = inspect.iscoroutinefunction(value)
            lines.append(f"{'async ' if is_async else ''}{name}.{member}{signature(getattr(thing, member))}")
    return lines


def signature(thing: object) -> str:
    """As it is written in the code."""
    return str(inspect.signature(thing)).replace("'", "")


def test_the_surface_is_as_recorded():
    """Names, signatures and fields are those of surface.txt: a change there is a change of the version.

    What differs is to be written to the file by hand, and to the changelog.
    """
    found = "\n".join(line for name in microwallet.__all__ for line in described(name)) + "\n"
    assert found == SURFACE.read_text(encoding="utf-8")


def test_all_is_what_there_is():
    """`__all__` is sorted, every name in it is there, and nothing else is made up."""
    assert microwallet.__all__ == sorted(microwallet.__all__)
    assert set(microwallet.__all__) <= set(dir(microwallet))
    with pytest.raises(AttributeError, match="no attribute 'Walet'"):
        _ = microwallet.Walet


@pytest.mark.parametrize("name", microwallet.__all__)
def test_everything_public_is_documented(name):
    """Each name, and each method that others call, says what it does. Errors say it in errors.py."""
    thing = getattr(microwallet, name)
    if inspect.isclass(thing) and issubclass(thing, microwallet.MicrowalletError):
        return
    assert thing.__doc__
    for member, value in vars(thing).items():
        if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
            assert inspect.getdoc(value), f"{name}.{member}"


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import microwallet", {"typing", "sqlite3", "httpx", "microwallet.errors", "microwallet.api"}),
        ("import microwallet; microwallet.Wallet", {"httpx", "web3", "eth_account", "uvicorn"}),
        ("import microwallet; microwallet.PayingTransport", {"web3", "eth_account", "uvicorn", "keyring"}),
        ("import microwallet; microwallet.PaymentMiddleware", {"web3", "eth_account", "httpx", "uvicorn"}),
    ],
)
def test_a_name_loads_what_it_needs(statement, absent):
    """And `import microwallet` alone loads nothing at all."""
    probe = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {probe}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not absent & set(done.stdout.split())


def test_both_wallets_offer_the_same():
    """AsyncWallet has Wallet's methods with the same parameters and results."""
    sync, both = microwallet.Wallet, microwallet.AsyncWallet
    names = {name for name in vars(sync) if not name.startswith("_")}
    assert names == {name for name in vars(both) if not name.startswith("_")}
    for name in names:
        if inspect.isfunction(vars(sync)[name]):
            assert inspect.signature(getattr(sync, name)) == inspect.signature(getattr(both, name)), name
    for one, other in [(microwallet.PayingTransport, microwallet.AsyncPayingTransport)]:
        assert list(inspect.signature(one).parameters) == list(inspect.signature(other).parameters)


@pytest.mark.parametrize("routes", [None, {"/a": "0.1 USDC"}, "/a", ["/a"], [], 5])
def test_routes_that_are_none_are_told_at_once(routes):
    """Not at each request."""
    with pytest.raises(microwallet.UsageError, match="a list of tables is expected") as refused:
        microwallet.PaymentMiddleware(None, routes=routes, realm="r")
    assert refused.value.hint.startswith("routes=[{")
