"""Another user, who reaches the store of a job of several hosts, and writes there what its relays would write.

The attacker needs no file of the job and no rights on its hosts: only a connection to the store. So these tests attack
from their own process, over TCP.
"""

import base64
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from spark_fast import _core, client
from spark_fast.client import FateState
from spark_fast.hosts.store import Store, open_store
from spark_fast.request import Kind
from spark_fast.runfiles.versions import digest_of
from tests.hosts.test_hosts_reload import running
from tests.support.child import outcome, until
from tests.support.hosts_real import SECRET, Host, Server, job, parked_together, store
from tests.support.ranks import LOOP

pytestmark = pytest.mark.hosts

UNSIGNED = {"SPARK_FAST_SECRET": ""}
PROGRAM = [sys.executable, "-m", "spark_fast"]
TRUSTING = UNSIGNED | {"SPARK_FAST_TRUST_NETWORK": "1"}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with store() as found:
        yield found


def address(server: Server) -> str:
    return f"{server.address}/{time.monotonic_ns()}"


@pytest.fixture
def at_home(monkeypatch: pytest.MonkeyPatch) -> Callable[[Host], client.Run]:
    """The run as a client on that host has it."""

    def attach(host: Host) -> client.Run:
        monkeypatch.setenv("SPARK_FAST_HOME", str(host.home))
        return client.attach()

    return attach


class Attacker:
    """Another user, with a connection to the store."""

    def __init__(self, table: Store) -> None:
        self.store = table

    def begins(self) -> str:
        """What the keys of the job's session begin with: it is told to everyone."""
        marker = self.store.get("session")
        return "" if marker is None else f"{marker[:32].decode()}/"

    def put(self, key: str, value: dict[str, Any] | bytes) -> None:
        self.store.set(self.begins() + key, value if isinstance(value, bytes) else json.dumps(value).encode())

    def read(self, key: str) -> bytes | None:
        return self.store.get(self.begins() + key)

    def ask(self, number: int, kind: Kind, **more: Any) -> None:
        """Puts a request into the job's log, as of a host that is none of the job, and then decides it as that host
        would, for two hosts."""
        # The relays look for this number, unless another request is on its way.
        self.put(f"log/{number}", {"id": secrets.token_hex(8), "kind": int(kind), "home": 99, **more})

    def decide(self, number: int, hosts: tuple[int, ...]) -> bool:
        """Decides it, if all of these hosts have said when they can act; whether it was so."""
        lows = [self.read(f"low/{number}/{host}") for host in hosts]
        steps = [json.loads(raw).get("low") for raw in lows if raw is not None and raw.startswith(b"{")]
        if len(steps) < len(hosts) or None in steps:
            return False
        self.put(f"target/{number}", {"target": max(steps)})
        for phase in range(3):
            self.put(f"verdict/{number}/{phase}", b"yes")
        return True


@contextmanager
def attacker(place: str) -> Iterator[Attacker]:
    with closing(open_store(place, 20.0)) as table:
        yield Attacker(table)


def heard(run: Path) -> bool:
    """Whether a host's relay has met a value that no host has signed."""
    return (run / "hosts" / "unsigned.json").exists()


def refused(eve: Attacker, number: int) -> bool:
    """Whether the hosts have said that they won't act, and have voided the request."""
    return b"did not go on" in (eve.read(f"target/{number}") or b"")


# --- forged requests ---


