"""The differences between two code versions, as text."""

import difflib
import re

from spark_fast.project.files import relative
from spark_fast.project.sources import decode
from spark_fast.runfiles.versions import Store, Version

__all__ = ["diff"]


def diff(store: Store, old: Version, new: Version) -> str:
    """Return the changes from one version to another as a unified diff, with paths relative to the project's folders.

    Raises StoreError if a source can't be read.
    """
    roots = store.about().roots
    before = store.with_loaded(old).files
    lines: list[str] = []
    for path in store.changed(old, new):
        shown = relative(path, roots)
        was, now = before.get(path), new.files.get(path)
        lines += difflib.unified_diff(
            _lines(store, was),
            _lines(store, now),
            "/dev/null" if was is None else shown,
            "/dev/null" if now is None else shown,
            f"version {old.number}",
            f"version {new.number}",
        )
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _lines(store: Store, digest: str | None) -> list[str]:
    if digest is None:
        return []
    # Not splitlines(): a form feed ends no line of a file.
    return re.findall(r"[^\n]*\n|[^\n]+", decode(store.source(digest)))
