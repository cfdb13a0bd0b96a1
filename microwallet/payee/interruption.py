"""What keeps a loop from its work: told when it begins, and when it is over."""

from __future__ import annotations

from microwallet.domain.ports import Emit
from microwallet.errors import MicrowalletError


class Interruption:
    """Of one loop: nothing is wrong at first."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self.code = ""
        """Of what is wrong, as it was told last; empty while nothing is."""

    def begins(self, error: MicrowalletError, *, so: str = "") -> None:
        """Tell what is wrong, and what follows from it, unless something was told and is not over."""
        if not self.code:
            self.tell(error, so=so)

    def tell(self, error: MicrowalletError, *, so: str = "") -> None:
        """Tell what is wrong, also where something was told before."""
        self.code = error.code
        message = f"{error.message}; {so}" if so else error.message
        self._emit("interrupted", {"code": error.code, "message": message})

    def ends(self) -> None:
        """Tell that it is over, if something was wrong."""
        if self.code:
            self._emit("resumed", {})
        self.code = ""
