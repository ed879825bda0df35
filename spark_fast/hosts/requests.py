"""What controllers and ranks call in a run of several hosts: start the host's relay, leave it requests, read fates.

The fate of a request is what became of it in the whole job.
"""

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
"""Starts a command again when a signal has ended it. It gives up after 100 starts: otherwise a command that always dies
would be started on and on, long after the job has ended."""
_FORGOTTEN = "the run folder no longer holds what became of it: hundreds of requests came after it, or it was removed"
_DEAF = 60.0
"""Seconds without a relay, although one is started each second, after which a sender gives up."""
_LOOK = 0.0003
_LOOK_MOST = 0.05
"""Seconds between two checks for the fate: at first _LOOK, then longer each time, up to _LOOK_MOST."""


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
    """Return the address of the job's store: SPARK_FAST_STORE, else that of torch.distributed; empty if none is known.

    generation: how often the job was started again. Each start has an address of its own, because the store may still
        hold the requests of the start before.
    """
    start = _start_of(environ, generation)
    if chosen := environ.get("SPARK_FAST_STORE"):
        scheme, _, rest = chosen.partition("://")
        return f"{scheme}://{rest}{'' if '/' in rest else '/spark_fast'}{f'.{start}' if start else ''}"
    host, port = environ.get("MASTER_ADDR"), environ.get("MASTER_PORT")
    if not host or not port or not port.isdecimal():
        return ""
    # An agent's store may serve several jobs, each with an id of its own.
    job = re.sub(r"[^A-Za-z0-9_.-]", "_", environ.get("TORCHELASTIC_RUN_ID", "job"))
    return f"tcp://{host}:{port}/spark_fast.{job}.{start}"


def _start_of(environ: Mapping[str, str], generation: int) -> int:
    """Return a number that is the same on all hosts, and differs each time the job is started again.

    Each agent of torchrun counts for itself how often it has restarted its ranks after one of them failed, so the
    counts of two hosts may differ. If the ranks make a store for each start, its port identifies the start. If they
    share the agents' store, they meet by the count, as they do in torch.distributed.
    """
    shared = environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    port = environ.get("MASTER_PORT", "")
    return int(port) if "TORCHELASTIC_RUN_ID" in environ and not shared and port.isdecimal() else generation


def bound_of(environ: Mapping[str, str] = os.environ) -> float:
    """Return the seconds that the hosts have to answer a request: SPARK_FAST_HOSTS_BOUND, else the default."""
    try:
        chosen = float(environ.get("SPARK_FAST_HOSTS_BOUND", ""))
    except ValueError:
        return Times().bound
    return min(max(chosen, 0.1), 600.0)


def times_of(place: HostPlace) -> Times:
    """Return the times of a job with the bound of this place."""
    return Times(bound=place.bound, gone=max(Times().gone, 4 * place.bound))


def start(folder: Path, place: Place) -> str:
    """Make a run one of several hosts. Its first rank calls this on each host, once there is a control file.

    Starts the relay in a process of its own, or has the running one read the new place. Takes some 5 ms. Return
    why the job's secret can't be used, if there is one that can't; else an empty text. Raises OSError.
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
        # It may be of an earlier start of the job, whose recorded requests must not count again.
        with suppress(FileNotFoundError):
            os.unlink(state_files.SESSION, dir_fd=fd)
        if protection.key:
            write_key(fd, protection.key)
        else:
            remove_key(fd)
    state_files.write_place(folder, found)
    if place.rank == 0 and found.address.startswith("ray:"):  # other stores exist already, and take long to import
        serve_store(found.address)
    ring(folder)
    return protection.unused


def _absolute_python_path() -> list[str]:
    """Return the folders of PYTHONPATH but for the working directory, from which a relay imports nothing."""
    return [os.path.abspath(each) for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]


def ring(folder: Path) -> bool:
    """Wake the host's relay, or start one if there is none. Return whether there was one.

    Never waits for the relay. Raises OSError.
    """
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
    # The shell ends at once, so the relay is not a child of this process, and no training has to wait for its end. The
    # shell leaves a process of 1 MB that starts the relay again. When memory runs out, the relay is killed first, and
    # without that process nobody on this host would notice when another host asks for something.
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
    """Return the seconds that a rank waits for the hosts' decision, before it gives up."""
    try:
        place = read_place(folder)
    except OSError:  # for example, no descriptor is left: use the default
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
    """Leave a request for the relay; fate() then tells what became of it. Return the reason if it is refused at once.

    kind, arg, duration, sender, ranks: as for Segment.append().
    mail: what the request carries, if the log has room for it; else `letter` has it.
    only_if: the id of a pause: the request counts only while that pause is in force.

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
    """Return what became of a request in the whole job; None while that is open.

    A request that the relay no longer has, and that has no readable fate, is lost.
    """
    open_ = _is_open(folder, ident)  # read before the fate: the relay writes the fate, then removes the request
    try:
        with state_files.opened(folder, state_files.FATES) as fates:
            found = state_files.read_object(fates, f"{ident:016x}.json", folder / state_files.HOSTS / state_files.FATES)
    except (FileNotFoundError, FolderRefusedError):
        found = None
    if found is not None:
        return parsed_fate(found)
    return None if open_ else Fate("lost", reason=_FORGOTTEN)


def _is_open(folder: Path, ident: int) -> bool:
    """Return whether the relay has still to send the request, or to hear its outcomes."""
    try:
        with state_files.opened(folder, state_files.ASK) as asks:
            os.stat(f"{ident:016x}.json", dir_fd=asks, follow_symlinks=False)
    except (FileNotFoundError, FolderRefusedError):
        return False
    return True


def parsed_fate(found: dict[str, Any]) -> Fate:
    """Return the fate that was read from JSON; a lost one if its fields make no sense."""
    try:
        return Fate(**found)
    except TypeError:
        return Fate("lost", reason="what became of it is damaged")


def wait(folder: Path, ident: int, timeout: float | None) -> Fate | None:
    """Wait for the fate, for `timeout` seconds at most. Return None if it is still open then.

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
    """Publish that the request is lost, because no relay takes it."""
    log = folder / state_files.HOSTS / state_files.LOG
    reason = f"no relay could be started on this host in {_DEAF:g} s; {log} may say why"
    with state_files.opened(folder, state_files.FATES, create=True) as fates:
        # A relay that came at the last moment knows better.
        state_files.write_object(fates, f"{ident:016x}.json", asdict(Fate("lost", reason=reason)), replace=False)
    with state_files.opened(folder, state_files.ASK, create=True) as asks, suppress(FileNotFoundError):
        os.unlink(f"{ident:016x}.json", dir_fd=asks)


def forget(folder: Path, ident: int) -> None:
    """Remove the fate of a request, for which nobody will ask again."""
    try:
        with state_files.opened(folder, state_files.FATES) as fates:
            os.unlink(f"{ident:016x}.json", dir_fd=fates)
    except (OSError, FolderRefusedError):
        return
