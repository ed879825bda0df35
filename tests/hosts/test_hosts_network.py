"""Hosts with a network between them: namespaces, links that are cut and healed, and torchrun."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from spark_fast import client, hosts
from spark_fast.hosts.messages import Fate
from spark_fast.request import Kind
from tests.support.child import ALL, until
from tests.support.hosts_real import SECRET, Host, Server, parked_together
from tests.support.netns import Network, network

pytestmark = [pytest.mark.hosts, pytest.mark.tier("all")]  # needs root and iproute2


@contextmanager
def job(folder: Path, count: int, bound: int) -> Iterator[tuple[Network, list[Host]]]:
    """A job of so many hosts, which have `bound` seconds to answer; its store is on the first one."""
    with network(count) as net:
        server = Server(net.address(0), net.prefix(0))
        found: list[Host] = []
        try:
            for number in range(count):
                prefix, env = net.prefix(number), {"SPARK_FAST_HOSTS_BOUND": str(bound)}
                found.append(Host(folder / f"host{number}", number, count, server.address, prefix=prefix, **env))
            for host in found:
                until(host.joined, f"host {host.rank} takes its place: {host.said()}", 60.0)
            yield net, found
        finally:
            for host in found:
                host.end()
            server.kill()


def test_a_host_that_is_cut_off_is_named_in_time_the_others_go_on_and_it_comes_back(tmp_path: Path) -> None:
    with job(tmp_path, 3, bound=6) as (net, found):
        assert found[2].ask(Kind.PAUSE).state == "applied"
        parked_together(found)
        assert found[1].ask(Kind.RESUME).state == "applied"

        net.cut(2)
        fate = found[0].ask(Kind.PAUSE)
        assert (fate.state, fate.reason) == ("refused", "host host2 (ranks 2) did not answer in 6 s")
        fate = found[2].ask(Kind.PAUSE)
        assert fate.state == "refused" and "store" in fate.reason
        steps = [host.step for host in found]
        until(lambda: all(host.step > step for host, step in zip(found, steps, strict=True)), "all go on")
        assert all(len(host.lines("paused")) == 1 for host in found)

        net.heal(2)

        def again() -> bool:
            fate = found[2].ask(Kind.PAUSE)
            return fate.state == "applied"

        until(again, "the host takes part again", 60.0)
        parked_together(found)


def test_links_that_come_and_go_never_have_two_hosts_act_at_different_steps(tmp_path: Path) -> None:
    source = random.Random(1)
    with job(tmp_path, 3, bound=2) as (net, found):
        fates = {}
        end = time.monotonic() + (25.0 if ALL else 12.0)
        cut: int | None = None
        number = 0
        while time.monotonic() < end:
            number += 1
            host = found[source.choice((0, 2))]
            ident = host.leave(Kind.SET, mail=f'{{"name":"lr","value":{number}}}')
            time.sleep(source.choice((0.0, 0.002, 0.005, 0.01, 0.02)))
            if cut is None:
                cut = source.choice((1, 2))
                net.cut(cut)
            elif source.random() < 0.7:
                net.heal(cut)
                cut = None
            fate = hosts.wait(host.run, ident, 60.0)
            assert fate is not None, host.said()
            fates[float(number)] = fate.state
        if cut is not None:
            net.heal(cut)

        def together() -> bool:
            nonlocal number
            number += 1
            fate = found[0].ask(Kind.SET, mail=f'{{"name":"lr","value":{number}}}')
            fates[float(number)] = fate.state
            return fate.state == "applied"

        until(together, "all take part again", 60.0)
        until(lambda: all(float(host.lines("set")[-1][2]) == number for host in found), "all were set")
        did: dict[float, set[tuple[int, str]]] = {}
        for host in found:
            for _, step, value in host.lines("set"):
                did.setdefault(float(value), set()).add((host.rank, step))
        for value, acted in did.items():
            assert len({step for _, step in acted}) == 1, f"{value} was set at different steps: {acted}"
        for value, state in fates.items():
            if state == "applied":
                assert len(did[value]) == 3, f"{value} is applied, and only {did[value]} did it"
            if state == "refused":
                assert value not in did, f"{value} is refused, and {did[value]} did it"
        assert "applied" in fates.values() and {"refused", "failed", "lost"} & set(fates.values()), fates


TORCH = """
import sys
import torch
import torch.distributed as dist
import spark_fast as spark

dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
weights = torch.zeros(8)
state = spark.expose(lr=1.0)
step = 0
try:
    while True:
        spark.checkpoint()
        grad = torch.rand(8) + rank
        dist.all_reduce(grad)
        weights += state.lr * grad
        step += 1
except spark.SparkStopError as error:
    with open(f"{sys.argv[1]}/rank{rank}", "w") as file:
        print(error.step, step, weights.tolist(), file=file)
