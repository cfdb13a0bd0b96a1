"""uvicorn as every server of scripts/bench is run: with Python's collector set as `serve` sets it.

Requests that wait for a commit are many objects that live for a while; the collector would look at all of
them, and at all that was imported, again and again.
"""

from __future__ import annotations

import gc
import socket
import sys
from pathlib import Path

import uvicorn


class Server(uvicorn.Server):
    """Sets the collector once the application is loaded."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 20, 20)


if __name__ == "__main__":
    sys.path[0] = str(Path.cwd())
    Server(uvicorn.Config(sys.argv[1], factory=True, port=0, access_log=False, timeout_keep_alive=600)).run()
