"""`microwallet` for shells, run by a process that forks: `python forked_command.py CONTROL WORDS...`.

CONTROL is the inherited socket to that process; see forking.py, which says what goes over it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

NUMBER_WIDTH = 20


def main() -> int:
    control = socket.socket(fileno=int(sys.argv[1]))
    command = json.dumps([["microwallet", *sys.argv[2:]], dict(os.environ), os.getcwd()])  # noqa: PTH109
    ended, tell = os.pipe()
    socket.send_fds(control, [command.encode()], [0, 1, 2, tell])
    os.close(tell)
    process = int(os.read(ended, NUMBER_WIDTH))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _frame: os.kill(process, number))
    code = int(os.read(ended, NUMBER_WIDTH))
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
