"""What another user, who reaches the store of a job, can make its hosts believe: nothing."""

import secrets
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from spark_fast.hosts.authentic import MARKER, AuthenticStore, Refusals, Session, UnsignedStore
from spark_fast.hosts.messages import Entry
from spark_fast.hosts.requests import store_address
from spark_fast.hosts.secret import SIGNED, protection_of, tag
from spark_fast.hosts.session import Entrance
from spark_fast.hosts.store import StoreGoneError
from spark_fast.request import Kind
from tests.security.memory_store import MemoryStore
from tests.support.child import until

pytestmark = [pytest.mark.unit, pytest.mark.tier("fast")]

MASTER = {"MASTER_ADDR": "head", "MASTER_PORT": "29500"}
ADDRESS = store_address(MASTER)


def key_of(secret: str = "the secret of a job", address: str = ADDRESS, world: int = 3) -> bytes:
    protection = protection_of(address, world, {"SPARK_FAST_SECRET": secret})
    assert protection.kind == SIGNED
    return protection.key


class Host:
    """A host's way into the job's store, as its relay has it."""

    def __init__(self, folder: Path, first: int, raw: MemoryStore, key: bytes | None = None) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self.raw = raw
        self.alive = True
        self.rung = 0
        self.refusals = Refusals()
        self.entrance = Entrance(folder, first, key or key_of(), lambda: raw, self._ring, lambda: self.alive, 0.2)
        self.store = AuthenticStore(raw, self.entrance, self.refusals)

    def _ring(self) -> None:
        self.rung += 1

    def join(self) -> str:
        return (self.store.compare_set("job", None, b"ignored")).decode()

    def place(self, key: str) -> str:
        """Where a key stands in the store."""
        assert self.entrance.session is not None
        return f"{self.entrance.session.ident}/{key}"


class Job:
    """Hosts that share a store."""

    def __init__(self, folder: Path) -> None:
        self.raw = MemoryStore()
        self._folder = folder
        self.hosts: list[Host] = []

    def host(self, first: int, *, folder: str | None = None, key: bytes | None = None) -> Host:
        """A host, or the same host's next relay."""
        found = Host(self._folder / (folder or f"host{first}"), first, self.raw, key)
        self.hosts.append(found)
        return found


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    found = Job(tmp_path)
    yield found
    for host in found.hosts:
        host.entrance.close()


@pytest.fixture
def both(job: Job) -> tuple[Host, Host]:
    """Two hosts that have met."""
    leader, other = job.host(0), job.host(1)
    assert leader.join() == other.join()
    return leader, other


REQUEST = Entry("00000000000000aa", Kind.SET, mail='{"name":"lr","value":1}').packed()
OTHER = Entry("00000000000000bb", Kind.SET, mail='{"name":"lr","value":2}').packed()


# --- values ---


def test_a_value_that_a_host_puts_is_read_by_the_others(both: tuple[Host, Host]) -> None:
    one, two = both
    assert one.store.compare_set("log/1", None, REQUEST) == REQUEST
    assert two.store.get("log/1") == REQUEST == two.store.wait("log/1", 0.1)
    one.store.set("low/1/0", b'{"low":3}')
    assert two.store.get("low/1/0") == b'{"low":3}'
    assert two.store.compare_set("target/1", None, b"2") == b"2" == one.store.compare_set("target/1", None, b"3")
    assert one.store.compare_set("target/1", b"2", b"4") == b"4" == two.store.get("target/1")
    two.store.delete("target/1")
    assert one.store.get("target/1") is None and one.store.compare_set("target/1", b"4", b"5") == b"4"
    assert one.refusals.count == two.refusals.count == 0


KEYS = [
    "log/1",
    "low/1/0",
    "lows/1/0",
    "target/1",
    "done/1/0",
    "vote/1/0/0",
    "verdict/1/0",
    "host/0",
    "state/0",
    "watched",
]


@pytest.mark.parametrize("key", KEYS)
def test_what_another_user_writes_is_as_good_as_absent(both: tuple[Host, Host], key: str) -> None:
    one, two = both
    one.store.compare_set("log/1", None, REQUEST)
    assert two.store.get("log/1") == REQUEST
    for forged in (b"", b"{}", REQUEST, b"\x00absent", b"sf1" + secrets.token_bytes(40) + REQUEST):
        two.raw.set(two.place(key), forged)
        assert two.store.get(key) is None
        assert two.store.wait(key, 0.01) is None
    assert two.refusals.count == 5 and two.refusals.first == key


