"""Several processes that serve one socket: forked before anything is open, told to stop together."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from microwallet.domain.ports import Emit
from microwallet.errors import LedgerError, MicrowalletError
from microwallet.http402.serving.ending_signals import ending_signals

RESTARTS = 10
"""Workers that may be replaced within RESTART_SECONDS before all give up."""
RESTART_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """What a forked process needs to know."""

    number: int
    """From 0; whoever takes a dead one's place has its number."""
    is_first: bool
    """Whether nobody had its number before."""
    parent: int | None = None
    """The end of a pipe that is closed when the parent ends, however it does; None without a parent."""
    failures: int = -1
    """The end of a pipe by which the parent is told of failures."""

    def run(self, work_as: Callable[[Worker], None]) -> int:
        """Work for a parent, which tells what is wrong with the ledger; the exit code."""
        try:
            work_as(self)
        except LedgerError as error:
            os.write(self.failures, pickle.dumps(error))
            return error.exit_code
        return 0


class Workers:
    """The parent of `count` processes that serve one socket.

    Nothing may be open in it that processes must not share: no thread, loop, database or connection.
    """

    def __init__(self, count: int, listening: socket.socket, emit: Emit) -> None:
        self._missing = [(number, True) for number in range(count)]
        self._listening = listening
        self._emit = emit
        self._numbers: dict[int, int] = {}
        """Of the processes that run, by their ids."""
        self._replaced: deque[float] = deque(maxlen=RESTARTS)
        self._is_stopping = False
        self._exit_code = 0
        self._alive, self._parent_alive = os.pipe()
        self._failed, self._failures = os.pipe()

    def run(self) -> Worker | int:
        """Fork; returns in each worker at once, the ending signals blocked until it serves, and in the parent
        when all have ended: the exit code.

        The ending signals go on to the workers. One that is killed is replaced; one that fails by itself
        ends them all. Raises what the first has told of, or MicrowalletError once too many were replaced.
        """
        awaited = ending_signals() | {signal.SIGCHLD}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
        try:
            while True:
                while self._missing:
                    number, is_first = self._missing.pop(0)
                    process = os.fork()
                    if process == 0:
                        before |= awaited - {signal.SIGCHLD}  # until it can be stopped by them
                        os.setpgid(0, 0)  # what is typed at the terminal reaches the parent alone
                        os.close(self._parent_alive)
                        os.close(self._failed)
                        return Worker(
                            number=number, is_first=is_first, parent=self._alive, failures=self._failures
                        )
                    self._numbers[process] = number
                if not self._numbers:
                    before |= awaited  # nothing is left to be stopped
                    self._raise_failure()
                    return self._exit_code
                received = signal.sigwait(awaited)
                if received == signal.SIGCHLD:
                    self._reap()
                else:
                    self._stop(received)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _raise_failure(self) -> None:
        """Raise what the first worker that failed has told of; what others have is mostly the same."""
        os.close(self._failures)
        with os.fdopen(self._failed, "rb") as told:
            if failure := told.read():
                raise pickle.loads(failure)  # noqa: S301  # these processes are our own

    def _stop(self, number: int) -> None:
        self._is_stopping = True
        self._missing.clear()
        self._listening.close()
        for process in self._numbers:
            os.kill(process, number)

    def _reap(self) -> None:
        for process, number in list(self._numbers.items()):
            ended, status = os.waitpid(process, os.WNOHANG)
            if not ended:
                continue
            del self._numbers[process]
            code = os.waitstatus_to_exitcode(status)
            if code > 0:
                self._exit_code = self._exit_code or code
                if not self._is_stopping:
                    self._stop(signal.SIGTERM)
            elif not self._is_stopping:
                self._replace(number, code)

    def _replace(self, number: int, code: int) -> None:
        how = f"was killed by {signal.Signals(-code).name}" if code else "ended"
        now = time.monotonic()
        if len(self._replaced) == RESTARTS and now - self._replaced[0] < RESTART_SECONDS:
            self._stop(signal.SIGTERM)
            raise MicrowalletError(
                f"worker {number} {how}, and {RESTARTS} others within {RESTART_SECONDS:.0f} s: giving up"
            )
        self._replaced.append(now)
        self._missing.append((number, False))
        self._emit("worker-replaced", {"worker": number, "message": f"the one before {how}"})