@pytest.mark.parametrize("env", [{}, UNSIGNED], ids=["with a secret", "without"])
def test_new_code_of_another_user_runs_in_no_rank(
    tmp_path: Path, server: Server, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with running(tmp_path, server) as found, attacker(f"{server.address}/{tmp_path.name}") as eve:
        runs = [home / "job" for home in found.homes]
        source = LOOP.replace("#TOP", f"open({str(tmp_path / 'broken')!r} + os.environ['RANK'], 'w')").encode()
        digest = digest_of(source)
        letter = {
            "note": "",
            "files": [[0, "train.py", digest]],
            "sources": {digest: base64.b64encode(source).decode()},
        }
        for number in range(2):
            found.at(number)
        eve.ask(1, Kind.RELOAD, letter=letter, mail="1")

        def broken() -> bool:
            eve.decide(1, (0, 1))
            return len(list(tmp_path.glob("broken*"))) == 2

        until(lambda: broken() or all(map(heard, runs)) or refused(eve, 1), "the forged request is met", 60.0)
        # What the owner asks next has all of them pass the place where the forged request stands.
        run = found.at(0)
        assert run.pause(timeout=60).fate.state is FateState.APPLIED
        run.resume(timeout=60)
        assert not list(tmp_path.glob("broken*"))
        assert len(run.versions) == len(found.at(1).versions) == 1
        found.over()


@pytest.mark.parametrize("env", [{}, UNSIGNED], ids=["with a secret", "without"])
def test_a_value_of_another_user_is_set_in_no_rank(
    tmp_path: Path, server: Server, env: dict[str, str], at_home: Callable[[Host], client.Run]
) -> None:
    place = address(server)
    with job(tmp_path, 2, place, **env) as found, attacker(place) as eve:
        eve.ask(1, Kind.SET, mail='{"name":"lr","value":666}')

        def met() -> bool:
            eve.decide(1, (0, 1))
            return all(heard(host.run) for host in found) or refused(eve, 1) or bool(found[0].lines("set"))

        until(met, "the forged request is met", 60.0)
        assert at_home(found[1]).pause(timeout=60).fate.state is FateState.APPLIED
        parked_together(found)
        assert found[0].lines("set") == found[1].lines("set") == []


# --- forged answers ---


def test_forged_answers_change_no_step_and_no_fate(
    tmp_path: Path, server: Server, at_home: Callable[[Host], client.Run]
) -> None:
    place = address(server)
    with job(tmp_path, 2, place) as found, attacker(place) as eve:
        over = threading.Event()

        def forge() -> None:
            number = 1
            forged: dict[str, dict[str, Any] | bytes] = {
                "low/{}/0": {"low": 1},
                "low/{}/1": {"low": 1 << 40},
                "target/{}": {"target": 1 << 40},
                "done/{}/0": {"outcome": "applied", "step": 1},
                "done/{}/1": {"outcome": "applied", "step": 1},
                "state/1": {"count": 1 << 60, "ranks": [], "ended": True},
                "host/1": {"node": "eve", "name": "eve", "ranks": [1], "world_size": 2, "generation": 1 << 40},
            }
            while not over.is_set():
                number += eve.read(f"log/{number}") is not None
                for ahead in range(3):
                    for key, value in forged.items():
                        # Only where nothing stands: else no request would ever get through.
                        key = eve.begins() + key.format(number + ahead)
                        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
                        eve.store.compare_set(key, None, raw)
                time.sleep(0.01)

        forging = threading.Thread(target=forge)
        forging.start()
        try:
            run = at_home(found[0])
            for value in (1.0, 2.0):
                fate = run.set("lr", value, timeout=60).fate
                assert fate.state is FateState.APPLIED
                for host in found:
                    said = ["set", str(fate.step), str(value)]
                    until(lambda: host.lines("set")[-1:] == [said], "it is set, and at that step")  # noqa: B023
            assert run.pause(timeout=60).fate.step == parked_together(found)
        finally:
            over.set()
            forging.join()
        until(lambda: all(heard(host.run) for host in found), "both relays tell of it", 60.0)
        log = (found[0].run / "hosts" / "relay.log").read_text()
        assert log.count("was signed by no host") == 1
        status = subprocess.run(
            [*PROGRAM, "status"], env=found[0].env, capture_output=True, text=True, timeout=60, check=True
        )
        assert "that no host of this job has signed" in " ".join(status.stdout.split())


def test_what_was_said_before_has_no_effect_when_it_is_said_again(
    tmp_path: Path, server: Server, at_home: Callable[[Host], client.Run]
) -> None:
    place = address(server)
    with job(tmp_path, 2, place) as found, attacker(place) as eve:
        run = at_home(found[0])
        run.set("lr", 1.0, timeout=60)
        keys = ["log/1", "target/1", "done/1/0", "done/1/1"]
        recorded = {key: raw for key in keys if (raw := eve.read(key)) is not None}
        assert set(recorded) == set(keys)
        run.set("lr", 2.0, timeout=60)
        for number in (3, 4):
            for key, raw in recorded.items():
                eve.put(key.replace("/1", f"/{number}", 1), raw)
        for key in keys:
            eve.put(key, recorded[key])
        until(lambda: all(heard(host.run) for host in found), "both relays have met it", 60.0)
        assert run.set("lr", 3.0, timeout=60).fate.state is FateState.APPLIED
        until(lambda: all(len(host.lines("set")) >= 3 for host in found), "both were set")
        assert [line[2] for line in found[0].lines("set")] == ["1.0", "2.0", "3.0"]
        assert found[0].lines("set") == found[1].lines("set")


def test_a_job_whose_store_is_emptied_goes_on_and_applies_nothing_twice(
    tmp_path: Path, server: Server, at_home: Callable[[Host], client.Run]
) -> None:
    place = address(server)
    with job(tmp_path, 2, place) as found, attacker(place) as eve:
        run = at_home(found[0])
        run.set("lr", 1.0, timeout=60)
        first = eve.begins()
        recorded = {key: eve.read(key) for key in ("log/1", "target/1", "host/0", "host/1", "state/1")}
        eve.store.delete("session")
        until(lambda: eve.begins() not in ("", first), "the hosts meet anew", 60.0)
        for key, raw in recorded.items():
            assert raw is not None
            eve.put(key, raw)

        def taken() -> bool:
            fate = outcome(run.set, "lr", 2.0, timeout=60).fate
            return fate.state is FateState.APPLIED

        until(taken, "a request is taken again", 90.0)
        until(lambda: all(len(host.lines("set")) >= 2 for host in found), "both were set")
        assert [line[2] for line in found[0].lines("set")] == ["1.0", "2.0"]
        assert found[0].lines("set") == found[1].lines("set")


# --- without a secret ---


def test_without_a_secret_only_requests_without_code_and_values_are_taken(
    tmp_path: Path, server: Server, at_home: Callable[[Host], client.Run]
) -> None:
    with job(tmp_path, 2, address(server), **UNSIGNED) as found:
        run = at_home(found[0])
        for ask, kind in (
            (lambda: run.set("lr", 1.0, timeout=60), "set"),
            (lambda: run.request_call("where", timeout=60), "call"),
        ):
            fate = outcome(ask).fate
            assert fate.state is FateState.REFUSED
            assert fate.reason.startswith(f"a {kind} over several hosts is refused")
            assert "run `spark-fast secret` once" in fate.reason and "SPARK_FAST_TRUST_NETWORK=1" in fate.reason
        done = subprocess.run(
            [*PROGRAM, "set", "lr=1"], env=found[0].env, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 1 and "run `spark-fast secret` once" in done.stderr
        assert run.pause(timeout=60).fate.step == parked_together(found)
        run.advance(3, timeout=60)
        parked_together(found)
        run.resume(timeout=60)
        assert not found[0].lines("set") and not found[1].lines("set")
        assert run.stop(timeout=60).fate.state is FateState.APPLIED


def test_without_a_secret_a_stop_of_another_user_neither_restarts_nor_kills_and_leaves_no_file(
    tmp_path: Path, server: Server
) -> None:
    """A stop with the mail "reset" has a supervisor start the training over; with "grace" it ends it by signals."""
    place = address(server)
    with job(tmp_path, 2, place, **UNSIGNED) as found, attacker(place) as eve:
        eve.ask(1, Kind.PAUSE, letter={"name": "lr", "value": 666})
        until(lambda: eve.decide(1, (0, 1)), "both hosts answer the pause", 60.0)
        parked_together(found)
        for number, mail in ((2, "grace"), (3, "reset")):
            eve.ask(number, Kind.STOP if mail == "reset" else Kind.RESUME, mail=mail)
            until(lambda: eve.decide(number, (0, 1)), "both hosts answer", 60.0)  # noqa: B023
        until(lambda: all(host.lines("stopped") for host in found), "both stop", 60.0)
        for host in found:
            control = os.open(host.run / "control", os.O_RDONLY)
            kinds = [(entry["kind"], entry["mail"]) for entry in map(partial(_core.read_entry, control), (1, 2, 3))]
            os.close(control)
            assert kinds == [(Kind.PAUSE, ""), (Kind.RESUME, ""), (Kind.STOP, "")]
            assert not list(host.run.glob("mail/*"))


def test_every_run_is_listed_whatever_another_user_writes_into_the_store_of_one(
    tmp_path: Path, server: Server, at_home: Callable[[Host], client.Run]
) -> None:
    place = address(server)
    with job(tmp_path, 2, place, **UNSIGNED) as found, attacker(place) as eve:
        run, count = at_home(found[0]), 1 << 40
        for rank in ({"step": float("inf")}, {"status": []}, {"rank": {}}):
            count += 1
            said = {"count": count, "ranks": [{"rank": 1, "status": "running", "step": 1, "pid": 1} | rank]}

            def read() -> bool:
                eve.put("state/1", said)  # noqa: B023
                assert [each.rank for each in run.ranks] == [0, 1]
                peers = json.loads((found[0].run / "hosts" / "peers.json").read_text())
                return any(host["count"] == count for host in peers["hosts"])  # noqa: B023

            until(read, "the host reads what another user has written", 60.0)
        assert [each.id for each in client.runs()] == ["job"]
        assert found[0].relay() is not None, found[0].said()


def test_who_trusts_the_network_needs_no_secret(
    tmp_path: Path, server: Server, at_home: Callable[[Host], client.Run]
) -> None:
    with job(tmp_path, 2, address(server), **TRUSTING) as found:
        assert at_home(found[1]).set("lr", 1.0, timeout=60).fate.state is FateState.APPLIED
        until(lambda: found[0].lines("set") == found[1].lines("set") != [], "both are set")


@pytest.mark.parametrize(
    ("first", "second", "at_first", "at_second"),
    [
        ({}, {"SPARK_FAST_SECRET": "another secret of the tests"}, "another secret", "another secret than this one"),
        ({}, UNSIGNED, "another secret", "other hosts of the job have a secret, and this one has none"),
        (UNSIGNED, {}, "no word yet of rank 1", "it has no secret"),
    ],
    ids=["another", "none", "none at the first"],
)
def test_hosts_that_do_not_share_the_secret_say_so(
    tmp_path: Path,
    server: Server,
    at_home: Callable[[Host], client.Run],
    first: dict[str, str],
    second: dict[str, str],
    at_first: str,
    at_second: str,
) -> None:
    place, bound = address(server), {"SPARK_FAST_HOSTS_BOUND": "3"}
    found = []
    try:
        for rank, env in enumerate((first, second)):
            found.append(Host(tmp_path / f"host{rank}", rank, 2, place, **bound, **env))
        until(found[0].joined, "the host of rank 0 takes its place")
        for host, words in zip(found, (at_first, at_second), strict=True):
            until(lambda: (host.run / "hosts" / "relay.log").exists(), "it has a relay")  # noqa: B023
            fate = outcome(at_home(host).pause, timeout=60).fate
            assert fate.state is FateState.REFUSED and words in fate.reason, fate
        assert not found[0].lines("paused") and not found[1].lines("paused")
    finally:
        for host in found:
            host.end()


# --- the secret itself ---


def test_the_secret_is_written_nowhere(tmp_path: Path, server: Server, at_home: Callable[[Host], client.Run]) -> None:
    place = address(server)
    with job(tmp_path, 2, place) as found:
        run = at_home(found[0])
        run.set("lr", 1.0, timeout=60)
        for host in found:
            relay = host.relay()
            assert relay is not None
            for text in ("".join(relay.cmdline()), json.dumps(relay.environ())):
                assert SECRET not in text and "SPARK_FAST_SECRET" not in text
    files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any(path.name == "key" and path.stat().st_mode & 0o777 == 0o600 for path in files)
    for path in files:
        assert SECRET.encode() not in path.read_bytes(), path


def test_a_file_holds_the_secret_of_a_job_and_a_command_makes_it(
    tmp_path: Path, server: Server, at_home: Callable[[Host], client.Run]
) -> None:
    path = tmp_path / "shared" / "secret"
    env = {"SPARK_FAST_SECRET": "", "SPARK_FAST_SECRET_FILE": str(path)}
    for said in (f"{path}\n", f"{path} is there already\n"):
        made = subprocess.run(
            [*PROGRAM, "secret"], env=os.environ | env, capture_output=True, text=True, timeout=60, check=True
        )
        assert made.stdout == said
    with job(tmp_path, 2, address(server), **env) as found:
        assert at_home(found[1]).set("lr", 1.0, timeout=60).fate.state is FateState.APPLIED


def test_a_secret_that_others_could_have_read_is_not_used_and_the_training_says_so(
    tmp_path: Path, server: Server, at_home: Callable[[Host], client.Run]
) -> None:
    path = tmp_path / "secret"
    path.write_text("x" * 64)
    path.chmod(0o644)
    env = {"SPARK_FAST_SECRET": "", "SPARK_FAST_SECRET_FILE": str(path)}
    with job(tmp_path, 2, address(server), **env) as found:
        fate = outcome(at_home(found[0]).set, "lr", 1.0, timeout=60).fate
        assert fate.state is FateState.REFUSED and "has mode 0644" in fate.reason
        assert found[0].err.read_text().count("warning: the hosts of this job have no secret, since") == 1
    done = subprocess.run(
        [*PROGRAM, "secret"], env=os.environ | env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1 and "has mode 0644" in done.stderr


def test_a_host_whose_ranks_are_started_again_takes_part_in_a_new_session(
    tmp_path: Path, server: Server, at_home: Callable[[Host], client.Run]
) -> None:
    place = address(server)
    with job(tmp_path, 2, place) as found, attacker(place) as eve:
        run = at_home(found[0])
        run.set("lr", 1.0, timeout=60)
        first = eve.begins()
        found[1].process.kill()
        found[1].process.wait()
        gone = found[1].relay()
        if gone is not None:
            psutil.Process(gone.pid).wait(60)
        old = {key: eve.read(key) for key in ("host/1", "state/1")}
        again = Host(tmp_path / "again", 1, 2, place)
        found.append(again)
        until(again.joined, "the host takes its place again", 90.0)
        assert eve.begins() != first
        for key, raw in old.items():
            assert raw is not None
            eve.put(key, raw)
        until(found[0].joined, "the other host has met it")

        def taken() -> bool:
            fate = outcome(run.set, "lr", 2.0, timeout=60).fate
            return fate.state is FateState.APPLIED

        until(taken, "a request is taken again", 90.0)
        until(lambda: again.lines("set"), "the host that is back is set")
        until(lambda: again.lines("set")[-1] == found[0].lines("set")[-1], "both at the same step")