def test_foreign_values_are_counted_and_not_kept() -> None:
    refusals = Refusals()
    tracemalloc.start()
    for number in range(64):
        refusals.add(f"host/{number}", bytes(1 << 20))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refusals.count == 64 and kept < 1 << 20


def test_a_wait_for_a_value_is_not_ended_by_a_foreign_one(both: tuple[Host, Host]) -> None:
    one, two = both
    two.raw.set(two.place("log/1"), b"foreign")
    found: list[bytes | None] = []
    waiting = threading.Thread(target=lambda: found.append(two.store.wait("log/1", 60.0)))
    waiting.start()
    until(lambda: two.refusals.count, "it has met the foreign value", 5.0)
    assert one.store.compare_set("log/1", None, REQUEST) == REQUEST
    waiting.join(60.0)
    assert found == [REQUEST]


@pytest.mark.parametrize("key", KEYS)
def test_what_another_user_has_written_does_not_keep_a_host_from_putting_its_value(
    both: tuple[Host, Host], key: str
) -> None:
    one, two = both
    value = REQUEST
    if key != "log/1":
        one.store.compare_set("log/1", None, REQUEST)
        value = b"1"
    one.raw.set(one.place(key), REQUEST)
    assert one.store.compare_set(key, None, value) == value == two.store.get(key)


def test_every_change_of_a_byte_is_noticed(both: tuple[Host, Host]) -> None:
    one, two = both
    one.store.compare_set("log/1", None, REQUEST)
    place = two.place("log/1")
    raw = two.raw.values[place]
    for at in range(len(raw)):
        two.raw.values[place] = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        assert two.store.get("log/1") is None
    two.raw.values[place] = raw[:-1]
    assert two.store.get("log/1") is None
    two.raw.values[place] = raw
    assert two.store.get("log/1") == REQUEST


def test_a_value_counts_under_its_own_key_alone(both: tuple[Host, Host]) -> None:
    one, two = both
    for number, request in ((1, REQUEST), (2, OTHER)):
        one.store.compare_set(f"log/{number}", None, request)
        two.store.get(f"log/{number}")
    values = {
        "low/1/0": b'{"low":3}',
        "low/1/1": b'{"low":4}',
        "low/2/0": b'{"low":5}',
        "lows/1/0": b'{"hosts":2}',
        "lows/1/1": b'{"hosts":3}',
        "lows/2/0": b'{"hosts":4}',
        "done/1/0": b'{"outcome":"applied"}',
        "target/1": b'{"target":5}',
        "verdict/1/0": b"yes",
        "state/0": b"{}",
        "host/0": b"{}",
    }
    for key, value in values.items():
        one.store.set(key, value)
    raw = dict(two.raw.values)
    keys = [*values, "log/1", "log/2", "log/3", "state/1", "low/1/2", "lows/1/2", "verdict/1/1"]
    for source in keys:
        for key in keys:
            if key != source and two.place(source) in raw:
                two.raw.values[two.place(key)] = raw[two.place(source)]
                assert two.store.get(key) is None, (source, key)
                two.raw.values = dict(raw)


def test_an_answer_to_one_request_is_none_to_another_that_takes_its_number(job: Job) -> None:
    one, two, three = job.host(0), job.host(1), job.host(2)
    assert one.join() == two.join() == three.join()
    one.store.compare_set("log/1", None, REQUEST)
    assert two.store.get("log/1") == REQUEST
    two.store.set("low/1/1", b'{"low":3}')
    one.store.compare_set("target/1", None, b'{"target":3}')
    # Another user removes the request. A host that has not read it puts its own there.
    del job.raw.values[one.place("log/1")]
    assert three.store.compare_set("log/1", None, OTHER) == OTHER
    assert three.store.get("low/1/1") is None and three.store.get("target/1") is None
    for key in ("low/1/2", "lows/1/2"):
        three.store.set(key, b'{"low":9}')
        assert one.store.get(key) is None and two.store.get(key) is None
    assert two.store.get("target/1") == b'{"target":3}'
    # A host that has read the first one never takes what is said about it for an answer to the other.
    assert one.store.get("low/1/1") == b'{"low":3}' and one.store.get("low/1/2") is None


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("ask", ["get", "get_many", "wait"])
def test_a_host_that_is_shown_two_requests_under_one_number_does_neither_and_all_meet_anew(
    job: Job, first: int, ask: str
) -> None:
    """It would do the second one at the step that the others have agreed on for the first one."""
    hosts = [job.host(0), job.host(1), job.host(2)]
    assert hosts[0].join() == hosts[1].join() == hosts[2].join()
    before, shown = hosts[0].entrance.session, hosts[first]
    hosts[2].store.compare_set("log/1", None, OTHER)
    place = shown.place("log/1")
    other = job.raw.values.pop(place)
    hosts[1 - first].store.compare_set("log/1", None, REQUEST)
    assert shown.store.get("log/1") == REQUEST
    job.raw.values[place] = other  # by another user
    asks = {
        "get": lambda: shown.store.get("log/1"),
        "get_many": lambda: shown.store.get_many(["target/1", "log/1"]),
        "wait": lambda: shown.store.wait("log/1", 1.0),
    }
    with pytest.raises(StoreGoneError, match="in the place of another, under log/1"):
        asks[ask]()
    assert shown.entrance.session is None
    met = until(lambda: _met_again(hosts), "all hosts meet anew")
    assert before is not None and met != before.ident


