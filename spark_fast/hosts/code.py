"""How new code gets to the other hosts of a job: what a reload carries, and the version that each host makes of that.

Each host keeps versions of its own. A reload lists all files of the new version with their digests, and carries those
that the asked host does not run yet. A file is named by its root and its path in there, since another host may keep the
project elsewhere. A host on which another file differs refuses the reload. So all hosts run the new code, or none does.

Letter: what a reload carries. Asked host: the one where the sender left the reload.
"""

import base64
import os
from typing import Any

from spark_fast.errors import CodeRefusedError, StoreError
from spark_fast.project.files import innermost, is_under, relative
from spark_fast.runfiles.versions import CodeInfo, Store, Version, digest_of

__all__ = ["CARRIED_MAX", "packed", "unpacked"]

CARRIED_MAX = 4 << 20
"""Bytes of source that a reload may carry: each host reads them from the job's store."""


def packed(store: Store, version: Version) -> dict[str, Any]:
    """Return what a reload to this version carries, as JSON. Raises CodeRefusedError if that is too much."""
    about, runs = store.about(), store.current()
    carried: dict[str, bytes] = {}
    files = []
    for path, digest in version.files.items():
        root, rest = _split(path, about)
        files.append([root, rest, digest])
        if runs.files.get(path) != digest:
            carried[digest] = store.source(digest)
    size = sum(map(len, carried.values()))
    if size > CARRIED_MAX:
        raise CodeRefusedError(
            f"{size} bytes of source have changed: other hosts are not sent more than {CARRIED_MAX} at once"
        )
    sources = {digest: base64.b64encode(source).decode() for digest, source in carried.items()}
    return {"note": version.note, "files": files, "sources": sources}


def unpacked(store: Store, letter: dict[str, Any], sender: str) -> Version:
    """Make this host's version of a letter. Raises CodeRefusedError if its code would differ from the asked host's."""
    about, runs = store.about(), store.current()
    sources = _sources(letter)
    files, disk = dict(runs.files), dict(runs.disk)
    for path, digest in _files(letter, about):
        if runs.files.get(path) == digest:
            continue
        if digest in sources:
            store.put(sources[digest], path)
            if _on_disk(path) == digest:
                disk[path] = digest
        elif path not in runs.files:
            continue  # only ranks of the asked host have imported it
        else:
            _find(store, path, digest, about)
        files[path] = digest
    note = letter.get("note")
    return store.add(files, disk, note if isinstance(note, str) else "", sender)


def _split(path: str, about: CodeInfo) -> tuple[int, str]:
    """Return the index of the root that a file lies in, -1 if in none; and the file's path in there."""
    root = innermost(path, about.roots)
    return (-1, path) if root is None else (about.roots.index(root), os.path.relpath(path, root))


def _files(letter: dict[str, Any], about: CodeInfo) -> list[tuple[str, str]]:
    """Return the path on this host, and the digest, of each file in a letter."""
    found = []
    try:
        for root, rest, digest in letter["files"]:
            if not -1 <= root < len(about.roots):
                raise CodeRefusedError(f"{rest} lies in no folder that this host knows as the project's")
            folder = about.roots[root] if root >= 0 else "/"
            path = os.path.normpath(os.path.join(folder, rest))
            if not is_under(path, folder):
                raise ValueError(f"{rest!r:.80} leads out of its folder")
            found.append((path, str(digest)))
    except (KeyError, TypeError, ValueError) as error:
        raise CodeRefusedError(f"what came of the new code makes no sense: {error}") from None
    return found


def _sources(letter: dict[str, Any]) -> dict[str, bytes]:
    try:
        sources = {digest: base64.b64decode(text, validate=True) for digest, text in letter["sources"].items()}
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise CodeRefusedError(f"what came of the new code makes no sense: {error}") from None
    for digest, source in sources.items():
        if digest_of(source) != digest:
            raise CodeRefusedError("a source was damaged on its way to this host")
    return sources


def _find(store: Store, path: str, digest: str, about: CodeInfo) -> None:
    try:
        store.source(digest)  # this host has run it before
    except StoreError:
        shown = relative(path, about.roots)
        raise CodeRefusedError(f"{shown} is another file here than on the host that was asked") from None


def _on_disk(path: str) -> str | None:
    if not os.path.isfile(path):
        return None
    try:
        with open(path, "rb") as file:
            return digest_of(file.read())
    except OSError:
        return None
