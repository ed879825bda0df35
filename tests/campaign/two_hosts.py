"""A job of two hosts on one machine under random requests, with relays, workers and the store as victims."""

import os
import random
import time
from contextlib import suppress
from pathlib import Path

import psutil

from spark_fast import client
from tests.campaign import checks, faults
from tests.campaign.senders import PATIENCE, Sender, answers_of
from tests.campaign.tally import Tally
from tests.support import hosts_real
from tests.support.child import until

__all__ = ["TwoHosts"]

_FAULTS = {"kill sender": 2, "kill relay": 1, "suspend relay": 1, "suspend worker": 2, "none": 14}
_ENDS = {"stop": 4, "kill store": 2, "kill host": 2, "junk": 2}
_SENDERS = 3
_KINDS = ("set", "resume", "pause", "advance")


class TwoHosts:
    """One job, from its start to the checks after its end.

    wrong: what does not hold, a line each.
    """

    def __init__(self, folder: Path, seed: int, tally: Tally) -> None:
        self.folder, self.tally = folder, tally
        self.chance = random.Random(seed)
        self.wrong: list[str] = []
        self._senders: list[Sender] = []
        self._made = 0
        self._suspended = faults.Suspended()

    def live(self, seconds: float) -> None:
        """Start the job, attack it for so many seconds, end it, and check what must hold."""
        os.environ["XDG_STATE_HOME"] = str(self.folder / "state")
        # The hosts of a job share a secret; without one they set no values together.
        secret = {"SPARK_FAST_SECRET": f"{self.chance.getrandbits(256):064x}"}
        with hosts_real.store() as server, hosts_real.job(self.folder, 2, server.address, **secret) as hosts:
            os.environ.update(secret)
            try:
                self._attack(hosts, seconds)
                [end] = self.chance.choices(list(_ENDS), list(_ENDS.values()))
                self._end(end, hosts, server)
                self._check(hosts)
            finally:
                del os.environ["SPARK_FAST_SECRET"]

    def _attack(self, hosts: list[hosts_real.Host], seconds: float) -> None:
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                while len(self._senders) < _SENDERS:
                    self._send(hosts)
                [name] = self.chance.choices(list(_FAULTS), list(_FAULTS.values()))
                host = self.chance.choice(hosts)
                relay = host.relay() if "relay" in name else None
                if name == "kill sender":
                    self._senders.pop(self.chance.randrange(_SENDERS)).kill()
                    self._count("kill", "controllers")
                elif name == "suspend worker":
                    self._suspended.suspend(host.process.pid, self.chance.random())
                    self._count("fault", "rank suspended")
                elif relay is not None and name == "kill relay":
                    with suppress(psutil.NoSuchProcess):
                        relay.kill()
                        self._count("kill", "relays")
                elif relay is not None:
                    self._suspended.suspend(relay.pid, self.chance.random())
                    self._count("fault", "relay suspended")
                time.sleep(self.chance.random() * 0.6)
                self._suspended.wake()
        finally:
            self._suspended.wake(all_of_them=True)
            for sender in self._senders:
                sender.kill()
            self._senders.clear()

    def _send(self, hosts: list[hosts_real.Host]) -> None:
        self._made += 1
        path, home = self.folder / f"sender{self._made}.jsonl", str(self.chance.choice(hosts).home)
        seed = self.chance.getrandbits(32)
        self._senders.append(Sender(path, "job", self._made, seed, "api", home=home, only=_KINDS))

    # --- the end ---

    def _end(self, end: str, hosts: list[hosts_real.Host], server: hosts_real.Server) -> None:
        self._settle(hosts)
        if self.wrong:
            return
        if end == "kill store":
            server.kill()
            self._count("kill", "stores")
            self._go_on(hosts, "after the store is gone")
        elif end == "kill host":
            hosts[1].end()
            self._count("kill", "hosts")
            self._go_on(hosts[:1], "after the other host is gone")
        elif end == "junk":
            self._junk(server)
            self._go_on(hosts, "after junk in the store")
        else:
            self._ask(hosts[0], "pause")
            if not self.wrong:
                hosts_real.parked_together(hosts)
            self._ask(hosts[1], "resume")
            self._ask(hosts[0], "stop")
            _, alive = psutil.wait_procs([psutil.Process(host.process.pid) for host in hosts], timeout=PATIENCE)
            self._is("processes end after a stop", [f"process {process.pid} has not ended" for process in alive])

    def _settle(self, hosts: list[hosts_real.Host]) -> None:
        """Have all hosts go on. What killed senders have left at a host is done before what is asked there later."""
        end = time.monotonic() + PATIENCE
        while not self.wrong:
            for host in hosts:
                self._ask(host, "resume")
            before = [host.step for host in hosts]
            soon = time.monotonic() + 2.0
            while time.monotonic() < soon:
                if all(host.step > old + 20 for host, old in zip(hosts, before, strict=True)):
                    return
                time.sleep(0.02)
            if time.monotonic() > end:
                self._is("hosts go on after a resume", [f"they stand at {before}: {[host.slot() for host in hosts]}"])

    def _ask(self, host: hosts_real.Host, kind: str) -> None:
        """Ask as the only controller. A relay that was killed comes back meanwhile, so that a void is asked again."""
        os.environ["SPARK_FAST_HOME"] = str(host.home)
        wrong = []
        try:
            run = client.attach("job", exact=True)
            end = time.monotonic() + PATIENCE
            while True:
                fate = getattr(run, kind)(wait=False).wait(PATIENCE)
                if fate.state not in ("void", "refused") or time.monotonic() > end:
                    break
            if fate.state != "applied":
                wrong.append(f"hosts that are left alone answer {kind} with: {fate}")
        except client.SparkError as error:
            wrong.append(f"hosts that are left alone answer {kind} with {type(error).__name__}: {error}: {host.said()}")
        self._is("hosts that are left alone obey", wrong)

    def _junk(self, server: hosts_real.Server) -> None:
        """Overwrite values in the store, as anybody may who reaches it."""
        from datetime import timedelta

        from torch.distributed import TCPStore

        store = TCPStore("127.0.0.1", server.port, None, False, timedelta(seconds=10), wait_for_workers=False)
        keys = sorted(store.list_keys())
        for _ in range(40):
            content = self.chance.choice([b"", b"{}", b"null", b"[" * 2000, b"yes", self.chance.randbytes(30)])
            store.set(self.chance.choice(keys), content)
            self._count("input", "store")

    def _go_on(self, hosts: list[hosts_real.Host], what: str) -> None:
        before = [host.step for host in hosts]
        wrong = []
        try:
            until(lambda: all(host.step > old + 5 for host, old in zip(hosts, before, strict=True)), "", PATIENCE)
        except AssertionError:
            wrong.append(f"a rank stands still {what}: {before}, {[host.slot() for host in hosts]}")
        self._is("the loop goes on without the other hosts", wrong)

    # --- the checks ---

    def _check(self, hosts: list[hosts_real.Host]) -> None:
        answers = list(answers_of(self.folder))
        for answer in answers:
            self._count("request", "hosts")
            self._count("answer", answer.short)
        outs = {host.rank: [line for what in ("set", "stopped") for line in host.lines(what)] for host in hosts}
        self._is("no request hangs, no client crashes", checks.crashes(answers))
        self._is("all hosts agree at each step", checks.values_of(outs, answers))
        said = "".join(host.said() for host in hosts)
        self._is("no process crashes", [said[-3000:]] if "Fatal Python error" in said else [])

    def _is(self, what: str, wrong: list[str]) -> None:
        self.wrong += [f"{what}: {each}" for each in wrong]
        self.tally.counts[f"check: {what}"] += not wrong

    def _count(self, group: str, name: str, number: int = 1) -> None:
        self.tally.counts[f"{group}: {name}"] += number
