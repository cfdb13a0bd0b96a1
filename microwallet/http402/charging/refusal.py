"""A request that is not served, and the problem that says why."""

from __future__ import annotations

from microwallet.domain.identifiers import ChannelId
from microwallet.errors import PaymentRefused
from microwallet.http402.wire.problems import Problem, ProblemType


class Refused(PaymentRefused):
    """A request that is not served, with the problem to answer."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def refused(
    type: ProblemType,
    detail: str,
    channel_id: ChannelId | None = None,
    *,
    status: int | None = None,
    **extensions: str,
) -> Refused:
    """The refusal with a problem of this type, of a channel where it concerns one.

    `status` where a draft wants another one than the type's; `extensions` are further members.
    """
    about = {} if channel_id is None else {"channelId": channel_id}
    return Refused(Problem(type=type, detail=detail, extensions={**about, **extensions}, other_status=status))
