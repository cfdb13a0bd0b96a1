"""Pays for a URL as the x402 SDK's documentation does it with httpx, for scripts/bench.

usage: x402_fetch.py URL FOLDER
FOLDER is where the SDK's file store keeps the channel.
"""

from __future__ import annotations

import asyncio
import sys

from eth_account import Account
from x402 import x402Client
from x402.http.clients.httpx import x402HttpxClient
from x402.mechanisms.evm.batch_settlement.client import BatchSettlementEvmScheme
from x402.mechanisms.evm.batch_settlement.client.config import BatchSettlementEvmSchemeOptions
from x402.mechanisms.evm.batch_settlement.client.file_storage import (
    FileChannelStorageOptions,
    FileClientChannelStorage,
)


def main(url: str, folder: str) -> None:
    """Fetch the URL, pay, and print the body; another status than 200 is an error."""
    storage = FileClientChannelStorage(FileChannelStorageOptions(directory=folder))
    scheme = BatchSettlementEvmScheme(
        Account.from_key("0x" + "11" * 32), BatchSettlementEvmSchemeOptions(storage=storage)
    )
    client = x402Client()
    client.register("eip155:84532", scheme)
    asyncio.run(fetch(client, url))


async def fetch(client: x402Client, url: str) -> None:
    """Get the URL; the SDK's client pays."""
    async with x402HttpxClient(client) as http:
        response = await http.get(url)
        await response.aread()
        response.raise_for_status()
        print(response.text)


if __name__ == "__main__":
    main(*sys.argv[1:])
