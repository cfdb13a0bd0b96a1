"""Voucher keys: one per channel, derived from the account key, kept so that paying never needs it."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from pathlib import Path

from microwallet.domain.identifiers import Address, ChainId, ChannelId, parse_bytes32, word
from microwallet.domain.voucher import VoucherKey
from microwallet.errors import KeyMissing, KeyUnavailable
from microwallet.keys import keystore
from microwallet.keys.key_files import KeyFile, KeyFiles, Store
from microwallet.keys.passwords import PasswordSource

_INFO = b"microwallet voucher key v1"


def derive_voucher_key(
    account_key: bytes,
    *,
    salt: str,
    chain_id: ChainId,
    escrow_contract: Address,
    payee: Address,
    token: Address,
) -> VoucherKey:
    """The key that signs one channel's vouchers; `salt` is the channel's, 0x hex.

    HKDF-SHA256 (RFC 5869) of the account key. One-way: a voucher key tells nothing of the account
    key or of another channel's key.
    """
    info = (
        _INFO + word(chain_id) + b"".join(bytes.fromhex(one[2:]) for one in (escrow_contract, payee, token))
    )
    pseudo_random_key = hmac.digest(bytes.fromhex(salt[2:]), account_key, "sha256")
    return VoucherKey(hmac.digest(pseudo_random_key, info + b"\x01", "sha256"))


class VoucherKeys:
    """The voucher keys of one home, in `folder`/vouchers, by channel id."""

    def __init__(
        self,
        folder: Path,
        passwords: PasswordSource,
        environment: Mapping[str, str],
        say: Callable[[str], None],
    ) -> None:
        self._files = voucher_key_files(folder, passwords, environment, say)

    def __len__(self) -> int:
        """How many channels have their key here."""
        return sum(1 for _ in self._files)

    def put(self, channel_id: ChannelId, key: VoucherKey, store: Store) -> None:
        """Keep a channel's key; durable when it returns.

        A resumed open may put the same key again; another key in its place is KeyUnavailable.
        """
        name = parse_bytes32(channel_id, what="channel id")
        known = self._files.find(name)
        if known is not None and known.address == key.address and self._is_gone(known):
            self._files.remove(known)
            known = None
        try:
            known = known or self._files.create(name, key.secret, store=store)
        except FileExistsError:  # another process resumed the same open
            known = self._files.find(name)
        if known is None or known.address != key.address:
            raise KeyUnavailable(f"channel {channel_id} has another voucher key already: it is kept")

    def _is_gone(self, key_file: KeyFile) -> bool:
        """Whether the OS keyring has lost what the file points to."""
        if key_file.store is Store.FILE:
            return False
        try:
            self._files.secret(key_file)
        except KeyMissing:
            return True
        return False

    def get(self, channel_id: ChannelId) -> VoucherKey:
        """The key of a channel; KeyMissing if it is not here, KeyUnavailable if locked."""
        key_file = self._files.find(parse_bytes32(channel_id, what="channel id"))
        if key_file is None:
            raise KeyMissing(
                f"the voucher key of channel {channel_id} is not in this wallet",
                hint="microwallet channel sync",
            )
        return VoucherKey(self._files.secret(key_file))


def voucher_key_files(
    folder: Path,
    passwords: PasswordSource,
    environment: Mapping[str, str],
    say: Callable[[str], None],
) -> KeyFiles:
    """The files of the voucher keys under `folder`."""
    return KeyFiles(
        folder / "vouchers",
        noun="voucher key of channel",
        cost=keystore.LIGHT_COST,
        passwords=passwords,
        environment=environment,
        say=say,
    )
