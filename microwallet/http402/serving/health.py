"""`/healthz`: whether a worker can sell, for load balancers and people."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping

from microwallet.errors import MicrowalletError
from microwallet.http402.charging.answers import Answer
from microwallet.http402.charging.asgi import Application, Receive, Scope, Send, send_answer
from microwallet.http402.charging.caching import NO_STORE

HEALTH_PATH = "/healthz"
CHECK_SECONDS = 5.0
"""For how long what was found is told again: asking often costs nothing."""
PATIENCE_SECONDS = 3.0
"""What takes longer is silent."""

Check = Callable[[], Awaitable[None]]
"""Raises MicrowalletError if something is wrong."""


class Health:
    """Answers HEALTH_PATH itself: 200, or 503 as long as a check fails; an object with `status`, which is
    `ok` or `failing`, and for each check `ok` or the code of its error. Nothing secret."""

    def __init__(self, app: Application, checks: Mapping[str, Check]) -> None:
        self._app = app
        self._checks = checks
        self._found: dict[str, str] = {}
        self._found_at = float("-inf")
        self._one_at_a_time = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, as ASGI 3 has it."""
        if scope["type"] == "http" and scope["raw_path"] == HEALTH_PATH.encode():
            is_head = scope["method"] == "HEAD"
            await send_answer(await self._answer(), send, with_body=not is_head)
        else:
            await self._app(scope, receive, send)

    async def _answer(self) -> Answer:
        async with self._one_at_a_time:
            if time.monotonic() - self._found_at >= CHECK_SECONDS:
                self._found = {name: await _outcome(check) for name, check in self._checks.items()}
                self._found_at = time.monotonic()
        is_ok = all(outcome == "ok" for outcome in self._found.values())
        return Answer(
            status=200 if is_ok else 503,
            headers=[(b"content-type", b"application/json"), NO_STORE],
            body=json.dumps({"status": "ok" if is_ok else "failing", **self._found}).encode(),
        )


async def _outcome(check: Check) -> str:
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await check()
    except MicrowalletError as error:
        return error.code
    except TimeoutError:
        return "silent"
    return "ok"
