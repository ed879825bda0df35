"""For whoever controls a run of several hosts, or is a rank of one: requests go to the host's relay."""

import os
import re
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import spark_fast
from spark_fast.errors import FolderRefusedError
from spark_fast.hosts import state_files
from spark_fast.hosts.messages import Entry, Fate
from spark_fast.hosts.protocol import Times
from spark_fast.hosts.secret import allowed, key_id, protection_of, refusal, remove_key, write_key
from spark_fast.hosts.state_files import HostPlace, read_place
from spark_fast.hosts.store import serve_store, start_relay
from spark_fast.runfiles import run_folder

__all__ = ["ask", "fate", "forget", "patience", "ring", "start", "store_address", "wait"]

_KEEP = 'left=100; while "$@"; [ $? -gt 128 ] && [ $((left -= 1)) -gt 0 ]; do sleep 1; done &'
"""Starts a command again when a signal has ended it, so many times at most: one that always dies is not to go on doing
so when the job is long over."""
_FORGOTTEN = "the run folder no longer holds what became of it: hundreds of requests came after it, or it was removed"
_DEAF = 60.0
"""Seconds without a relay, though one is started each second, after which a sender gives up."""
_LOOK = 0.0003
_LOOK_MOST = 0.05
"""Seconds between two looks at whether the fate is there, ever more."""


class Place(Protocol):
    """Where a rank stands in its job: see spark_fast.worker.lifecycle.launchers."""

    @property
    def rank(self) -> int: ...
    @property
    def world_size(self) -> int: ...
    @property
    def local_rank(self) -> int: ...
    @property
    def local_world_size(self) -> int: ...
    @property
    def generation(self) -> int: ...


def store_address(environ: Mapping[str, str] = os.environ, generation: int = 0) -> str:
    """Where the job's store is: what SPARK_FAST_STORE says, else the store of torch.distributed; empty if none is
    known.

    generation: how often the job was started again. Its runs are other ones then, of which the store may hold the old
        ones' requests.
    """
    start = _start_of(environ, generation)
    if chosen := environ.get("SPARK_FAST_STORE"):
        scheme, _, rest = chosen.partition("://")
        return f"{scheme}://{rest}{'' if '/' in rest else '/spark_fast'}{f'.{start}' if start else ''}"
    host, port = environ.get("MASTER_ADDR"), environ.get("MASTER_PORT")
    if not host or not port or not port.isdecimal():
        return ""
    # An agent's store may serve several jobs, which differ in this.
    job = re.sub(r"[^A-Za-z0-9_.-]", "_", environ.get("TORCHELASTIC_RUN_ID", "job"))
    return f"tcp://{host}:{port}/spark_fast.{job}.{start}"


def _start_of(environ: Mapping[str, str], generation: int) -> int:
    """A number that is the same on all hosts, and another one each time the job is started again.

    Each agent of torchrun counts for itself how often it has started its ranks because one of them failed, so that the
    counts of two hosts may differ. Where the ranks make the store of a start themselves, its port tells the start.
    Where they share the agents' store they meet by that count, here as in torch.distributed.
    """
    shared = environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    port = environ.get("MASTER_PORT", "")
    return int(port) if "TORCHELASTIC_RUN_ID" in environ and not shared and port.isdecimal() else generation


def bound_of(environ: Mapping[str, str] = os.environ) -> float:
    """Seconds that the hosts have to answer a request, as SPARK_FAST_HOSTS_BOUND says."""
    try:
        chosen = float(environ.get("SPARK_FAST_HOSTS_BOUND", ""))
    except ValueError:
        return Times().bound
    return min(max(chosen, 0.1), 600.0)


def times_of(place: HostPlace) -> Times:
    """The times of a job that has this bound."""
    return Times(bound=place.bound, gone=max(Times().gone, 4 * place.bound))


def start(folder: Path, place: Place) -> str:
    """Makes a run one of several hosts: called by its first rank, once it has a control file. Starts the relay, in a
    process of its own, or has the one that is there look at the new place. Some 5 ms; raises OSError.

    Returns why the job's secret is not used, if it can't be; else an empty text.
    """
    before = read_place(folder)
    address = store_address(generation=place.generation)
    protection = protection_of(address, place.world_size)
    found = HostPlace(
        address=address,
        node=before.node if before is not None else f"{run_folder.new_id():016x}",
        name=socket.gethostname(),
        first=place.rank - place.local_rank,
        count=place.local_world_size,
        world_size=place.world_size,
        generation=place.generation,
        bound=bound_of(),
        python=sys.executable,
        path=os.pathsep.join([str(Path(spark_fast.__file__).parent.parent), *_absolute_python_path()]),
        protection=protection.kind,
        key_id=key_id(protection.key),
        unused=protection.unused,
    )
    with state_files.opened(folder, create=True) as fd:  # before the place, which names the key
        # It may be of a start of the job before this one, whose recorded requests are not to count again.
        with suppress(FileNotFoundError):
            os.unlink(state_files.SESSION, dir_fd=fd)
        if protection.key:
            write_key(fd, protection.key)
        else:
            remove_key(fd)
    state_files.write_place(folder, found)
    if place.rank == 0 and found.address.startswith("ray:"):  # the others are there, and take long to import
        serve_store(found.address)
    ring(folder)
    return protection.unused


def _absolute_python_path() -> list[str]:
    """The folders of PYTHONPATH. An empty one stands for the working directory, which a relay does not import from."""
    return [os.path.abspath(each) for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]


