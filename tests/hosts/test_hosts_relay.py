"""Real jobs of several hosts: workers, relays and a store, each in processes of their own, on one machine."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from spark_fast import client, hosts
from spark_fast.hosts import state_files
from spark_fast.hosts.local import RunFolder
from spark_fast.hosts.messages import Member
from spark_fast.hosts.peers import read_peers
from spark_fast.hosts.protocol import Relay, Steps, Times
from spark_fast.hosts.secret import SIGNED
from spark_fast.hosts.store import OneByOne
from spark_fast.request import FateState, Kind
from tests.support.child import ALL, outcome, until
from tests.support.hosts_real import Host, Server, job, parked_together, store

pytestmark = pytest.mark.hosts


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with store() as found:
        yield found


def address(server: Server) -> str:
    return f"{server.address}/{time.monotonic_ns()}"


def lr(value: float) -> str:
    return f'{{"name":"lr","value":{value}}}'


@pytest.fixture
def at_home(monkeypatch: pytest.MonkeyPatch) -> Callable[[Host], client.Run]:
    """The run as a client on that host has it."""

    def attach(host: Host) -> client.Run:
        monkeypatch.setenv("SPARK_FAST_HOME", str(host.home))
        return client.attach()

    return attach


def test_all_hosts_act_on_one_step_whichever_is_asked(
    tmp_path: Path, server: Server, at_home: Callable[[Host], client.Run]
) -> None:
    with job(tmp_path, 3, address(server)) as found:
        for value, host in enumerate(found, 1):
            run = at_home(host)
            paused = run.pause(timeout=30)
            assert paused.fate.state is FateState.APPLIED
            assert parked_together(found) == paused.fate.step
            assert run.set("lr", value, timeout=30).fate.step == paused.fate.step
            assert run.call("where", spark_timeout=30) == paused.fate.step
            assert run.request_call("where", ranks="all", timeout=30).result == dict.fromkeys(
                range(3), paused.fate.step
            )
            advanced = run.advance(5, timeout=30)
            assert parked_together(found) == paused.fate.step + 5 and advanced.fate.state is FateState.APPLIED
            assert run.resume(timeout=30).fate.state is FateState.APPLIED
            assert run.set("lr", value + 0.5, timeout=30).fate.state is FateState.APPLIED
        assert found[0].lines("set") == found[1].lines("set") == found[2].lines("set") != []
        assert at_home(found[1]).stop(timeout=30).fate.state is FateState.APPLIED
        until(lambda: all(host.lines("stopped") for host in found), "all stop")
        assert found[0].lines("stopped") == found[1].lines("stopped") == found[2].lines("stopped")


def test_the_whole_job_is_seen_from_any_host(
    tmp_path: Path, server: Server, at_home: Callable[[Host], client.Run]
) -> None:
    with job(tmp_path, 2, address(server)) as found:
        for host in found:
            run = at_home(host)
            until(lambda: [rank.rank for rank in run.ranks] == [0, 1], "both ranks are seen")  # noqa: B023
            other = found[1 - host.rank]
            # Until the other host has told, a rank is known by its number alone.
            until(lambda: run.ranks[other.rank].pid, "its process is seen")  # noqa: B023
            seen = run.ranks[other.rank]
            assert seen.pid == other.process.pid
            until(lambda: run.ranks[other.rank].step > seen.step, "its steps are seen")  # noqa: B023
        at_home(found[0]).pause(timeout=30)
        until(lambda: at_home(found[1]).status == "paused", "it is seen to be paused")
        found[0].process.kill()
        until(lambda: str(at_home(found[1]).ranks[0].status) == "lost", "its death is seen")


def test_a_signal_to_a_rank_of_one_host_stops_all_hosts(tmp_path: Path, server: Server) -> None:
    with job(tmp_path, 2, address(server), SPARK_FAST_STOP_SIGNALS="SIGUSR1") as found:
        found[1].process.send_signal(signal.SIGUSR1)
        until(lambda: all(host.lines("stopped") for host in found), "all stop")
        assert found[0].lines("stopped") == found[1].lines("stopped")


def test_a_timed_pause_ends_on_all_hosts_at_one_step(
    tmp_path: Path, server: Server, at_home: Callable[[Host], client.Run]
) -> None:
    with job(tmp_path, 2, address(server)) as found:
        run = at_home(found[0])
        step = run.pause(resume_after=3.0, timeout=30).fate.step
        assert step is not None
        until(lambda: all(host.step > step + 5 for host in found), "all go on")
        assert [int(host.lines("paused")[-1][1]) for host in found] == [step, step]


def test_relays_that_are_killed_are_started_again_and_go_on(tmp_path: Path, server: Server) -> None:
    with job(tmp_path, 2, address(server), SPARK_FAST_HOSTS_BOUND="20") as found:
        times = 4 if ALL else 2
        for number in range(times):
            ident = found[0].leave(Kind.SET, mail=lr(number + 1))
            time.sleep(0.006 * number)
            found[number % 2].kill_relay()
            hosts.ring(found[1].run)  # as a rank does that has waited for a second
            fate = hosts.wait(found[0].run, ident, 60.0)
            assert fate is not None and fate.state == "applied", (fate, found[0].said(), found[1].said())
        until(lambda: found[0].lines("set") == found[1].lines("set"), "both were set at the same steps")
        assert [line[2] for line in found[0].lines("set")] == [f"{number + 1}.0" for number in range(times)]


def test_a_relay_that_is_killed_comes_back_though_nobody_on_its_host_asks_for_anything(
    tmp_path: Path, server: Server
) -> None:
    with job(tmp_path, 2, address(server)) as found:
        killed = found[1].relay()
        assert killed is not None
        assert killed.memory_info().rss < 60 << 20, "it takes little memory from the training"
        # Where memory runs out, it goes before any training does.
        assert Path(f"/proc/{killed.pid}/oom_score_adj").read_text() == "1000\n"
        found[1].kill_relay()
        again = until(found[1].relay, "another relay")
        assert killed is not None and again.pid != killed.pid
        until(lambda: found[0].ask(Kind.PAUSE).state == "applied", "it has joined again, and answers")
        parked_together(found)


def test_a_relay_ends_with_its_ranks_and_tells_the_others(tmp_path: Path, server: Server) -> None:
    with job(tmp_path, 2, address(server)) as found:
        found[1].process.kill()
        found[1].process.wait()
        until(lambda: found[1].relay() is None, "the relay ends")
        assert found[0].ask(Kind.PAUSE).state == "applied", "the others agree without it"
        parked_together(found[:1])


def test_a_relay_ends_with_its_run_folder(tmp_path: Path, server: Server) -> None:
    with job(tmp_path, 2, address(server)) as found:
        (found[0].run / "control").unlink()
        until(lambda: found[0].relay() is None, "the relay ends")


def test_without_a_store_a_job_of_several_hosts_refuses_and_goes_on(tmp_path: Path) -> None:
    with store() as server, job(tmp_path, 2, server.address, SPARK_FAST_HOSTS_BOUND="2") as found:
        server.kill()
        fate = found[0].ask(Kind.PAUSE)
        assert fate.state == "refused" and "store" in fate.reason
        steps = [host.step for host in found]
        until(lambda: all(host.step > step for host, step in zip(found, steps, strict=True)), "both go on")
        assert not found[0].lines("paused") and not found[1].lines("paused")


def test_where_no_store_is_known_a_request_is_refused_at_once(
    tmp_path: Path, at_home: Callable[[Host], client.Run]
) -> None:
    host = Host(tmp_path / "host", 0, 2, "", MASTER_ADDR="")
    try:
        until(lambda: (host.run / "hosts" / "place.json").exists(), "it has a place")
        fate = outcome(at_home(host).pause, timeout=30).fate
        assert fate.state is FateState.REFUSED and "SPARK_FAST_STORE" in fate.reason
        assert host.relay() is None
    finally:
        host.end()


# --- a relay that is killed between any two of its calls, on real control files ---


class Table(OneByOne):
    """A store in this process."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        with self._lock:
            return self._values.get(key)

    def set(self, key: str, value: bytes) -> None:
        with self._lock:
            self._values[key] = value

    def compare_set(self, key: str, expected: bytes | None, desired: bytes) -> bytes:
        with self._lock:
            if self._values.get(key) == expected:
                self._values[key] = desired
            return self._values.get(key) or expected or b""

    def wait(self, key: str, timeout: float) -> bytes | None:
        end = time.monotonic() + timeout
        while (found := self.get(key)) is None and time.monotonic() < end:
            time.sleep(0.001)
        return found

    def wait_many(self, keys: Sequence[str], timeout: float) -> list[bytes | None]:
        end = time.monotonic() + timeout
        return [self.wait(key, end - time.monotonic()) for key in keys]

    def delete(self, *keys: str) -> None:
        with self._lock:
            for key in keys:
                self._values.pop(key, None)

    def close(self) -> None:
        """Nothing is held."""


