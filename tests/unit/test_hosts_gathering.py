"""How often a relay looks at what the other hosts tell of a request, on simulated hosts. See hosts_sim."""

from dataclasses import replace

import pytest

from spark_fast.hosts.gathering import Gathering
from spark_fast.hosts.messages import Ask, Decision, Done, Entry
from spark_fast.hosts.protocol import Relay, Times
from spark_fast.hosts.relay import drive
from spark_fast.hosts.roster import Roster
from spark_fast.request import Kind
from tests.support.hosts_sim import SimClient, SimJob

pytestmark = [pytest.mark.unit, pytest.mark.tier("fast")]


def test_a_host_whose_ranks_have_acted_soon_looks_again_at_what_the_others_tell() -> None:
    times = Times(bound=1.0, beat=1.0, gone=4.0)
    job = SimJob(3, 2, times=times)
    job.run(1.0)
    host, client = job.hosts[0], SimClient(job.store)
    gathering = Gathering(client, host, host.member, times, Roster(client, host, host.member))
    first, other = (each.member.first for each in job.hosts)
    host.left["9"] = Ask(Entry("9", Kind.STOP), 0.0)
    drive(gathering.begin(9, "9", Decision(target=5), [first, other]))
    for _ in range(10):  # ever more seldom
        job.time = max(gathering.dues)
        drive(gathering.look())
    assert max(gathering.dues) >= job.time + 0.5

    gathering.learn(9, first, Done("applied", 5))
    drive(gathering.look())
    assert max(gathering.dues) <= job.time + 0.01
    assert gathering.awaited == (f"done/9/{other}",)

    job.store.values[f"done/9/{other}"] = Done("applied", 5).packed()
    job.time = max(gathering.dues)
    drive(gathering.look())
    assert host.fates["9"][0].state == "applied"
    assert not gathering


def test_a_relay_that_is_started_again_takes_no_decision_on_another_request_for_that_on_its_own() -> None:
    """Another user may have put another request of the job under the number that the relay before it has noted."""
    times = Times(bound=1.0, beat=1.0, gone=4.0)
    job = SimJob(3, 1, times=times)
    job.run(1.0)
    host, client = job.hosts[0], SimClient(job.store)
    mine, other = (Entry(f"{number:016x}", Kind.PAUSE) for number in (1, 2))
    number = host.note.next
    job.store.values |= {
        f"log/{number}": other.packed(),
        f"target/{number}": Decision(target=5).packed(),
        f"done/{number}/{host.member.first}": Done("applied", 5).packed(),
    }
    host.note = replace(host.note, next=number + 1)
    host.left[mine.id] = Ask(mine, 0.0, number=number, tried=True)
    host.asked[mine.id] = job.time
    relay = Relay(client, host, host.member, times)
    drive(relay.turn())
    assert not host.fates
    job.time += times.patience + 1.0
    drive(relay.turn())
    assert host.fates[mine.id][0].state == "lost"