dist.barrier()
dist.destroy_process_group()  # else its threads may end the process, or keep it
"""


class Agents:
    """torchrun on two hosts, two ranks on each, in network namespaces; all processes are ended with the block.

    options: of torchrun, with {number} for the host, {first} and {own} for addresses, {host} for whether it is first.
    """

    def __init__(self, folder: Path, net: Network, *options: str) -> None:
        self.folder = folder
        self._homes = [folder / f"home{number}" for number in range(2)]
        self._agents: list[subprocess.Popen[bytes]] = []
        script = folder / "train.py"
        script.write_text(textwrap.dedent(TORCH))
        for number, home in enumerate(self._homes):
            about = {"number": number, "first": net.address(0), "own": net.address(number), "host": not number}
            command = [
                *net.prefix(number), "env", f"SPARK_FAST_HOME={home}", "GLOO_SOCKET_IFNAME=eth0", "OMP_NUM_THREADS=1",
                # The store that torchrun shares with its workers still holds where the dead ones listened.
                f"SPARK_FAST_SECRET={SECRET}", "SPARK_FAST_HOSTS_BOUND=20", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1",
                sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=2",
                *(option.format(**about) for option in options), str(script), str(folder),
            ]  # fmt: skip
            with (folder / f"agent{number}").open("wb") as log:
                self._agents.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))

    def __enter__(self) -> "Agents":
        return self

    def __exit__(self, *_: object) -> None:
        for agent in self._agents:
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(agent.pid).children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        child.kill()
            agent.kill()
            agent.wait()

    def said(self) -> str:
        return "".join((self.folder / f"agent{number}").read_text() for number in range(2))

    def runs(self) -> list[Path]:
        """The run folder of each host, once both have joined."""

        def names() -> list[list[str]]:
            for agent in self._agents:
                assert agent.poll() is None, self.said()
            return [sorted(path.name for path in home.glob("[a-z]*")) for home in self._homes]

        until(lambda: all(names()), "both hosts have their run", 90.0)
        assert names()[0] == names()[1], "a job has one name on all hosts"
        runs = [home / name for home, (name, *_) in zip(self._homes, names(), strict=True)]
        until(lambda: all((run / "hosts" / "note.json").exists() for run in runs), "both have joined", 90.0)
        return runs

    def fate(self, run: Path, kind: Kind, mail: str = "") -> Fate:
        """Asks, and waits; what became of it."""
        ident = time.monotonic_ns()
        hosts.ask(run, kind, ident, mail=mail)
        fate = hosts.wait(run, ident, 60.0)
        assert fate is not None, self.said()
        return fate

    def ask(self, run: Path, kind: Kind, mail: str = "") -> int:
        """Asks, and waits; the step at which it was done."""
        fate = self.fate(run, kind, mail)
        assert fate.state == "applied", (fate, self.said())
        return fate.step or 0

    def steer(self, runs: list[Path], rounds: int) -> None:
        source = random.Random(2)
        for number in range(rounds):
            step = self.ask(runs[number % 2], Kind.PAUSE)
            assert self.ask(runs[0], Kind.SET, f'{{"name":"lr","value":{source.random()}}}') == step
            self.ask(runs[number % 2], Kind.RESUME)
            time.sleep(source.random() * 0.05)
            self.ask(runs[1], Kind.SET, f'{{"name":"lr","value":{source.random()}}}')

    def stopped(self, run: Path) -> None:
        """Stops it, and asserts that all ranks have ended at one step, with the same weights."""
        self.ask(run, Kind.STOP)
        for agent in self._agents:
            assert agent.wait(60) == 0, self.said()
        assert len({(self.folder / f"rank{rank}").read_text() for rank in range(4)}) == 1


def test_torchrun_on_two_hosts_pauses_sets_and_stops_at_one_step(tmp_path: Path) -> None:
    options = ("--node-rank={number}", "--master-addr={first}", "--master-port=29517")
    with network(2) as net, Agents(tmp_path, net, *options) as job:
        runs = job.runs()
        job.steer(runs, 12)
        job.stopped(runs[1])


@pytest.mark.timeout(300)
def test_two_hosts_that_torchrun_starts_again_are_one_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ranks(run: Path) -> list[client.Rank]:
        monkeypatch.setenv("SPARK_FAST_HOME", str(run.parent))
        try:
            return [rank for rank in client.attach(run.name).ranks if rank.pid]
        except client.NoSuchRunError:  # between the old start and the new
            return []

    options = (
        "--rdzv-backend=c10d", "--rdzv-endpoint={first}:29518", "--rdzv-conf=is_host={host}", "--local-addr={own}",
        "--rdzv-id=job", "--max-restarts=1",
    )  # fmt: skip
    with network(2) as net, Agents(tmp_path, net, *options) as job:
        runs = job.runs()
        job.ask(runs[0], Kind.PAUSE)  # what was asked of the dead is not asked of the new ones
        before = {rank.pid for run in runs for rank in ranks(run)}
        os.kill(max(before), signal.SIGKILL)

        def again() -> bool:
            now = [rank for run in job.runs() for rank in ranks(run)]
            return len(now) >= 4 and all(rank.status.live and rank.pid not in before for rank in now)

        until(again, "new ranks", 120.0)
        until(lambda: job.fate(runs[0], Kind.RESUME).state in ("applied", "nothing"), "the new relays have met", 60.0)
        job.steer(runs, 3)
        job.stopped(runs[1])
