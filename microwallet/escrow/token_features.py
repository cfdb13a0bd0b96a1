"""Whether a token takes signatures (EIP-3009 with packed bytes, EIP-2612), and what it has done with them.

The first is found by trying: a call is simulated with a signature of a key made up for it, over an
amount of nothing. It counts only when the right signature passes, a wrong one does not, and the
token's state about it can be read, so that a fallback which takes any call proves nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from microwallet.domain.identifiers import Address, ChainId, hexed, keccak, word
from microwallet.domain.voucher import VoucherKey
from microwallet.escrow.authorizations import TokenDomain, permit_digest, receive_digest, sign
from microwallet.escrow.reader import EscrowReader, block_tag, bytes_if_any, read_bytes, selector
from microwallet.escrow.rpc import Request, RpcError

_FOREVER = 2**256 - 1

_RECEIVE = selector("receiveWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)")
_PERMIT = selector("permit(address,address,uint256,uint256,uint8,bytes32,bytes32)")
_AUTHORIZATION_STATE = selector("authorizationState(address,bytes32)")
_NONCES = selector("nonces(address)")
_AUTHORIZATION_USED = hexed(keccak(b"AuthorizationUsed(address,bytes32)"))
_LOOK_BACK_BLOCKS = 5_000
"""How far back the use of an authorization is looked for: hours, and they are valid for minutes."""
_NAME = selector("name()")
_VERSION = selector("version()")
_DOMAIN_SEPARATOR = selector("DOMAIN_SEPARATOR()")
_EIP712_DOMAIN = selector("eip712Domain()")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFeatures:
    """What a deposit can do in one transaction. `domain` is None when neither is possible."""

    domain: TokenDomain | None
    receive_with_authorization: bool
    permit: bool


NO_FEATURES = TokenFeatures(domain=None, receive_with_authorization=False, permit=False)


def token_features(reader: EscrowReader, token: Address, chain_id: ChainId) -> TokenFeatures:
    """What the token proved; costs two requests."""
    domain = _domain(reader, token, chain_id)
    if domain is None:
        return NO_FEATURES
    secret = secrets.token_bytes(32)
    probe = VoucherKey(secret).address
    receiver = reader.escrow_contract
    requests = [
        reader.view(token, _AUTHORIZATION_STATE + word(probe) + word(b"")),
        _from(receiver, token, _receive_call(domain, secret, receiver, signed_nonce=bytes(32))),
        _from(receiver, token, _receive_call(domain, secret, receiver, signed_nonce=keccak(b""))),
        reader.view(token, _NONCES + word(probe)),
        _from(receiver, token, _permit_call(domain, secret, receiver, signed_deadline=_FOREVER)),
        _from(receiver, token, _permit_call(domain, secret, receiver, signed_deadline=_FOREVER - 1)),
    ]
    state, right, wrong, nonces, right_permit, wrong_permit = reader.rpc.try_batch(requests)
    receives = _is_word(state) and _passes(right) and not _passes(wrong)
    permits = _is_word(nonces) and _passes(right_permit) and not _passes(wrong_permit)
    return TokenFeatures(
        domain=domain if receives or permits else None,
        receive_with_authorization=receives,
        permit=permits,
    )


def permit_nonce(reader: EscrowReader, token: Address, owner: Address) -> int:
    """EIP-2612: the nonce of the owner's next permit."""
    answer = reader.rpc.call(*reader.view(token, _NONCES + word(owner)))
    return int.from_bytes(read_bytes(answer, reader.rpc.shown)[:32], "big")


def authorization_state(
    reader: EscrowReader, token: Address, authorizer: Address, nonce: bytes, block: str | int = "latest"
) -> bool:
    """EIP-3009: whether the token has carried out an authorization by a block, whoever submitted it."""
    data = _AUTHORIZATION_STATE + word(authorizer) + nonce
    answer = reader.rpc.call(*reader.view(token, data, block_tag(block)))
    return int.from_bytes(read_bytes(answer, reader.rpc.shown), "big") == 1


def authorization_was_carried_out(
    reader: EscrowReader, token: Address, authorizer: Address, nonce: bytes
) -> bool:
    """EIP-3009: whether a used authorization moved money lately; one that its payer cancelled did not."""
    wanted = {
        "address": token,
        "topics": [_AUTHORIZATION_USED, hexed(word(authorizer)), hexed(nonce)],
        "fromBlock": hex(max(0, reader.head().number - _LOOK_BACK_BLOCKS)),
        "toBlock": "latest",
    }
    found = reader.rpc.call("eth_getLogs", [wanted])
    return isinstance(found, list) and bool(found)


def _domain(reader: EscrowReader, token: Address, chain_id: ChainId) -> TokenDomain | None:
    """The domain the token's own separator agrees with."""
    calls = (_NAME, _VERSION, _DOMAIN_SEPARATOR, _EIP712_DOMAIN)
    answers = [
        bytes_if_any(answer) for answer in reader.rpc.try_batch([reader.view(token, c) for c in calls])
    ]
    name, version, separator, described = answers
    for candidate in _candidates(name, version, described, token, chain_id):
        if len(separator) != 32 or candidate.separator() == separator:
            return candidate
    return None


def _candidates(
    name: bytes, version: bytes, described: bytes, token: Address, chain_id: ChainId
) -> Iterator[TokenDomain]:
    """Domains the token may use: as EIP-5267 describes it, else by name and usual versions."""
    named = []
    if len(described) > 7 * 32:  # fields, name, version, chainId, contract, salt, extensions
        named.append((_string(described, 1), _string(described, 2)))
    named += [(_string(name, 0), text) for text in (_string(version, 0), "1", "2")]
    for its_name, its_version in named:
        if its_name is not None and its_version is not None:
            yield TokenDomain(name=its_name, version=its_version, chain_id=chain_id, token=token)


def _receive_call(domain: TokenDomain, secret: bytes, receiver: Address, *, signed_nonce: bytes) -> bytes:
    probe = VoucherKey(secret).address
    digest = receive_digest(
        domain,
        sender=probe,
        receiver=receiver,
        value=0,
        valid_after=0,
        valid_before=_FOREVER,
        nonce=signed_nonce,
    )
    signature = sign(secret, digest)
    members = (probe, receiver, 0, 0, _FOREVER, bytes(32), 7 * 32, len(signature))
    return _RECEIVE + b"".join(word(member) for member in members) + signature.ljust(96, b"\0")


def _permit_call(domain: TokenDomain, secret: bytes, spender: Address, *, signed_deadline: int) -> bytes:
    probe = VoucherKey(secret).address
    digest = permit_digest(domain, owner=probe, spender=spender, value=0, nonce=0, deadline=signed_deadline)
    signature = sign(secret, digest)
    members = (probe, spender, 0, _FOREVER, signature[64], signature[:32], signature[32:64])
    return _PERMIT + b"".join(word(member) for member in members)


def _from(sender: Address, to: Address, data: bytes) -> Request:
    return ("eth_call", [{"from": sender, "to": to, "data": hexed(data)}, "latest"])


def _passes(answer: Any) -> bool:
    return not isinstance(answer, RpcError)


def _is_word(answer: Any) -> bool:
    return len(bytes_if_any(answer)) == 32


def _string(raw: bytes, position: int) -> str | None:
    """The string a result holds at one position of its head; None if there is none."""
    offset = int.from_bytes(raw[position * 32 : position * 32 + 32], "big")
    length = int.from_bytes(raw[offset : offset + 32], "big")
    content = raw[offset + 32 : offset + 32 + length]
    if not content or len(content) != length:
        return None
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None
