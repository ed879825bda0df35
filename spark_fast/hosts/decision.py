"""The rules by which hosts' answers make a decision on a request, and their outcomes make its fate."""

from collections.abc import Mapping, Sequence

from spark_fast.hosts.messages import Answer, Decision, Done, Fate, Member
from spark_fast.request import Kind

__all__ = ["combine", "decide"]


def decide(kind: int, answers: Mapping[Member, Answer], without: Sequence[Member] = ()) -> Decision:
    """Return the decision that follows from the hosts' answers.

    without: the hosts that were left out.
    """

    def named(members: Sequence[Member]) -> str:
        return ", ".join(member.name for member in members[:3]) + (" …" if len(members) > 3 else "")

    for member, answer in answers.items():
        if answer.why == "failed":
            return Decision(why="failed", reason=f"host {member.name}: {answer.reason}")
    lows = {member: answer for member, answer in answers.items() if answer.low is not None}
    if not lows:
        for why in ("stopping", "nothing"):
            for answer in answers.values():
                if answer.why == why:
                    return Decision(why=why, same=answer.same)
        return Decision(why="ended")
    target = max(answer.low or 0 for answer in lows.values())
    parks = {member: answer.park for member, answer in lows.items() if answer.park is not None}
    nearest = min(parks.values(), default=target)
    if nearest < target:
        # Some came too late for a pause. Parked ranks come no further, and running ranks do not come back.
        if kind not in (Kind.RESUME, Kind.STOP):
            still = [member for member, park in parks.items() if park < target]
            reason = (
                f"the ranks of {named(still)} are to park at step {nearest}, and others are past it; resume them first"
            )
            return Decision(why="failed", reason=reason)
        target = nearest
    return Decision(target, without=tuple(member.first for member in without))


def combine(target: int, found: Mapping[Member, Done], silent: Sequence[Member]) -> Fate:
    """Return the fate of a request, from its outcome on each host.

    silent: the hosts whose outcome is not known.
    """

    def names(*outcomes: str) -> str:
        return ", ".join(member.name for member, done in found.items() if done.outcome in outcomes)

    replies = {
        rank: reply
        for member, done in found.items()
        for rank, reply in (done.replies or {}).items()
        if int(rank) in member.ranks
    } or None
    steps = [done.step for done in found.values() if done.outcome in ("applied", "failed") and done.step is not None]
    step = min(steps, default=target)
    reasons = []
    if late := names("late"):
        reasons.append(f"{late} came too late for step {target} and did not act")
    if silent:
        reasons.append(f"nothing was heard since of {', '.join(member.name for member in silent)}")
    if names("failed"):
        return Fate("failed", step, reason="; ".join([f"on {names('failed')}", *reasons]), replies=replies)
    if reasons:
        if others := names("applied"):
            reasons.append(f"{others} acted")
        return Fate("failed", step, reason="; ".join(reasons), replies=replies)
    if names("superseded"):
        by = next((done.by for done in found.values() if done.by), "")
        return Fate("superseded", by=by)
    lost = names("lost")
    if lost and not names("applied"):  # hosts that have died are left out
        return Fate("lost", reason=f"the ranks of {lost} ended before it")
    return Fate("applied", step, replies=replies)
