"""What hosts tell each other, if another user has made it up: what makes no sense is left out."""

import json
from typing import Any

import pytest

from spark_fast.hosts.decision import combine
from spark_fast.hosts.messages import Answer, Decision, Done, Entry, Member, ranks_said

pytestmark = [pytest.mark.unit, pytest.mark.tier("fast")]


@pytest.mark.parametrize(
    "rank",
    [
        {"step": float("inf")},
        {"step": float("nan")},
        {"step": "9" * 5000},
        {"pid": -1},
        {"status": ["running"]},
        {"status": "\x1b]0;eve\x07"},
        {"rank": 0},
        {"rank": [1]},
        {"more": [[[]]] * 1000},
    ],
    ids=str,
)
def test_what_another_user_says_of_ranks_is_left_out_if_it_makes_no_sense(rank: dict[str, Any]) -> None:
    fine = {"rank": 1, "status": "running", "step": 5, "pid": 7}
    member = Member("node", "name", (1, 2), 3)
    said = json.loads(json.dumps([fine | rank, fine | {"rank": 2}, None, [], "x"]))
    found = ranks_said(said, member)
    assert found == ([fine] if "more" in rank else []) + [fine | {"rank": 2}]
    assert ranks_said(json.loads(json.dumps(fine | rank)), member) == []


def test_hosts_and_senders_have_printable_names_and_a_host_answers_for_its_own_ranks_alone() -> None:
    said = {"node": "n", "name": "eve\x1b]0;x\x07\ud800\u202e", "ranks": [1], "world_size": 4}
    member = Member.parsed(json.dumps(said).encode())
    assert member is not None and member.name == "eve\ufffd]0;x\ufffd\ufffd\ufffd"
    asked = Entry.parsed(json.dumps({"id": "0" * 16, "kind": 1, "sender": "eve\x1b[31m\ud800"}).encode())
    assert asked is not None and asked.sender == "eve\ufffd[31m\ufffd"  # a rank that is stopped prints it
    reply = {"state": "done"}
    for rank in ("0", "3", "5" * 5000, "\u0661"):
        done = Done.parsed(json.dumps({"outcome": "applied", "step": 3, "replies": {rank: reply, "1": reply}}).encode())
        assert combine(3, {member: done}, []).replies in (None, {"1": reply})


def test_a_request_for_more_ranks_than_the_log_can_name_is_left_out() -> None:
    """It would end each relay that appends it, and each that is started after that."""
    entry = {"id": "0123456789abcdef", "kind": 1, "ranks": (1 << 32) - 1}
    assert Entry.parsed(json.dumps(entry).encode()) is not None
    assert Entry.parsed(json.dumps(entry | {"ranks": 1 << 32}).encode()) is None


def test_a_reason_that_another_host_gives_can_not_steer_a_terminal() -> None:
    said = json.dumps({"reason": "no\x1b]0;x\x07\nsecond line", "why": "failed"}).encode()
    for found in (Answer.parsed(said), Decision.parsed(said)):
        assert found.reason == "no\ufffd]0;x\ufffd\nsecond line"
