"""What a host of a job says and does when its own ranks, another host or the store are gone."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from spark_fast import client, hosts
from spark_fast.hosts import peers, relay, requests, state_files
from spark_fast.hosts.local import RunFolder
from spark_fast.hosts.messages import Member, Peer
from spark_fast.hosts.peers import read_peers
from spark_fast.hosts.store import StoreGoneError, StoreSlowError
from spark_fast.request import FateState, Kind
from tests.support.child import DEADLINE, outcome, until
from tests.support.hosts_real import Host, Server, job, store

pytestmark = pytest.mark.hosts

NEVER = 1e9
PATIENT = "100"
"""Seconds that the hosts have to answer, such that no test waits for them."""


@pytest.fixture
def at_home(monkeypatch: pytest.MonkeyPatch) -> Callable[[Host], client.Run]:
    """The run as a client on that host has it. Silence alone never counts as such."""
    monkeypatch.setattr(peers, "SILENT", NEVER)

    def attach(host: Host) -> client.Run:
        monkeypatch.setenv("SPARK_FAST_HOME", str(host.home))
        return client.attach("job")

    return attach


@contextmanager
def two(folder: Path, server: Server, *, slow: bool = False) -> Iterator[list[Host]]:
    """Two hosts that have joined. slow: whether the first never comes to the end of its first step."""
    found: list[Host] = []
    try:
        for rank in range(2):
            step = {"TEST_STEP": "1e6"} if slow and rank == 0 else {}
            host = Host(folder / f"host{rank}", rank, 2, server.address, SPARK_FAST_HOSTS_BOUND=PATIENT, **step)
            found.append(host)
        for host in found:
            until(host.joined, f"host {host.rank} takes its place")
        yield found
    finally:
        for host in found:
            host.end()


def cli(host: Host, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "spark_fast", *words]
    env = os.environ | {"SPARK_FAST_HOME": str(host.home)}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)


def finished(ask: Callable[[], client.Request]) -> client.Request:
    """The request, once `ask` has returned or raised because of its fate."""
    found: list[client.Request] = []
    threading.Thread(target=lambda: found.append(outcome(ask)), daemon=True).start()
    until(lambda: found, "it returns")
    return found[0]


def test_a_request_returns_where_all_ranks_of_the_host_are_dead_and_another_host_lives(
    tmp_path: Path, at_home: Callable[[Host], client.Run]
) -> None:
    with store() as server, two(tmp_path, server) as found:
        run = at_home(found[0])
        until(lambda: run.ranks[-1].rank == 1 and run.ranks[-1].pid, "the other host is heard")
        found[0].process.kill()
        found[0].process.wait()
        assert run.status == "running", "another host's rank runs"
        for ask in (run.pause, run.resume, run.stop):
            fate = finished(ask).fate
            assert fate.state is FateState.REFUSED
            assert "no rank of this host lives; ask on" in fate.reason

        server.kill()
        until(lambda: run.status == "lost", "the store is found to be gone")
        for reload in (run.pause, run.reload):
            fate = finished(reload).fate
            assert fate.state is FateState.REFUSED
            assert "no rank of this host lives, and the job's other hosts are not heard" in fate.reason
        done = cli(found[0], "pause", "job")
        assert done.returncode == 5 and "has ended" not in done.stderr and "gc" not in done.stderr, done.stderr
        assert "no rank of this host lives" in done.stderr


def test_a_run_whose_ranks_have_ended_on_all_hosts_is_said_to_have_ended(
    tmp_path: Path, at_home: Callable[[Host], client.Run]
) -> None:
    with store() as server, two(tmp_path, server) as found:
        run = at_home(found[0])
        until(lambda: run.ranks[-1].rank == 1 and run.ranks[-1].pid, "the other host is heard")
        assert run.stop(timeout=60).fate.state is FateState.APPLIED
        until(lambda: run.status == "stopped", "both have ended")
        assert finished(run.pause).fate.reason == "the run has ended: it is stopped"


def test_a_request_that_the_relay_no_longer_has_is_lost(tmp_path: Path) -> None:
    fate = hosts.wait(tmp_path, 7, 0.0)
    assert fate is not None and fate.state == "lost"


def test_a_request_is_lost_where_no_relay_can_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state_files.write_place(
        tmp_path, state_files.HostPlace("tcp://none:1/x", "node", "here", 0, 1, 2, 0, 5.0, "/nowhere/python", "")
    )
    monkeypatch.setattr(requests, "_DEAF", 0.5)
    hosts.ask(tmp_path, Kind.PAUSE, 7)
    fate = hosts.wait(tmp_path, 7, DEADLINE)
    assert fate is not None and (fate.state, fate) == ("lost", hosts.fate(tmp_path, 7))
    assert "no relay could be started" in fate.reason


def test_a_stop_is_told_from_what_this_host_knows_where_the_store_ends_with_the_job(
    tmp_path: Path, at_home: Callable[[Host], client.Run]
) -> None:
    with store() as server, two(tmp_path, server, slow=True) as found:
        run = at_home(found[1])
        until(lambda: run.ranks[0].rank == 0 and run.ranks[0].pid, "the other host is heard")
        request = run.stop(wait=False)
        until(lambda: found[1].lines("stopped"), f"it stops: {found[1].said()}")
        step = int(found[1].lines("stopped")[0][1])
        assert request.fate.state is FateState.ASKED, "the other host has not come to it"
        assert run.status.live, (run.ranks, found[1].said())
        server.kill()
        fate = until(lambda: request.fate if request.fate.final else None, "its fate is told")
        assert (fate.state, fate.step) == (FateState.APPLIED, step)
        assert "of the others nothing was heard" in fate.reason
        until(lambda: run.status == "stopped", f"the run is what its ranks here are: {run.ranks}")
        assert run.step == run.ranks[1].step and run.ranks[0].status == "unheard"


def test_a_pause_that_is_not_decided_when_ranks_and_store_end_is_lost(tmp_path: Path) -> None:
    with store() as server, two(tmp_path, server) as found:
        silent = found[0].relay()
        assert silent is not None
        silent.suspend()
        ident = found[1].leave(Kind.PAUSE)
        asked = found[1].run / "hosts" / "ask" / f"{ident:016x}.json"
        until(lambda: "tried" in json.loads(asked.read_text()), "it stands in the job's log")
        found[1].process.kill()
        found[1].process.wait()
        server.kill()
        fate = until(lambda: hosts.fate(found[1].run, ident), f"its fate is told: {found[1].said()}")
        assert fate.state == "lost" and "is not known" in fate.reason
        until(lambda: found[1].relay() is None, "the relay ends")


def test_a_relay_waits_for_what_becomes_of_a_request_when_its_own_ranks_have_ended(tmp_path: Path) -> None:
    with store() as server, two(tmp_path, server, slow=True) as found:
        until(lambda: [rank["status"] for rank in read_peers(found[0].run)] == ["running"], "it is heard")
        ident = found[1].leave(Kind.STOP)
        until(lambda: [rank["status"] for rank in read_peers(found[0].run)] == ["stopped"], "its end is heard")
        ended = seen_by(found[0])["count"]
        # One a second while somebody looks: more than a relay has to say that nobody on its host needs.
        until(lambda: read_peers(found[0].run) and seen_by(found[0])["count"] > ended + 4, "its relay lives on")
        assert hosts.fate(found[1].run, ident) is None
        found[0].process.kill()
        fate = until(lambda: hosts.fate(found[1].run, ident), "the other host's end is heard")
        assert fate.state == "applied"


def test_ranks_of_a_host_that_is_not_heard_are_neither_running_nor_lost(
    tmp_path: Path, at_home: Callable[[Host], client.Run]
) -> None:
    with store() as server, two(tmp_path, server) as found:
        run = at_home(found[0])
        until(lambda: run.ranks[-1].rank == 1 and run.ranks[-1].step, "the other host is heard")
        server.kill()
        until(lambda: run.ranks[1].status == "unheard", "the store is found to be gone")
        first, again = run.ranks[1], run.ranks[1]
        assert first == again, "nothing changes while nothing is heard"
        assert time.time() - 60 < first.since < time.time()
        until(lambda: run.step > first.step + 10, "the step is that of the rank that is heard")
        assert run.status == "running"

        said = json.loads(cli(found[0], "status", "job", "--json").stdout)
        assert said["status"] == "running" and said["step"] > first.step
        told = said["ranks"][1]
        assert (told["status"], told["trouble"], told["step"]) == ("unheard", "unheard", first.step)
        assert told["since"] == first.since
        at = time.strftime("%H:%M:%S", time.localtime(first.since))
        shown = cli(found[0], "status", "job").stdout
        assert f"rank 1 has not been heard since {at}" in shown and f"last seen at step {first.step}" in shown
        assert "1 of 2 is there" in shown and "rank 1 is not heard" in shown
        assert "1/2" in cli(found[0], "ps").stdout

        again_there = Server("127.0.0.1", port=server.port)
        try:
            until(lambda: run.ranks[1].status == "running", f"it is heard again: {found[0].said()}", 60.0)
        finally:
            again_there.kill()


@pytest.mark.parametrize(
    ("errors", "unreachable"),
    [
        ([StoreGoneError("it is gone")], True),
        ([StoreSlowError("it has not answered")], False),
        ([StoreSlowError("it has not answered")] * 2, True),
        ([StoreSlowError("it has not answered"), StoreGoneError("it is gone")], True),
    ],
)
def test_a_store_that_is_slow_once_is_not_taken_for_one_that_is_gone(
    tmp_path: Path, errors: list[StoreGoneError], unreachable: bool
) -> None:
    host = Host(tmp_path / "host", 0, 2, "", MASTER_ADDR="")
    try:
        place = until(lambda: (host.run / "control").exists() and state_files.read_place(host.run), "it has a place")
        RunFolder(host.run).show([Peer(Member("a", "there", (1,), 2), 4, [], False, 0.0)], "")
        process = relay._Process(host.run, place, -1)
        for error in errors:
            process._lose(error)
        said = json.loads((host.run / "hosts" / "peers.json").read_text())
        assert said.get("unreachable", False) is unreachable
    finally:
        host.end()


# --- what is read of the others ---


def peers_of(folder: Path, ended: bool = False, unreachable: bool = False, **host: object) -> list[tuple[str, float]]:
    """Status and time of the ranks of the only other host, of which a relay has laid out so much."""
    state_files.write_place(folder, state_files.HostPlace("tcp://none:1/x", "node", "here", 0, 1, 3, 0, 5.0, "", ""))
    ranks = [{"rank": 1, "status": "stopping", "step": 7, "pid": 3}, {"rank": 2, "status": "lost", "step": 5, "pid": 4}]
    other = {"name": "there", "node": "a", "numbers": [1, 2], "ranks": ranks, "ended": ended, "count": 1, **host}
    said = {"missing": "", "hosts": [other], "read": time.monotonic()}
    with state_files.opened(folder) as fd:
        state_files.write_object(fd, state_files.PEERS, said | ({"unreachable": True} if unreachable else {}))
    return [(str(rank["status"]), rank["since"]) for rank in read_peers(folder)]


def test_a_host_counts_as_unheard_by_its_silence_or_by_the_store_s(tmp_path: Path) -> None:
    heard, unheard = [("stopping", 0.0), ("lost", 0.0)], [("unheard", 50.0), ("lost", 0.0)]
    assert peers_of(tmp_path, heard=50.0, silent=2.0) == heard
    assert peers_of(tmp_path, heard=50.0, silent=peers.SILENT + 1) == unheard
    assert peers_of(tmp_path, heard=50.0, silent=2.0, unreachable=True) == unheard
    assert peers_of(tmp_path, heard=50.0, silent=2.0, unreachable=True, ended=True) == heard


def test_when_a_host_was_heard_outlives_the_relay_that_heard_it(tmp_path: Path) -> None:
    with store() as server, job(tmp_path, 1, server.address, WORLD_SIZE="2") as found:
        member = Member("a", "there", (1,), 2)
        for silent in (3.0, 0.0):  # a relay that begins has just heard what stands there
            RunFolder(found[0].run).show([Peer(member, 4, [], False, silent)], "")
        assert seen_by(found[0])["heard"] < time.time() - 2.5
        RunFolder(found[0].run).show([Peer(member, 5, [], False, 0.0)], "")
        heard = seen_by(found[0])["heard"]
        assert heard > time.time() - 2.5
        RunFolder(found[0].run).show([], "no word yet of rank 1")  # as of a store that was begun anew
        assert (seen_by(found[0])["numbers"], seen_by(found[0])["heard"]) == ([1], heard)


def seen_by(host: Host) -> dict[str, Any]:
    """What a host's relay has laid out of the only other host."""
    said = json.loads((host.run / "hosts" / "peers.json").read_text())
    found: dict[str, Any] = said["hosts"][0]
    return found
