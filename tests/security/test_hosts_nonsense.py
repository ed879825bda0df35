"""What hosts tell each other, if another user has made it up: what makes no sense is left out."""

import json
from typing import Any

import pytest

from spark_fast.hosts.decision import combine
from spark_fast.hosts.messages import Done, Entry, Member, ranks_said

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