class _KilledError(Exception):
    pass


class Thread:
    """A host's relay as a thread, that can be told to die before one of its calls; the next one comes at once."""

    def __init__(self, host: Host, table: Table) -> None:
        self._host = host
        self._table = table
        self._over = False
        self.die_at: int | None = None
        self.deaths = 0
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._over:
                try:
                    local = RunFolder(self._host.run, SIGNED)
                    member = Member(f"node{self._host.rank}", f"h{self._host.rank}", (self._host.rank,), 2)
                    relay = Relay(self._table, local, member, Times(bound=10.0))
                    while not self._over:
                        self._drive(relay.turn(self._news(relay)))
                        time.sleep(0.002)
                except _KilledError:
                    self.deaths += 1
        except BaseException as error:
            self.error = error

    def _news(self, relay: Relay) -> dict[str, bytes]:
        """What a relay's process hears by the connections that wait."""
        keys = relay.awaited
        values = self._table.get_many(keys)
        return {} if None in values else {key: raw for key, raw in zip(keys, values, strict=True) if raw is not None}

    def _drive(self, steps: Steps[Any]) -> None:
        answer = None
        while True:
            try:
                function, arguments = steps.send(answer)
            except StopIteration:
                return
            # What only reads the clock or the ranks leaves nothing half done.
            if self.die_at is not None and function.__name__ not in ("now", "watched", "ranks", "asks"):
                self.die_at -= 1
                if self.die_at < 0:
                    self.die_at = None
                    raise _KilledError
            answer = function(*arguments)

    def end(self) -> None:
        self._over = True
        self._thread.join()
        assert self.error is None, self.error


