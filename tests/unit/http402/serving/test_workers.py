"""Worker processes: told to stop before they can be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

WORKERS = """
import os, signal, socket, sys, time
from microwallet.http402.serving.workers import Worker, Workers
with socket.socket() as listening:
    role = Workers(2, listening, lambda *_: None).run()
if isinstance(role, Worker):
    os.write(1, b"at work\\n")
    end = time.monotonic() + 20
    try:
        while not signal.sigpending() and time.monotonic() < end:
            time.sleep(0.01)
    except KeyboardInterrupt:
        os._exit(130)
    os._exit(0 if signal.sigpending() else 9)
sys.exit(role)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_a_worker_serves_waits_for_it(number):
    """It is no failure of the worker, and not lost."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", WORKERS], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert [process.stdout.readline() for _ in range(2)] == ["at work\n"] * 2
        process.send_signal(number)
        assert process.wait(timeout=30) == 0
