"""What happens between two steps of a process under test: it is killed, or something happens elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hypothesis import event
from node import MATTERS


class Killed(BaseException):
    """Stands for SIGKILL at one point."""


class Steps:
    """Counts the steps, and knows what comes at which."""

    def __init__(self, happenings: Mapping[str, Callable[[], object]]) -> None:
        self._happenings = happenings
        self._number = 0
        self._coming: dict[int, str] = {}

    def plan(self, happens: Iterable[tuple[int, str]] = ()) -> None:
        """What happens from now on: how many steps ahead, and what. Nothing else does."""
        self._coming = {self._number + ahead: what for ahead, what in happens}

    def step(self) -> str | None:
        """Something may happen here; what is the matter with the answer, if this was a question."""
        self._number += 1
        what = self._coming.pop(self._number, None)
        if what is None or what in MATTERS:
            return what
        self.happen(what)
        return None

    def happen(self, what: str) -> None:
        event(what)
        if what == "kill":
            raise Killed
        self._happenings[what]()


class Mortal:
    """A part of the process; something may happen before and after each use of it."""

    def __init__(self, part: Any, steps: Steps) -> None:
        self._part, self._steps = part, steps

    def __getattr__(self, name: str) -> Any:
        def use(*arguments: Any, **options: Any) -> Any:
            self._steps.step()
            used = getattr(self._part, name)(*arguments, **options)
            self._steps.step()
            return used

        return use