@contextmanager
def threads(folder: Path) -> Iterator[tuple[list[Host], list[Thread]]]:
    """Two hosts with real workers, whose relays are threads."""
    found = [Host(folder / f"host{rank}", rank, 2, "", MASTER_ADDR="") for rank in range(2)]
    relays: list[Thread] = []
    bells = []
    try:
        table = Table()
        for host in found:
            until(lambda: state_files.read_place(host.run) and (host.run / "control").exists(), "it has a place")  # noqa: B023
            os.mkfifo(host.run / "hosts" / "bell", 0o600)
            bells.append(os.open(host.run / "hosts" / "bell", os.O_RDWR | os.O_NONBLOCK))
            place = state_files.read_place(host.run)
            assert place is not None
            state_files.write_place(host.run, state_files.HostPlace(**(vars(place) | {"address": "tcp://none:1/x"})))
            relays.append(Thread(host, table))
        yield found, relays
    finally:
        for relay in relays:
            relay.end()
        for host in found:
            host.end()
        for bell in bells:
            os.close(bell)


@pytest.mark.parametrize("asked", [0, 1])
def test_a_relay_that_dies_between_any_two_calls_leaves_nothing_half_done(tmp_path: Path, asked: int) -> None:
    with threads(tmp_path) as (found, relays):
        applied = 0
        for call in range(24):
            for kind, mail in ((Kind.SET, lr(call + 1)), (Kind.PAUSE, ""), (Kind.RESUME, "")):
                relays[0].die_at = call
                deaths = relays[0].deaths
                fate = found[asked].ask(kind, mail=mail)
                assert fate.state == "applied", (call, kind, fate)
                assert relays[0].deaths > deaths or relays[0].die_at is not None
                applied += kind is Kind.SET
        assert relays[0].deaths > 30
        until(lambda: found[0].lines("set") == found[1].lines("set"), "both were set at the same steps")
        assert len(found[0].lines("set")) == applied
        assert found[0].lines("paused") == found[1].lines("paused")
        assert len(found[0].lines("paused")) == 24


def test_what_is_written_over_a_file_is_read_whether_it_is_longer_or_shorter(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with state_files.opened(tmp_path, create=True) as fd:
        for found in ({"a": 1}, {"a": "x" * 100}, {"a": 2}, {"a": "y" * 5000}, {"a": 3}, {"a": 4}):
            state_files.overwrite_object(fd, "file", found)
            assert state_files.read_object(fd, "file", tmp_path) == found
        os.unlink("file", dir_fd=fd)
        os.mkfifo("file", 0o600, dir_fd=fd)  # no reader: to open it would wait
        state_files.overwrite_object(fd, "file", {"a": 5})
        assert state_files.read_object(fd, "file", tmp_path) == {"a": 5}
        os.link("file", "another name", src_dir_fd=fd, dst_dir_fd=fd)
        state_files.overwrite_object(fd, "file", {"a": 6})
        assert state_files.read_object(fd, "another name", tmp_path) == {"a": 5}, "it is not written through"


def test_peers_are_read_while_somebody_looks(tmp_path: Path) -> None:
    with threads(tmp_path) as (found, _):
        until(lambda: [rank["rank"] for rank in read_peers(found[0].run)] == [1], "the other is seen")
        assert read_peers(tmp_path) == []
