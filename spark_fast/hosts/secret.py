"""The secret that the hosts of a job share, and what they do without one.

With a secret, hosts sign the values that they put into the job's store (see `authentic`). Without one, any user who
reaches the store can write what the hosts act on. So hosts without a secret only pause, resume, advance and stop,
unless the user trusts the network.
"""

import hashlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from spark_fast.errors import FolderRefusedError, StoreError
from spark_fast.request import Kind
from spark_fast.runfiles import private_files
from spark_fast.runfiles.descriptors import open_file, open_own
from spark_fast.runfiles.safe_paths import make_folders

__all__ = [
    "NONE",
    "REMEDY",
    "SIGNED",
    "TRUSTED",
    "Protection",
    "SecretRefusedError",
    "allowed",
    "find",
    "frame",
    "key_id",
    "make_file",
    "path_of",
    "protection_of",
    "read_file",
    "read_key",
    "refusal",
    "remove_key",
    "tag",
    "write_key",
]

NONE, SIGNED, TRUSTED = "none", "signed", "trusted"
"""How the hosts of a job protect their values in the store: not at all; by a secret; not at all, because the user
trusts
everyone who reaches the store."""

_SAFE = (Kind.PAUSE, Kind.RESUME, Kind.ADVANCE, Kind.STOP)
"""The requests that hosts act on without protection: these run no code, and change no value."""

_SHORTEST = 16
"""The fewest bytes of a secret: a shorter one can be guessed."""
_LONGEST = 4096

REMEDY = (
    "give the hosts a secret: run `spark-fast secret` once, where all hosts share your home folder, or set "
    "SPARK_FAST_SECRET on each, and start the job again; or set SPARK_FAST_TRUST_NETWORK=1 if you trust everyone who "
    "reaches the job's store"
)


class SecretRefusedError(Exception):
    """There is a secret, but it can't be used. The message says why, and what to do."""


@dataclass(frozen=True)
class Protection:
    """How this host protects its values in the store.

    Attributes:
        kind: NONE, SIGNED or TRUSTED.
        key: the key of this start of the job, derived from the secret; empty without a secret.
        unused: why the host does not use the secret that it has; empty if it does, or has none.
    """

    kind: str = NONE
    key: bytes = b""
    unused: str = ""


# --- authentication codes ---


def frame(*fields: str | bytes) -> bytes:
    """Return the fields as bytes, each after its length, so that no two lists of fields give the same bytes."""
    found = []
    for field in fields:
        raw = field.encode() if isinstance(field, str) else field
        found += [len(raw).to_bytes(8, "big"), raw]
    return b"".join(found)


def tag(key: bytes, purpose: str, *fields: str | bytes) -> bytes:
    """Return the HMAC-SHA-256 of the fields. A code for one purpose is not valid for another."""
    return hmac.digest(key, frame("spark_fast", purpose, *fields), hashlib.sha256)


# --- where the secret comes from ---


