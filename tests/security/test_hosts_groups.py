"""What another user can make a job of many hosts believe that the lead of a group has said: nothing."""

from collections.abc import Sequence

import pytest

from spark_fast.hosts import answers
from spark_fast.hosts.authentic import AuthenticStore, Refusals, Session
from spark_fast.hosts.messages import Answer, GroupAnswer
from spark_fast.hosts.protocol import Times
from spark_fast.hosts.store import Store
from spark_fast.request import Kind
from tests.support.hosts_sim import SimClient, SimHost, SimJob, SimStore

pytestmark = [pytest.mark.unit, pytest.mark.tier("fast")]


class OpenGate:
    """A host that is in the session. See authentic.Gate."""

    def __init__(self, session: Session) -> None:
        self.first = 0
        self.session = session

    def enter(self, raw: Store) -> Session:
        return self.session

    def decided(self, session: Session, number: int, about: bytes, payload: bytes) -> bytes:
        return payload

    def abandon(self, session: Session) -> None:
        raise AssertionError("a request was replaced")


class SignedClient(SimClient):
    """A simulated host's connection, over which all is signed."""

    session: Session
    refusals: Refusals

    def __init__(self, store: SimStore) -> None:
        super().__init__(store)
        self.signed = AuthenticStore(SimClient(store), OpenGate(self.session), self.refusals)

    def get(self, key: str) -> bytes | None:
        return self.signed.get(key)

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return self.signed.get_many(keys)

    def set(self, key: str, value: bytes) -> None:
        self.signed.set(key, value)

    def compare_set(self, key: str, expected: bytes | None, desired: bytes) -> bytes:
        return self.signed.compare_set(key, expected, desired)

    def delete(self, *keys: str) -> None:
        self.signed.delete(*keys)


class SignedJob(SimJob):
    """Nine hosts in three groups, whose relays have joined. Another user reaches their store: `raw()` and `put()`."""

    def __init__(self) -> None:
        session = Session(b"the key of a job", "5e551071" * 4)
        self.session = session
        self.refusals = Refusals()
        client = type("Client", (SignedClient,), {"session": session, "refusals": self.refusals})
        super().__init__(15, 9, 2, times=Times(bound=1.0, beat=1.0, gone=4.0), lockstep=False, client=client)
        self.store.values["session"] = session.marker
        self.run(1.0)

    def _stand(self, keys: str | Sequence[str]) -> bool:
        wanted = [keys] if isinstance(keys, str) else keys
        return None not in self.client(self.store).get_many(wanted)

    def _news(self, host: SimHost) -> dict[str, bytes]:
        if host.relay is None or host.gone_since is not None or host.cut:
            return {}
        key = host.relay.next_key
        found: dict[str, bytes] = {}
        for keys in ((key,) if key else (), host.relay.awaited):
            raws = self.client(self.store).get_many(keys)
            if None not in raws:
                found |= {key: raw for key, raw in zip(keys, raws, strict=True) if raw is not None}
        return found

    def put(self, key: str, raw: bytes) -> None:
        self.store.values[self.session.place(key)] = raw

    def raw(self, key: str) -> bytes | None:
        return self.store.values.get(self.session.place(key))

    def kill_lead(self) -> None:
        """Kill the relay of the first group's lead, so that it does not write over what stands at its place."""
        lead = self.hosts[0]
        lead.dead_until = self.time + 0.5
        lead.steps = lead.relay = None

    def assert_sets(self) -> None:
        """All hosts set a value at one step."""
        asked = self.hosts[4]
        ident = self.ask(asked, Kind.SET)
        self.run(10.0, lambda: ident in asked.fates)
        assert asked.fates[ident][0].state == "applied", asked.fates[ident]
        assert len({rank.applied.get(ident) for host in self.hosts for rank in host.ranks_}) == 1


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> SignedJob:
    monkeypatch.setattr(answers, "_GROUPS_FROM", 4)
    return SignedJob()


EARLY = GroupAnswer(3, {0: Answer(0)}).packed()
"""It would have the hosts act at a step that they have passed."""
REFUSING = GroupAnswer(3, {0: Answer(why="failed", reason="no")}).packed()


@pytest.mark.parametrize("said", [EARLY, REFUSING], ids=["early", "refusing"])
def test_what_another_user_says_for_a_lead_does_not_count(job: SignedJob, said: bytes) -> None:
    job.kill_lead()
    job.put("lows/1/0", said)
    job.assert_sets()
    assert job.refusals.first == "lows/1/0" and job.refusals.count == 1


def test_what_a_lead_says_of_one_request_does_not_count_for_another_or_for_another_group(job: SignedJob) -> None:
    recorded: dict[str, bytes] = {}

    def record() -> None:
        for group in (0, 2):
            raw = job.raw(f"lows/1/{group}")
            if raw is not None:
                recorded[f"lows/1/{group}"] = raw

    ident = job.ask(job.hosts[4], Kind.SET)
    job.run(10.0, lambda: record() or ident in job.hosts[4].fates)
    assert len(recorded) == 2
    assert job.raw("lows/1/0") is None, "it has served"
    for source, number in (("lows/1/0", 2), ("lows/1/2", 3)):
        job.run(2.0)
        job.kill_lead()
        job.put(f"lows/{number}/0", recorded[source])
        job.assert_sets()
    assert job.refusals.count == 2
