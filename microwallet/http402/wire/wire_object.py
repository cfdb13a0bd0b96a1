"""A JSON object that the other side sent: typed access to its fields.

draft-evm-session-00, section "Encoding Conventions".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Self

from microwallet.domain.identifiers import Address, checksum_address
from microwallet.domain.voucher import CUMULATIVE_AMOUNT_LIMIT, SIGNATURE_LENGTH
from microwallet.errors import MalformedMessage

TEXT_LIMIT = 4096

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,38}")
_LONG_DECIMAL = re.compile(r"0|[1-9][0-9]{0,77}")
_ADDRESS_LENGTH = 20


class WireObject:
    """Field by field access. Every method raises MalformedMessage, which names the field, unless it fits.

    Absent and null are the same; methods named `optional_...` give None for both.
    """

    __slots__ = ("_fields", "_path")

    def __init__(self, fields: Mapping[str, Any], path: str) -> None:
        self._fields = fields
        self._path = path

    def __contains__(self, name: str) -> bool:
        return self._fields.get(name) is not None

    def text(self, name: str) -> str:
        """At most TEXT_LIMIT characters."""
        value = self._required(name)
        if not isinstance(value, str) or len(value) > TEXT_LIMIT:
            raise self._error(name, f"text of at most {TEXT_LIMIT} characters")
        return value

    def optional_text(self, name: str) -> str | None:
        return self.text(name) if name in self else None

    def amount(self, name: str) -> int:
        """Base units, a decimal string below 2**128 without leading zeros."""
        value = self._fields.get(name)
        if isinstance(value, str) and _DECIMAL.fullmatch(value):
            amount = int(value)
            if amount < CUMULATIVE_AMOUNT_LIMIT:
                return amount
        raise self._error(name, "a decimal string of base units below 2**128")

    def optional_amount(self, name: str) -> int | None:
        return self.amount(name) if name in self else None

    def uint256(self, name: str) -> int:
        """A number of the chain, such as a time: a decimal string below 2**256 without leading zeros."""
        value = self._fields.get(name)
        if isinstance(value, str) and _LONG_DECIMAL.fullmatch(value) and (number := int(value)) < 2**256:
            return number
        raise self._error(name, "a decimal string below 2**256")

    def number(self, name: str) -> int:
        """A JSON number: a whole one from 1, below 2**53."""
        value = self._required(name)
        if type(value) is not int or not 0 < value < 2**53:
            raise self._error(name, "a whole number from 1")
        return value

    def optional_count(self, name: str) -> int | None:
        """A whole JSON number from 0, below 2**53."""
        if name not in self:
            return None
        value = self._fields[name]
        if type(value) is not int or not 0 <= value < 2**53:
            raise self._error(name, "a whole number from 0")
        return value

    def flag(self, name: str) -> bool:
        """True or false; false if absent."""
        value = self._fields[name] if name in self else False
        if not isinstance(value, bool):
            raise self._error(name, "true or false")
        return value

    def address(self, name: str) -> Address:
        """20 bytes; the case of its letters says nothing."""
        return checksum_address(self._bytes(name, _ADDRESS_LENGTH))

    def optional_address(self, name: str) -> Address | None:
        return self.address(name) if name in self else None

    def bytes32(self, name: str) -> str:
        """Lowercase 0x hex."""
        return "0x" + self._bytes(name, 32).hex()

    def optional_bytes32(self, name: str) -> str | None:
        return self.bytes32(name) if name in self else None

    def signature(self, name: str) -> bytes:
        """65 bytes; 64-byte compact signatures are refused."""
        return self._bytes(name, SIGNATURE_LENGTH)

    def child(self, name: str) -> Self:
        """The object inside."""
        value = self._required(name)
        if not isinstance(value, dict):
            raise self._error(name, "an object")
        return type(self)(value, f"{self._path}.{name}")

    def optional_child(self, name: str) -> Self | None:
        return self.child(name) if name in self else None

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts."""
        value = self._required(name)
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self._error(name, "a list of texts")
        return tuple(value)

    def one_of(self, name: str, choices: tuple[str, ...]) -> str:
        """One of a few texts."""
        value = self._fields.get(name)
        if value not in choices:
            raise self._error(name, " or ".join(choices))
        return str(value)

    def _required(self, name: str) -> Any:
        value = self._fields.get(name)
        if value is None:
            raise MalformedMessage(f"{self._path}.{name} is missing")
        return value

    def _bytes(self, name: str, length: int) -> bytes:
        value = self._fields.get(name)
        if isinstance(value, str) and len(value) == 2 + 2 * length and value.startswith("0x"):
            try:
                raw = bytes.fromhex(value[2:])
            except ValueError:
                raw = b""
            if len(raw) == length:  # it passes over spaces
                return raw
        raise self._error(name, f"0x and {2 * length} hexadecimal digits")

    def _error(self, name: str, expected: str) -> MalformedMessage:
        value = self._required(name)
        # What nests is not shown: it may be deeper than Python recurses.
        shown = "no single value" if isinstance(value, dict | list) else repr(value)
        shown = shown if len(shown) <= 80 else shown[:80] + "..."
        return MalformedMessage(f"{self._path}.{name} is {shown}; {expected} is expected")
