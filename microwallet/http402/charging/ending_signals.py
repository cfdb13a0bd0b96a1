"""What tells a gateway, and each of its workers, to stop."""

from __future__ import annotations

import signal


def ending_signals() -> set[signal.Signals]:
    """Those of a service and of a person, and SIGHUP: the terminal is gone. None that is ignored, as `nohup`
    sees to."""
    ending = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    return {number for number in ending if signal.getsignal(number) is not signal.SIG_IGN}
