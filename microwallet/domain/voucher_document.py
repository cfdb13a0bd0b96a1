"""A voucher as JSON: all a payee needs to check it, one object a line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from microwallet.domain.channel import ChannelDescriptor
from microwallet.domain.identifiers import ChainId, ChannelId, parse_address, parse_bytes32
from microwallet.domain.json_text import parse_json
from microwallet.domain.money import Asset
from microwallet.domain.voucher import CUMULATIVE_AMOUNT_LIMIT, SignerCheck, VoucherDigest
from microwallet.errors import UsageError

LINE_LIMIT = 16 * 1024
"""Bytes a voucher line may have; a real one has about 800."""


class MalformedVoucher(ValueError):
    """A document that is no voucher object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VoucherDocument:
    """A voucher, and the descriptor of the channel it claims to be for. Nothing in it is trusted."""

    channel_id: ChannelId
    descriptor: ChannelDescriptor
    cumulative_amount: int
    payment_start: int
    """The cumulative amount from which its payment went on, as the payer says; its own if nothing is said."""
    signature: bytes

    @property
    def digest(self) -> bytes:
        """What its signature is over, 32 bytes."""
        descriptor = self.descriptor
        digest = VoucherDigest(descriptor.chain_id, descriptor.escrow_contract, self.channel_id)
        return digest(self.cumulative_amount)

    def is_signed(self) -> bool:
        """Whether it is signed by its descriptor's voucher signer; SignatureError as SignerCheck."""
        return SignerCheck(self.descriptor.voucher_signer)(self.digest, self.signature)


def voucher_writer(
    descriptor: ChannelDescriptor, channel_id: ChannelId, asset: Asset, *, payment_start: int | None = None
) -> Callable[[int, int, int, bytes], str]:
    """Writer of one channel's voucher objects: (cumulative, amount, deposit, signature) to JSON text.

    The result has no line break. Everything that does not change is rendered once. `payment_start`: what
    was authorized before the payment that they are of.
    """
    head = '{"channelId":' + json.dumps(channel_id) + ',"cumulativeAmount":"'
    payment = {} if payment_start is None else {"paymentStart": str(payment_start)}
    tail = "," + json.dumps(
        payment
        | {
            "asset": asset.symbol,
            "decimals": asset.decimals,
            "chainId": descriptor.chain_id,
            "escrowContract": descriptor.escrow_contract,
            "payer": descriptor.payer,
            "payee": descriptor.payee,
            "token": descriptor.token,
            "salt": descriptor.salt,
            "authorizedSigner": descriptor.authorized_signer,
        },
        separators=(",", ":"),
    ).removeprefix("{")

    def write(cumulative_amount: int, amount: int, deposit: int, signature: bytes) -> str:
        return (
            f'{head}{cumulative_amount}","amount":"{amount}","remaining":"{deposit - cumulative_amount}"'
            f',"signature":"0x{signature.hex()}"{tail}'
        )

    return write


class VoucherReader:
    """Parses voucher documents; a descriptor seen before is not parsed again.

    Accepts bare voucher objects and the success envelope around one.
    """

    def __init__(self) -> None:
        self._descriptors: dict[tuple[Any, ...], ChannelDescriptor] = {}

    def read(self, line: bytes | str) -> VoucherDocument:
        """The voucher in one JSON document; MalformedVoucher says what is wrong with it."""
        return self.parse(voucher_object(line))

    def parse(self, document: dict[str, Any]) -> VoucherDocument:
        """The voucher in a decoded JSON object."""
        try:
            return VoucherDocument(
                channel_id=_channel_id(document["channelId"]),
                descriptor=self._descriptor(document),
                cumulative_amount=_base_units(document["cumulativeAmount"], "cumulativeAmount"),
                payment_start=_base_units(
                    document.get("paymentStart", document["cumulativeAmount"]), "paymentStart"
                ),
                signature=_signature(document["signature"]),
            )
        except KeyError as error:
            raise MalformedVoucher(f"{error.args[0]} is missing") from error
        except (UsageError, TypeError, ValueError) as error:
            raise MalformedVoucher(str(error)) from error

    def _descriptor(self, document: dict[str, Any]) -> ChannelDescriptor:
        fields = (
            document["payer"],
            document["payee"],
            document["token"],
            document["salt"],
            document["authorizedSigner"],
            document["escrowContract"],
            document["chainId"],
        )
        known = self._descriptors.get(fields)
        if known is not None and type(fields[6]) is int:
            return known
        descriptor = _parse_descriptor(*fields)
        if len(self._descriptors) < 10_000:
            self._descriptors[fields] = descriptor
        return descriptor


def voucher_object(line: bytes | str) -> dict[str, Any]:
    """The JSON object of a voucher, taken out of its envelope; MalformedVoucher if it is none."""
    try:
        document = parse_json(line)
    except ValueError as error:
        raise MalformedVoucher("not JSON") from error
    if isinstance(document, dict) and "data" in document and "schema" in document:
        document = document["data"]
    if not isinstance(document, dict):
        raise MalformedVoucher("not a JSON object")
    return document


def _parse_descriptor(
    payer: str, payee: str, token: str, salt: str, signer: str, escrow: str, chain_id: int
) -> ChannelDescriptor:
    if type(chain_id) is not int or not 0 < chain_id < 2**63:
        raise MalformedVoucher("chainId is not a positive number")
    return ChannelDescriptor(
        payer=parse_address(payer),
        payee=parse_address(payee),
        token=parse_address(token),
        salt=parse_bytes32(salt, what="salt"),
        authorized_signer=parse_address(signer),
        escrow_contract=parse_address(escrow),
        chain_id=ChainId(chain_id),
    )


def _channel_id(text: str) -> ChannelId:
    return ChannelId(parse_bytes32(text, what="channelId"))


def _base_units(text: str, what: str) -> int:
    if type(text) is not str or not text.isascii() or not text.isdigit() or len(text) > 39:
        raise MalformedVoucher(f"{what} is not a decimal string of base units")
    amount = int(text)
    if amount >= CUMULATIVE_AMOUNT_LIMIT or (text[0] == "0" and text != "0"):
        raise MalformedVoucher(f"{what} is not a decimal string below 2**128")
    return amount


def _signature(text: str) -> bytes:
    if type(text) is not str or not text.startswith("0x") or len(text) > 1024:
        raise MalformedVoucher("signature is not 0x hexadecimal")
    raw = bytes.fromhex(text[2:])
    if 2 + 2 * len(raw) != len(text):
        raise MalformedVoucher("signature is not 0x hexadecimal")
    return raw