def _met_again(hosts: list[Host]) -> str:
    """The session that all these hosts are in, after a try of each to come into one; empty if there is none."""
    found = set()
    for host in hosts:
        if host.entrance.must_renew:
            host.entrance.renew(host.raw)
        try:
            found.add(host.join())
        except StoreGoneError:
            found.add("")
    return found.pop() if len(found) == 1 else ""


def test_what_a_host_said_before_is_refused_once_it_has_said_more(both: tuple[Host, Host]) -> None:
    one, two = both
    one.store.set("state/0", b'{"count":1,"ended":true}')
    old = one.raw.values[one.place("state/0")]
    one.store.set("state/0", b'{"count":2}')
    assert two.store.get("state/0") == b'{"count":2}'
    one.raw.set(one.place("state/0"), old)
    assert two.store.get("state/0") is None
    one.store.set("state/0", b'{"count":3}')
    assert two.store.get("state/0") == b'{"count":3}'
    newer = bytearray(old)
    newer[len(old) - len(b'{"count":1,"ended":true}') - 8] = 0xFF  # the version
    one.raw.set(one.place("state/0"), bytes(newer))
    assert two.store.get("state/0") is None


def test_a_host_decides_a_request_once_whatever_the_store_loses(job: Job) -> None:
    one = job.host(0)
    one.join()
    one.store.compare_set("log/1", None, REQUEST)
    assert one.store.compare_set("target/1", None, b'{"target":9}') == b'{"target":9}'
    del job.raw.values[one.place("target/1")]
    one.entrance.close()
    again = job.host(0)  # its relay was killed
    assert again.join() and again.store.get("log/1") == REQUEST
    assert again.store.compare_set("target/1", None, b'{"target":5}') == b'{"target":9}'
    again.store.compare_set("log/2", None, OTHER)
    assert again.store.compare_set("target/2", None, b'{"target":5}') == b'{"target":5}'


def test_a_value_is_put_where_a_foreign_one_is_removed_in_the_same_moment(both: tuple[Host, Host]) -> None:
    one, two = both
    swap = one.raw.compare_set
    one.raw.set(one.place("log/1"), b"foreign")

    def race(key: str, expected: bytes | None, desired: bytes) -> bytes:
        if expected is not None:
            one.raw.delete(key)
        return swap(key, expected, desired)

    one.raw.compare_set = race  # type: ignore[method-assign]
    assert one.store.compare_set("log/1", None, REQUEST) == REQUEST == two.store.get("log/1")


def test_another_user_who_keeps_writing_only_keeps_the_hosts_from_working(both: tuple[Host, Host]) -> None:
    one, _ = both
    swap = one.raw.compare_set

    def race(key: str, expected: bytes | None, desired: bytes) -> bytes:
        one.raw.values[key] = secrets.token_bytes(8)
        return swap(key, expected, desired)

    one.raw.compare_set = race  # type: ignore[method-assign]
    with pytest.raises(StoreGoneError, match="another user keeps writing"):
        one.store.compare_set("log/1", None, REQUEST)


def test_a_host_that_was_removed_from_the_store_says_again_that_it_is_there(both: tuple[Host, Host]) -> None:
    one, two = both
    one.store.compare_set("host/0", None, b"one")
    for spoil in (lambda: one.raw.delete(one.place("host/0")), lambda: one.raw.set(one.place("host/0"), b"x")):
        spoil()
        assert two.store.get("host/0") is None
        one.store.set("state/0", b"{}")
        assert two.store.get("host/0") == b"one"


# --- keys and sessions ---


@pytest.mark.parametrize(
    "key",
    [
        key_of("another secret of the job"),
        key_of(address=store_address(MASTER, generation=1)),
        key_of(address=ADDRESS.replace("29500", "29501")),
        key_of(world=4),
    ],
    ids=["secret", "generation", "job", "size"],
)
def test_hosts_of_different_jobs_do_not_hear_each_other(job: Job, key: bytes) -> None:
    leader, other = job.host(0), job.host(1, key=key)
    leader.join()
    with pytest.raises(StoreGoneError, match=r"another secret than this one.*spark-fast secret"):
        other.join()
    with pytest.raises(StoreGoneError, match="has not met the others"):
        other.store.get("log/1")


