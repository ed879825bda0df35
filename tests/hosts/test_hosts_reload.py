"""Reloads of jobs of several hosts: each keeps its own versions, and all run the new code from one step on, or none."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from spark_fast import _core, client
from spark_fast.client import Request
from tests.support.child import ALL, outcome, until
from tests.support.hosts_real import SECRET, Server, store
from tests.support.ranks import LOCKSTEP, LOOP, Ranks

pytestmark = pytest.mark.hosts

HELPER = "def scale(lr):\n    return lr\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with store() as found:
        yield found


class Job:
    """A job whose hosts each have a home and a folder of the project of their own.

    ranks: of each host.
    helper: the source of a module of the project, with {host} in the place of the host's number.
    """

    def __init__(
        self, folder: Path, server: Server, ranks: tuple[int, ...], code: str = LOOP, helper: str = HELPER
    ) -> None:
        self.hosts: list[Ranks] = []
        self.homes: list[Path] = []
        self.world = sum(ranks)
        first = 0
        for number, count in enumerate(ranks):
            below = folder / f"host{number}"
            below.mkdir()
            host = Ranks(below, self.world, code, how="runner", job=number, start=False)
            (host.folder / "helper.py").write_text(helper.format(host=number))
            host.told_in = folder / "told"
            self.hosts.append(host)
            self.homes.append(below / "home")
            for local in range(count):
                self.start(number, first + local, local, count, f"{server.address}/{folder.name}")
            first += count

    def start(self, number: int, rank: int, local: int, count: int, address: str) -> None:
        self.hosts[number].start(
            rank,
            LOCAL_RANK=str(local), LOCAL_WORLD_SIZE=str(count), SPARK_FAST_HOME=str(self.homes[number]),
            SPARK_FAST_STORE=address, SPARK_FAST_RUN="job", SPARK_FAST_SECRET=SECRET,
            SPARK_FAST_HOSTS_BOUND="15", TOGETHER=str(self.world),
        )  # fmt: skip

    def at(self, number: int) -> client.Run:
        """The run as it is seen from a host, once all of its hosts have joined."""
        os.environ["SPARK_FAST_HOME"] = str(self.homes[number])
        note = self.homes[number] / "job" / "hosts" / "note.json"
        until(lambda: note.exists() and json.loads(note.read_text())["store"], f"host {number} takes its place")
        return client.attach("job")

    def relays(self) -> list[psutil.Process]:
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if (process.info["cmdline"] or [])[1:4] == ["-P", "-m", "spark_fast.hosts"]
            and process.info["cmdline"][-1] in {str(home / "job") for home in self.homes}
        ]

    def over(self) -> None:
        """Stops it, and asserts that each step stood for the same item in all ranks."""
        run = self.at(0)
        run.resume(timeout=30)
        assert run.stop(timeout=30).fate.state == "applied"
        for host in self.hosts:
            assert set(host.ended()) == {0}, host.errs
        everybody = self.hosts[0]
        for host in self.hosts[1:]:
            everybody.processes |= host.processes
        everybody.assert_same(*everybody.processes)


@contextmanager
def running(
    folder: Path, server: Server, ranks: tuple[int, ...] = (1, 1), code: str = LOOP, helper: str = HELPER
) -> Iterator[Job]:
    home = os.environ.get("SPARK_FAST_HOME")
    job = Job(folder, server, ranks, code, helper)
    try:
        yield job
    finally:
        for host in job.hosts:
            host.__exit__()
        for relay in job.relays():
            with suppress(psutil.NoSuchProcess):  # it has ended since, of itself
                relay.kill()
        if home is None:
            os.environ.pop("SPARK_FAST_HOME", None)
        else:
            os.environ["SPARK_FAST_HOME"] = home


def reload(run: client.Run, where: str, code: str, source: str = LOOP) -> Request:
    assert where in source
    return outcome(run.reload, source.replace(where, code), timeout=30)


@pytest.mark.parametrize(
    "ranks", [(1, 2, 1), (1, 1), (2, 1)] if ALL else [(1, 2, 1)], ids=lambda ranks: "+".join(map(str, ranks))
)
def test_new_code_runs_on_all_hosts_from_the_same_step_on(
    tmp_path: Path, server: Server, ranks: tuple[int, ...]
) -> None:
    with running(tmp_path, server, ranks) as job:
        for number in range(6):
            run = job.at(number % len(ranks))
            if number % 2:
                run.pause(timeout=30)
            request = reload(run, "lr=state.lr", f"lr=state.lr + {number + 1}000")
            assert request.fate.state == "applied", (request.fate, [host.errs for host in job.hosts])
            assert run.advance(3, timeout=30).fate.state == "applied"
            run.resume(timeout=30)
        job.over()
        told = [int(line["lr"]) // 1000 for line in job.hosts[0].steps(0).values()]
        assert sorted(told) == told and set(told) == set(range(7))


BAD = {
    "at the top, on the other host": ("#TOP", "if os.environ['RANK'] == '2': 1/0"),
    "at the top, on the host that is asked": ("#TOP", "if os.environ['RANK'] == '1': 1/0"),
    "in the body, on the other host": ("#BODY", "1/(rank - 2)"),
    "in the body, on the host that is asked": ("#BODY", "1/rank"),
    "in all": ("#BODY", "1/0"),
}


@pytest.mark.parametrize("parked", [False, True], ids=["running", "parked"])
def test_what_a_rank_of_one_host_can_not_run_is_taken_back_on_all(tmp_path: Path, server: Server, parked: bool) -> None:
    with running(tmp_path, server, (2, 1)) as job:
        run = job.at(0)
        for bad, (where, code) in BAD.items():
            if parked:
                run.pause(timeout=30)
            request = reload(run, where, code)
            # Parked, it has come as far as it can: what stands in the body shows when it goes on.
            expected = "applied" if parked and where == "#BODY" else "failed"
            assert request.fate.state == expected, (bad, request.fate, [host.errs for host in job.hosts])
            assert expected == "applied" or "ZeroDivisionError" in request.fate.reason
            run.resume(timeout=30)
            assert reload(run, "#BODY", f"pass # {bad}").fate.state == "applied"
        job.over()


def test_what_changed_on_the_disk_of_one_host_comes_to_the_others(tmp_path: Path, server: Server) -> None:
    code = LOOP.replace("#TOP", "import helper").replace("lr=state.lr", "lr=helper.scale(state.lr)")
    with running(tmp_path, server, (1, 1), code) as job:
        run, other = job.at(0), job.at(1)
        folder = job.hosts[0].folder
        (folder / "more.py").write_text("TIMES = 3\n")
        (folder / "helper.py").write_text("import more\n\ndef scale(lr):\n    return more.TIMES * lr\n")
        request = outcome(run.reload, timeout=30)
        assert request.fate.state == "failed" and "No module named 'more'" in request.fate.reason, request.fate

        (job.hosts[1].folder / "more.py").write_text("TIMES = 1\n")  # what is on its way counts, and not what is there
        (folder / "helper.py").write_text("import more\n\ndef scale(lr):\n    return lr * more.TIMES\n")
        assert run.reload(timeout=30).fate.state == "applied"
        run.set("lr", 5.0, timeout=30)
        until(lambda: list(job.hosts[0].steps(1).values())[-1]["lr"] == 15.0, "the other host runs it")
        assert [version.note for version in other.versions] == ["start", "changed on disk", "changed on disk"]
        assert (other.version, run.version) == (3, 3)

        run.reload(to=1, timeout=30)
        until(lambda: list(job.hosts[0].steps(1).values())[-1]["lr"] == 5.0, "the other host has gone back")
        assert other.reload(to=3, timeout=30).fate.state == "applied"
        until(lambda: list(job.hosts[0].steps(0).values())[-1]["lr"] == 15.0, "any host may be asked")
        job.over()


def test_a_host_that_runs_other_files_refuses_for_all(tmp_path: Path, server: Server) -> None:
    code = LOOP.replace("#TOP", "import helper").replace("lr=state.lr", "lr=helper.scale(state.lr)")
    with running(tmp_path, server, (1, 1), code, HELPER + "# {host}\n") as job:
        run = job.at(0)
        job.at(1)
        request = reload(run, "#BODY", "pass", code)
        assert request.fate.state == "refused"
        assert "helper.py is another file here than on the host that was asked" in request.fate.reason
        assert (run.version, len(run.versions)) == (1, 1)
        job.over()


@pytest.mark.parametrize("bad", [True, False] if ALL else [True], ids={False: "good", True: "bad"}.get)
def test_relays_that_are_killed_while_hosts_vote_are_started_again(tmp_path: Path, server: Server, bad: bool) -> None:
    slow = "time.sleep(0.7)" + ("\nif os.environ['RANK'] == '1': 1/0" if bad else "")
    with running(tmp_path, server, (1, 1)) as job:
        run = job.at(0)
        job.at(1)
        for number, victim in enumerate((0, 1), 1):
            run = job.at(0)
            source = LOOP.replace("#TOP", f"{slow}\n# {victim} {time.monotonic()}")
            request = run.reload(source, wait=False)
            until(lambda: request.fate.final or _votes(run, number), "a vote is given")  # noqa: B023
            relay = next(each for each in job.relays() if each.cmdline()[-1] == str(job.homes[victim] / "job"))
            relay.kill()
            request.wait(30)
            assert request.fate.state == ("failed" if bad else "applied"), request.fate
        job.over()


def _votes(run: client.Run, number: int) -> bool:
    """Whether the ranks of a host have said something of the request of this number."""
    with (run.folder / "control").open("rb") as control:
        entry = _core.read_entry(control.fileno(), number)
    return entry is not None and entry["agreed"] != 0


def test_trainings_that_meet_in_every_step_are_reloaded_and_end_alike(tmp_path: Path, server: Server) -> None:
    with running(tmp_path, server, (2, 2), LOCKSTEP) as job:
        for number in range(8):
            run = job.at(number % 2)
            where, code = ("#TOP", "if os.environ['RANK'] == '3': 1/0") if number % 3 == 2 else ("#BODY", "pass")
            request = reload(run, where, f"{code} # {number}" if where == "#BODY" else code, LOCKSTEP)
            assert request.fate.state == ("failed" if number % 3 == 2 else "applied"), request.fate
        job.over()
