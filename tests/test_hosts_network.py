"""Hosts with a network between them: namespaces, links that are cut and healed, and torchrun."""

import random
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from spark_fast import hosts
from spark_fast.request import Kind
from tests.hosts_real import Host, Server, parked_together
from tests.netns import Network, network
from tests.support import until


@contextmanager
def job(folder: Path, count: int) -> Iterator[tuple[Network, list[Host]]]:
    """A job of so many hosts; its store is on the first one."""
    with network(count) as net:
        server = Server(net.address(0), net.prefix(0))
        found: list[Host] = []
        try:
            for number in range(count):
                found.append(Host(folder / f"host{number}", number, count, server.address, prefix=net.prefix(number)))
            for host in found:
                until(host.joined, f"host {host.rank} takes its place: {host.said()}", 60.0)
            yield net, found
        finally:
            for host in found:
                host.end()
            server.kill()


def test_a_host_that_is_cut_off_is_named_in_time_the_others_go_on_and_it_comes_back(tmp_path: Path) -> None:
    with job(tmp_path, 3) as (net, found):
        assert found[2].ask(Kind.PAUSE).state == "applied"
        parked_together(found)
        assert found[1].ask(Kind.RESUME).state == "applied"

        net.cut(2)
        began = time.monotonic()
        fate = found[0].ask(Kind.PAUSE)
        assert (fate.state, fate.reason) == ("refused", "host host2 (ranks 2) did not answer in 2 s")
        assert time.monotonic() - began < 10.0
        began = time.monotonic()
        fate = found[2].ask(Kind.PAUSE)
        assert fate.state == "refused" and "store" in fate.reason
        assert time.monotonic() - began < 20.0
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
    with job(tmp_path, 3) as (net, found):
        fates = {}
        end = time.monotonic() + 40.0
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
"""


def test_torchrun_on_two_hosts_pauses_sets_and_stops_at_one_step(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(TORCH))
    with network(2) as net:
        agents = []
        homes = [tmp_path / f"home{number}" for number in range(2)]
        try:
            for number in range(2):
                command = [
                    *net.prefix(number), "env", f"SPARK_FAST_HOME={homes[number]}", "GLOO_SOCKET_IFNAME=eth0",
                    "OMP_NUM_THREADS=1", "SPARK_FAST_HOSTS_BOUND=20", sys.executable, "-m", "torch.distributed.run",
                    "--nnodes=2", "--nproc-per-node=2", f"--node-rank={number}", f"--master-addr={net.address(0)}",
                    "--master-port=29517", str(script), str(tmp_path),
                ]  # fmt: skip
                with (tmp_path / f"agent{number}").open("wb") as log:
                    agents.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))

            def said() -> str:
                return "".join((tmp_path / f"agent{number}").read_text() for number in range(2))

            def names() -> list[list[str]]:
                for agent in agents:
                    assert agent.poll() is None, said()
                return [sorted(path.name for path in home.glob("[a-z]*")) for home in homes]

            until(lambda: all(names()), "both hosts have their run", 90.0)
            assert names()[0] == names()[1], "a job has one name on all hosts"
            runs = [home / name for home, (name, *_) in zip(homes, names(), strict=True)]
            until(lambda: all((run / "hosts" / "note.json").exists() for run in runs), "both have joined", 90.0)

            def ask(run: Path, kind: Kind, mail: str = "") -> int:
                ident = time.monotonic_ns()
                hosts.ask(run, kind, ident, mail=mail)
                fate = hosts.wait(run, ident, 60.0)
                assert fate is not None and fate.state == "applied", (fate, said())
                return fate.step or 0

            source = random.Random(2)
            for number in range(12):
                step = ask(runs[number % 2], Kind.PAUSE)
                assert ask(runs[0], Kind.SET, f'{{"name":"lr","value":{source.random()}}}') == step
                ask(runs[number % 2], Kind.RESUME)
                time.sleep(source.random() * 0.05)
                ask(runs[1], Kind.SET, f'{{"name":"lr","value":{source.random()}}}')
            ask(runs[1], Kind.STOP)
            for agent in agents:
                assert agent.wait(60) == 0, said()
        finally:
            for agent in agents:
                with suppress(psutil.NoSuchProcess):
                    for child in psutil.Process(agent.pid).children(recursive=True):
                        with suppress(psutil.NoSuchProcess):
                            child.kill()
                agent.kill()
                agent.wait()
    ends = [(tmp_path / f"rank{rank}").read_text() for rank in range(4)]
    assert len(set(ends)) == 1, "all ranks stop at one step, with the same weights"