def test_a_host_waits_for_the_one_of_rank_0_and_says_so(job: Job) -> None:
    other = job.host(1)
    with pytest.raises(StoreGoneError, match="no word yet of the host of rank 0"):
        other.join()
    job.host(0).join()
    assert other.join()


def test_a_recorded_session_is_not_entered_again(job: Job, tmp_path: Path) -> None:
    leader, other = job.host(0), job.host(1)
    first = leader.join()
    other.join()
    leader.store.compare_set("log/1", None, REQUEST)
    recorded = dict(job.raw.values)
    for host in (leader, other):
        host.entrance.close()
    # The job is run again, with the same secret and the same names, and another user plays back what was said then.
    job.raw.values = dict(recorded)
    later = job.host(1, folder="later1")
    with pytest.raises(StoreGoneError, match="has not answered this one yet"):
        later.join()
    again = job.host(0, folder="later0")
    second = again.join()
    assert second != first and later.join() == second
    job.raw.values.update(recorded | {key.replace(first, second): raw for key, raw in recorded.items() if "/" in key})
    assert later.store.get("log/1") is None and again.store.get("log/1") is None
    with pytest.raises(StoreGoneError, match="meet anew"):  # the marker is the old one
        again.store.set("state/0", b"{}")
    third = again.join()
    assert third not in (first, second) and later.join() == third


def test_an_answer_to_another_host_or_another_nonce_lets_nobody_in(job: Job) -> None:
    leader, other = job.host(0), job.host(1)
    leader.join()
    leader.entrance.close()
    wait = job.raw.wait
    answers = []

    def answer(key: str, timeout: float) -> bytes | None:
        if key.startswith("welcome/"):
            return answers[-1]
        return wait(key, timeout)

    job.raw.wait = answer  # type: ignore[method-assign]
    assert leader.entrance.session is not None
    ident = leader.entrance.session.ident
    first, nonce = (1).to_bytes(8, "big"), secrets.token_bytes(16)
    for forged in (
        b"",
        secrets.token_bytes(32),
        tag(key_of(), "welcome", ident, first, nonce),
        tag(key_of(), "hello", ident, first, nonce),
        tag(key_of("another secret of the job"), "welcome", ident, first, nonce),
    ):
        answers.append(forged)
        with pytest.raises(StoreGoneError, match="has not answered"):
            other.join()


@pytest.mark.parametrize("hello", [b"", b"x" * 56, (2).to_bytes(8, "big") + b"n" * 48], ids=["empty", "long", "forged"])
def test_who_has_no_secret_is_not_answered(job: Job, hello: bytes) -> None:
    leader = job.host(0)
    ident = leader.join()
    job.raw.set(f"hello/{ident}/1", hello)
    other = job.host(1)
    assert other.join() == ident
    assert not [key for key in job.raw.values if key.startswith("welcome/")]
    assert not leader.entrance.must_renew


def test_a_relay_that_is_started_again_stays_in_its_session(job: Job, both: tuple[Host, Host]) -> None:
    ident = both[0].join()
    for host in both:
        host.entrance.close()
    job.raw.delete(*(key for key in list(job.raw.values) if key.startswith("hello/")))
    again = [job.host(0), job.host(1)]
    assert [host.join() for host in again] == [ident, ident]
    assert not again[0].entrance.must_renew
    # The leader's next relay knows whom the one before has admitted.
    again[1].entrance.end()
    with pytest.raises(StoreGoneError, match="has not answered this one yet"):
        job.host(1).join()
    until(lambda: again[0].entrance.must_renew, "the leader to be told", 5.0)


def test_a_session_that_another_key_has_begun_is_not_kept(job: Job, both: tuple[Host, Host]) -> None:
    assert both[1].entrance.session is not None
    assert job.host(1, key=key_of("another secret of the job")).entrance.session is None
    assert job.host(1).entrance.session is not None