def path_of(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the path of the file that holds the secret, whether or not it is there."""
    if chosen := environ.get("SPARK_FAST_SECRET_FILE"):
        return Path(chosen)
    config = environ.get("XDG_CONFIG_HOME")
    return (Path(config) if config else Path.home() / ".config") / "spark-fast" / "secret"


def find(environ: Mapping[str, str] = os.environ) -> bytes | None:
    """Return the secret; None if there is none.

    The secret is the value of SPARK_FAST_SECRET, or stands in the file of path_of(). Raises SecretRefusedError.
    """
    if given := environ.get("SPARK_FAST_SECRET"):
        return _checked(given.encode(errors="surrogateescape"), "SPARK_FAST_SECRET")
    try:
        path = path_of(environ)
    except RuntimeError:  # the user has no home folder
        return None
    try:
        return read_file(path)
    except FileNotFoundError:
        if environ.get("SPARK_FAST_SECRET_FILE"):
            raise SecretRefusedError(f"SPARK_FAST_SECRET_FILE names {path}, which is not there") from None
        return None


def read_file(path: Path) -> bytes:
    """Return the secret in a file that only its owner can read. Raises FileNotFoundError, SecretRefusedError."""
    try:
        fd = open_own(path, os.O_RDONLY)
    except FileNotFoundError:
        raise
    except FolderRefusedError as error:
        raise SecretRefusedError(f"{path} is not used: {error.found}, {error.expected}") from None
    except OSError as error:
        raise SecretRefusedError(f"{path} can't be opened: {os.strerror(error.errno or 0)}") from None
    try:
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        if mode & 0o077:
            raise SecretRefusedError(f"{path} has mode {mode:04o}, so others can use it: make a new secret")
        with open(fd, "rb", closefd=False) as file:
            return _checked(file.read(_LONGEST + 1), str(path))
    except OSError as error:
        raise SecretRefusedError(f"{path} can't be read: {error.strerror}") from None
    finally:
        os.close(fd)


def _checked(found: bytes, where: str) -> bytes:
    found = found.strip()
    if not _SHORTEST <= len(found) <= _LONGEST:
        raise SecretRefusedError(f"{where} holds {len(found)} bytes: a secret has {_SHORTEST} to {_LONGEST}")
    return found


def make_file(path: Path) -> bool:
    """Make a file with a new secret, unless the file is there. Return whether it was made.

    Missing folders on the way are made for their owner alone. Raises OSError, SecretRefusedError.
    """
    make_folders(path.parent)
    folder_fd = open_file(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        content = f"{secrets.token_hex(32)}\n".encode()
        made = private_files.write_whole(folder_fd, path.name, content, replace=False)
    finally:
        os.close(folder_fd)
    read_file(path)
    return made


# --- what a host does with it ---


def protection_of(address: str, world_size: int, environ: Mapping[str, str] = os.environ) -> Protection:
    """Return how this host protects its values in one start of a job. Reads at most one file.

    address: the address of the job's store, which differs for each start of the job: see requests.store_address().
    world_size: the world size of the job. Only hosts that agree on both arguments have the same key.
    """
    unused = ""
    try:
        secret = find(environ)
    except SecretRefusedError as error:
        secret, unused = None, str(error)
    if secret is not None:
        return Protection(SIGNED, tag(secret, "start of a job", address, str(world_size)))
    return Protection(TRUSTED if environ.get("SPARK_FAST_TRUST_NETWORK") == "1" else NONE, unused=unused)


def allowed(kind: int, protection: str) -> bool:
    """Return whether hosts with this protection act on a request of this kind."""
    return protection in (SIGNED, TRUSTED) or kind in _SAFE


def refusal(kind: int, unused: str = "") -> str:
    """Return why hosts without protection do not act on a request of this kind, and the remedy."""
    name = Kind(kind).name.lower()
    trouble = f"the secret is not used: {unused}; " if unused else ""
    return (
        f"a {name} over several hosts is refused, since anyone who reaches the job's store could ask: {trouble}{REMEDY}"
    )


# --- the key in the run folder ---

_KEY = "key"


def key_id(key: bytes) -> str:
    """Return a short text that identifies a key and reveals nothing of it; empty for no key."""
    return tag(key, "name of a key").hex()[:16] if key else ""


def write_key(folder: int, key: bytes) -> None:
    """Keep the key of this start of the job in a file for its owner alone. Raises OSError.

    A command that starts the host's relay again may lack the job's environment, and so its secret.
    """
    private_files.write_whole(folder, _KEY, key.hex().encode())


def remove_key(folder: int) -> None:
    """Remove the key of an earlier start of the job. Raises OSError."""
    with suppress(FileNotFoundError):
        os.unlink(_KEY, dir_fd=folder)


def read_key(folder: int, wanted: str, shown: Path) -> bytes | None:
    """Return the key in the run folder if its key_id() is `wanted`; else None."""
    try:
        found = private_files.read_whole(folder, _KEY, 1024, shown).decode(errors="replace")
    except (FileNotFoundError, StoreError):
        return None
    key = bytes.fromhex(found) if re.fullmatch("[0-9a-f]{64}", found) else b""
    return key if key and hmac.compare_digest(key_id(key), wanted) else None
