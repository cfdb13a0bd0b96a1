"""A headless Chromium, driven by the DevTools protocol over a pipe."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

CHROMIUM = shutil.which("chromium")
_SECONDS = 60
_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # tests run as root in containers; they open pages of their own alone
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)

_ON_THREE_AND_FOUR = """
import fcntl, os, sys
copies = [fcntl.fcntl(int(one), fcntl.F_DUPFD_CLOEXEC, 10) for one in sys.argv[1:3]]
os.dup2(copies[0], 3)
os.dup2(copies[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Chromium reads commands from descriptor 3 and writes answers to 4."""


class Browser:
    """One tab, as large and as light as it is told to be, and what its console says."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._received = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        """Method and parameters of all that the tab reported since it was last told to open a page."""

    @classmethod
    @contextmanager
    def started(cls, folder: Path) -> Iterator[Self]:
        """A browser with its profile in `folder`, and no process of it left afterwards."""
        its_commands, commands = os.pipe()
        answers, its_answers = os.pipe()
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", _ON_THREE_AND_FOUR, str(its_commands), str(its_answers)),
                *(str(CHROMIUM), *_FLAGS, f"--user-data-dir={folder}"),
            ],
            pass_fds=(its_commands, its_answers),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(folder)},
        )
        os.close(its_commands)
        os.close(its_answers)
        try:
            browser = cls(commands, answers)
            target = browser.send("Target.createTarget", url="about:blank")["targetId"]
            browser._session = browser.send("Target.attachToTarget", targetId=target, flatten=True)[
                "sessionId"
            ]
            for domain in ("Page", "Runtime", "Log", "Accessibility"):
                browser.send(f"{domain}.enable")
            yield browser
            browser._session = None
            browser.send("Browser.close")
            process.wait(_SECONDS)
        finally:
            process.kill()
            process.wait()
            os.close(commands)
            os.close(answers)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command."""
        self._number += 1
        command: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            command["sessionId"] = self._session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while (message := self._next()).get("id") != self._number:
            self.events.append((message["method"], message["params"]))
        assert "error" not in message, message
        return message["result"]

    def open(self, url: str) -> None:
        """Load a page, its images included."""
        self.events = []
        assert "errorText" not in self.send("Page.navigate", url=url)
        while "Page.loadEventFired" not in {method for method, _ in self.events}:
            message = self._next()
            self.events.append((message["method"], message["params"]))

    def show(self, *, width: int, height: int = 800, scheme: str = "light", media: str = "screen") -> None:
        """Give the page another screen: CSS pixels and a colour scheme. Up to 600 it is a phone's."""
        phone = width <= 600
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        self.send(
            "Emulation.setEmulatedMedia",
            media=media,
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def screenshot(self) -> bytes:
        """The whole page, PNG."""
        data = self.send("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        return base64.b64decode(data)

    def roles(self) -> list[tuple[str, str]]:
        """Role and name of what a screen reader meets, in its order."""
        nodes = {node["nodeId"]: node for node in self.send("Accessibility.getFullAXTree")["nodes"]}
        (root,) = (node for node in nodes.values() if "parentId" not in node)

        def walk(node: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
            if not node["ignored"]:
                yield node["role"]["value"], node.get("name", {}).get("value", "")
            for child in node.get("childIds", ()):
                yield from walk(nodes[child])

        return list(walk(root))

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + _SECONDS
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._answers], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"Chromium said nothing for {_SECONDS} seconds"
            data = os.read(self._answers, 1 << 20)
            assert data, "Chromium ended"
            self._received += data
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)
