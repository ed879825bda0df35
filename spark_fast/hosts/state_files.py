"""What a run of several hosts keeps in its run folder, for the host's relay, its ranks and controllers.

hosts/place.json          where the host stands in its job: written by its first rank
hosts/relay.lock          held by the relay while it lives
hosts/bell                a named pipe: a byte in it wakes the relay
hosts/note.json           what a relay leaves for the next one
hosts/appending.json      the request that the relay is about to append to the host's log
hosts/ask/<id>.json       a request that a sender has left
hosts/fates/<id>.json     its fate: what became of it in the whole job
hosts/peers.json          what the other hosts say of their ranks
hosts/watched             touched by controllers that read peers.json
hosts/relay.log           the relay's log
hosts/key                 signs the host's values in the job's store: derived from the job's secret
hosts/session.json        the session that the host is in; `admitted` and `decided.json` belong to it: see session
hosts/unsigned.json       how many values in the store were not signed by a host of the job
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from spark_fast.errors import FolderRefusedError, StoreError
from spark_fast.hosts.secret import NONE
from spark_fast.runfiles import private_files
from spark_fast.runfiles.descriptors import open_own
from spark_fast.runfiles.mailbox import MAIL_MAX

__all__ = ["HOSTS", "HostPlace", "opened", "read_object", "read_place", "read_unsigned", "ring", "write_object"]

HOSTS = "hosts"
PLACE = "place.json"
LOCK = "relay.lock"
BELL = "bell"
NOTE = "note.json"
APPENDING = "appending.json"
ASK = "ask"
FATES = "fates"
PEERS = "peers.json"
WATCHED = "watched"
LOG = "relay.log"
SESSION = "session.json"
UNSIGNED = "unsigned.json"

FILE_MAX = 16 * MAIL_MAX
_PAGE = 4096


@dataclass(frozen=True)
class HostPlace:
    """Where a host stands in its job.

    Attributes:
        address: the address of the job's store, as for open_store(); empty if none is known.
        node: an id of the host, drawn when the folder was made.
        name: the host's name, for people.
        first: the lowest rank of the host.
        count: how many ranks the host has.
        world_size, generation: of the job.
        bound: seconds that the hosts have to answer a request.
        python: the interpreter that can run a relay.
        path: the folders in which that interpreter finds what a relay imports.
        protection: how the hosts protect their values in the store: a kind of secret.Protection.
        key_id: the secret.key_id() of the key that signs them; empty for none.
        unused: why the host does not use the secret that it has; empty if it does, or has none.
    """

    address: str
    node: str
    name: str
    first: int
    count: int
    world_size: int
    generation: int
    bound: float
    python: str
    path: str
    protection: str = NONE
    key_id: str = ""
    unused: str = ""


@contextmanager
def opened(folder: Path, *below: str, create: bool = False) -> Iterator[int]:
    """Open `hosts` in a run folder, or a folder below it, and yield its descriptor: see private_files.opened()."""
    with private_files.opened(folder, HOSTS, *below, create=create) as fd:
        yield fd


def write_object(fd: int, name: str, found: Any, *, replace: bool = True) -> None:
    """Write an object as JSON, all of it or nothing. Raises OSError.

    replace: whether to replace a file that is there.
    """
    private_files.write_whole(fd, name, json.dumps(found, separators=(",", ":")).encode(), replace=replace)


def overwrite_object(fd: int, name: str, found: Any) -> None:
    """Write an object as JSON over a file of the relay's own. Raises OSError.

    A short file is overwritten in place, which takes a tenth of the time. If the relay is killed, it has written all or
    nothing, since the kernel does not leave a write of one page half done.
    """
    content = json.dumps(found, separators=(",", ":")).encode()
    try:
        file = open_own(name, os.O_WRONLY, dir_fd=fd)
    except (FileNotFoundError, FolderRefusedError):  # there is no file, or something else that a new file replaces
        private_files.write_whole(fd, name, content)
        return
    try:
        size = os.fstat(file).st_size
        if 0 < size <= _PAGE and len(content) <= _PAGE:
            content = content.ljust(size)  # blanks behind it, in place of what stood there
            if os.write(file, content) == len(content):
                return
    finally:
        os.close(file)
    private_files.write_whole(fd, name, content)


def read_object(fd: int, name: str, shown: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file; None if the file is not there, or holds none.

    Raises OSError for want of descriptors or memory, which says nothing about the file.
    """
    try:
        found = json.loads(private_files.read_whole(fd, name, FILE_MAX, shown))
    except (FileNotFoundError, StoreError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def write_place(folder: Path, place: HostPlace) -> None:
    """Write where the host stands in its job. Raises OSError, FolderRefusedError."""
    with opened(folder, create=True) as fd:
        write_object(fd, PLACE, asdict(place))


def read_place(folder: Path) -> HostPlace | None:
    """Return where the host stands in its job; None if this is no run of several hosts."""
    try:
        with opened(folder) as fd:
            found = read_object(fd, PLACE, folder / HOSTS) or {}
    except (FileNotFoundError, FolderRefusedError):
        return None
    try:
        place = HostPlace(**{field.name: found[field.name] for field in fields(HostPlace) if field.name in found})
    except TypeError:
        return None
    numbers = (place.first, place.count, place.world_size, place.generation)
    texts = (place.protection, place.key_id, place.unused)
    fine = all(isinstance(number, int) for number in numbers) and all(isinstance(text, str) for text in texts)
    return place if fine else None


def read_unsigned(folder: Path) -> int:
    """Return how many values in the job's store this host's relay has refused, since no host had signed them."""
    try:
        with opened(folder) as fd:
            found = read_object(fd, UNSIGNED, folder / HOSTS) or {}
    except (OSError, FolderRefusedError):
        return 0
    count = found.get("count")
    return count if isinstance(count, int) else 0


def touch_watched(folder: Path) -> bool:
    """Record that a controller looks at the whole job for the next three seconds. Return whether none did before."""
    with opened(folder, create=True) as fd:
        before = watched(fd)
        file = open_own(WATCHED, os.O_WRONLY | os.O_CREAT, dir_fd=fd, shown=folder / HOSTS / WATCHED)
        os.utime(file)
        os.close(file)
    return not before


def watched(fd: int) -> bool:
    """Return whether a controller has looked at the whole job in the last three seconds."""
    try:
        changed = os.stat(WATCHED, dir_fd=fd, follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return False
    return -1.0 < time.time() - changed < 3.0


def ring(folder: Path) -> bool:
    """Wake the relay. Return whether there is one that hears the bell."""
    try:
        with opened(folder) as fd:
            bell = open_own(BELL, os.O_WRONLY, dir_fd=fd, shown=folder / HOSTS / BELL, pipe=True)
    except (OSError, FolderRefusedError):  # there is no bell, or ENXIO: no relay has it open to read
        return False
    try:
        with suppress(BlockingIOError):  # the pipe is full: the relay will wake
            os.write(bell, b".")
    except BrokenPipeError:
        return False
    finally:
        os.close(bell)
    return True