def ring(folder: Path) -> bool:
    """Wakes the host's relay, and starts one if there is none. Never waits for it. Whether there was one. Raises
    OSError."""
    if state_files.ring(folder):
        return True
    place = read_place(folder)
    if place is None or not place.address:
        return False
    if "ray" in sys.modules and place.address.startswith("ray:") and start_relay(place.address, folder, place):
        return False
    import subprocess  # rarely needed

    environ = {name: value for name, value in os.environ.items() if not name.startswith("SPARK_FAST_SECRET")} | {
        "PYTHONPATH": place.path,
        "SPARK_FAST": "0",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    # The shell ends at once, so that the relay is nobody's child here, and no training has to wait for its end. What it
    # leaves waits in a megabyte: where memory runs out, the relay is the one that is killed, and nobody on this host
    # would miss it when another host asks for something.
    subprocess.run(
        ["/bin/sh", "-c", _KEEP, "sh", place.python, "-P", "-m", "spark_fast.hosts", str(folder)],
        env=environ,
        cwd=folder,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return False


def patience(folder: Path) -> float:
    """Seconds that a rank waits for what the hosts decide, before it gives up."""
    try:
        place = read_place(folder)
    except OSError:  # for want of a descriptor, say: a rank waits as long as by default
        place = None
    return (times_of(place) if place is not None else Times()).patience


def ask(
    folder: Path,
    kind: int,
    ident: int,
    *,
    arg: int = 0,
    duration: float = 0.0,
    sender: str = "",
    ranks: int = 0,
    mail: str = "",
    letter: dict[str, Any] | None = None,
    only_if: str = "",
) -> str | None:
    """Leaves a request for the relay: from here on fate() tells what became of it. Why it is refused, where that is
    known at once.

    kind, arg, duration, sender, ranks: as Segment.append().
    mail: what it carries, if the log has room for it, else `letter`.
    only_if: it counts only if the pause of this id is in force.

    Raises OSError, FolderRefusedError.
    """
    name = f"{ident:016x}"
    entry = Entry(name, kind, arg, duration, sender, ranks, mail, letter, only_if)
    place = read_place(folder)
    reason = None
    if place is None or not place.address:
        reason = (
            "the job has no store that its hosts could meet in: set SPARK_FAST_STORE, or MASTER_ADDR and MASTER_PORT"
        )
    elif not allowed(kind, place.protection):
        reason = refusal(kind, place.unused)
    if reason is not None:
        with state_files.opened(folder, state_files.FATES, create=True) as fates:
            state_files.write_object(fates, f"{name}.json", asdict(Fate("refused", reason=reason)))
        return reason
    with state_files.opened(folder, state_files.ASK, create=True) as asks:
        state_files.write_object(asks, f"{name}.json", {"entry": asdict(entry), "asked": time.monotonic()})
    ring(folder)
    return None


def fate(folder: Path, ident: int) -> Fate | None:
    """What became of a request in the whole job; None as long as that is open.

    A request that the relay no longer has, and that has no readable fate, is lost.
    """
    open_ = _is_open(folder, ident)  # before the fate is read: the relay writes that first, then removes the request
    try:
        with state_files.opened(folder, state_files.FATES) as fates:
            found = state_files.read_object(fates, f"{ident:016x}.json", folder / state_files.HOSTS / state_files.FATES)
    except (FileNotFoundError, FolderRefusedError):
        found = None
    if found is not None:
        return parsed_fate(found)
    return None if open_ else Fate("lost", reason=_FORGOTTEN)


def _is_open(folder: Path, ident: int) -> bool:
    """Whether the request still waits for the relay, or for what the relay is told of it."""
    try:
        with state_files.opened(folder, state_files.ASK) as asks:
            os.stat(f"{ident:016x}.json", dir_fd=asks, follow_symlinks=False)
    except (FileNotFoundError, FolderRefusedError):
        return False
    return True


def parsed_fate(found: dict[str, Any]) -> Fate:
    """From JSON."""
    try:
        return Fate(**found)
    except TypeError:
        return Fate("lost", reason="what became of it is damaged")


def wait(folder: Path, ident: int, timeout: float | None) -> Fate | None:
    """Waits for the fate, for so many seconds at most; None if it is open still.

    Starts the relay again if it died. If none can be started for a minute, the request is lost.
    """
    end = None if timeout is None else time.monotonic() + timeout
    look, rung = _LOOK, time.monotonic()
    heard = rung
    while (found := fate(folder, ident)) is None:
        now = time.monotonic()
        if end is not None and now >= end:
            return None
        if now - rung > 1.0:
            rung = now
            if ring(folder):
                heard = now
            elif now - heard > _DEAF:
                _give_up(folder, ident)
        time.sleep(look if end is None else min(look, max(end - now, 0.0)))
        look = min(_LOOK_MOST, 1.2 * look)
    return found


def _give_up(folder: Path, ident: int) -> None:
    """Tell all who ask that no relay takes the request."""
    log = folder / state_files.HOSTS / state_files.LOG
    reason = f"no relay could be started on this host in {_DEAF:g} s; {log} may say why"
    with state_files.opened(folder, state_files.FATES, create=True) as fates:
        # A relay that came at the last moment knows better.
        state_files.write_object(fates, f"{ident:016x}.json", asdict(Fate("lost", reason=reason)), replace=False)
    with state_files.opened(folder, state_files.ASK, create=True) as asks, suppress(FileNotFoundError):
        os.unlink(f"{ident:016x}.json", dir_fd=asks)


def forget(folder: Path, ident: int) -> None:
    """Removes the fate of a request that nobody will ask for any more."""
    try:
        with state_files.opened(folder, state_files.FATES) as fates:
            os.unlink(f"{ident:016x}.json", dir_fd=fates)
    except (OSError, FolderRefusedError):
        return
