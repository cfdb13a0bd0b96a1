"""What tells a gateway, and each of its workers, to stop."""

from __future__ import annotations

import signal


def ending_signals() -> set[signal.Signals]:
    """Those of a service and of a person, and SIGHUP, as the terminal is gone: but where it is ignored, as
    `nohup` sees to. A script's SIGINT is heard all the same."""
    ending = {signal.SIGTERM, signal.SIGINT}
    return ending if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else ending | {signal.SIGHUP}