def test_a_host_that_comes_back_brings_all_into_a_new_session(job: Job, both: tuple[Host, Host]) -> None:
    leader, other = both
    first = leader.join()
    third = job.host(2)
    assert third.join() == first
    other.store.set("state/1", b'{"count":1,"ended":true}')
    other.entrance.end()
    back = job.host(1)
    with pytest.raises(StoreGoneError, match="has not answered this one yet"):
        back.join()
    until(lambda: leader.entrance.must_renew and leader.rung, "the leader to be told", 5.0)
    leader.entrance.renew(job.raw, "log/1")
    with pytest.raises(StoreGoneError, match="meet anew"):
        third.store.wait("log/1", 60.0)  # it wakes at once
    with pytest.raises(StoreGoneError, match="meet anew"):
        third.store.compare_set("log/1", None, REQUEST)
    second = leader.join()
    assert second != first
    assert back.join() == second == third.join()
    # What the host said at its end counts no more, under any key.
    job.raw.values[f"{second}/state/1"] = job.raw.values[f"{first}/state/1"]
    assert third.store.get("state/1") is None


def test_a_store_that_lost_everything_begins_a_new_session(job: Job, both: tuple[Host, Host]) -> None:
    leader, other = both
    first = leader.join()
    job.raw.values.clear()
    for host in both:
        with pytest.raises(StoreGoneError, match="meet anew"):
            host.store.set("state/0", b"{}")
    with pytest.raises(StoreGoneError, match="no word yet"):
        other.join()
    second = leader.join()
    assert second != first and other.join() == second


def test_a_host_without_a_living_rank_meets_nobody_anew(job: Job, both: tuple[Host, Host]) -> None:
    job.raw.values.clear()
    for host in both:
        host.alive = False
        with pytest.raises(StoreGoneError, match="no rank of this one lives"):
            host.join()


def test_many_hosts_that_come_at_once_find_places_of_their_own(job: Job) -> None:
    leader = job.host(0, key=key_of(world=40))
    ident = leader.join()
    others = [job.host(first, key=key_of(world=40)) for first in range(1, 40)]
    assert {host.join() for host in others} == {ident}
    assert not leader.entrance.must_renew
    assert not [key for key in job.raw.values if key.startswith("welcome/")]


def test_the_store_never_holds_a_secret_or_a_key(job: Job, both: tuple[Host, Host]) -> None:
    both[0].store.compare_set("log/1", None, REQUEST)
    for key, raw in job.raw.values.items():
        for hidden in (b"the secret of a job", key_of(), key_of().hex().encode()):
            assert hidden not in raw and hidden not in key.encode()


def test_purposes_and_fields_of_signatures_do_not_run_into_each_other() -> None:
    assert tag(b"k", "a", "b", "c") != tag(b"k", "a", "bc") != tag(b"k", "ab", "c")
    one, two = Session(key_of(), "a" * 32), Session(key_of(), "b" * 32)
    assert two.open("watched", one.seal("watched", b"x", b""), b"") is None


# --- hosts with and without a secret ---


def test_a_host_without_a_secret_says_so_where_others_have_one(job: Job) -> None:
    unsigned = UnsignedStore(job.raw, "the remedy")
    assert unsigned.compare_set("job", None, b"1") == b"1"
    with pytest.raises(StoreGoneError, match="rank 0: it has no secret"):
        job.host(1).join()
    job.host(0).join()
    for key in ("job", "log/1"):
        with pytest.raises(StoreGoneError, match="this one has none: the remedy"):
            unsigned.compare_set(key, None, b"1")


def test_the_marker_is_the_only_key_that_two_sessions_share(job: Job, both: tuple[Host, Host]) -> None:
    ident = both[0].join()
    both[0].store.compare_set("log/1", None, REQUEST)
    assert all(ident in key for key in job.raw.values if key != MARKER)


def test_several_keys_are_read_at_once(both: tuple[Host, Host]) -> None:
    one, two = both
    one.store.compare_set("log/1", None, REQUEST)
    one.store.set("low/1/0", b"5")
    one.store.set("target/1", b"6")
    one.raw.set(one.place("low/1/1"), b"7")
    keys = ["target/1", "log/1", "low/1/0", "low/1/1", "low/2/0"]
    assert two.store.get_many(keys) == [b"6", REQUEST, b"5", None, None]
    two.store.delete("target/1", "low/1/0")
    assert two.store.get_many(keys) == [None, REQUEST, None, None, None]
    one.store.set("target/1", b"8")
    assert two.store.wait_many(["target/1", "log/1"], 60.0) == [b"8", REQUEST]
    assert two.store.wait_many(["log/1", "low/1/1"], 0.01) == [REQUEST, None], "what stands at the second is foreign"
    unsigned = UnsignedStore(MemoryStore(), "the remedy")
    unsigned.set("a", b"1")
    unsigned.set("b", b"2")
    assert unsigned.get_many(["a", "b", "c"]) == [*unsigned.wait_many(["a", "b"], 60.0), None] == [b"1", b"2", None]
