"""Prints the other CPython interpreters of this machine, 3.11 and later, one path a line: one for each version."""

import shutil
import subprocess
import sys
from pathlib import Path

OLDEST, NEWEST = 11, 20


def found() -> dict[str, str]:
    """Paths by version, on the PATH and among pyenv's."""
    candidates = [shutil.which(f"python3.{minor}") for minor in range(OLDEST, NEWEST)]
    if shutil.which("pyenv"):
        root = subprocess.run(["pyenv", "root"], capture_output=True, text=True, check=True).stdout.strip()
        candidates += sorted(str(path) for path in Path(root, "versions").glob("3.*/bin/python3"))
    versions = {}
    for candidate in filter(None, candidates):
        code = "import sys; print(sys.implementation.name, sys.version_info[1], sys.executable)"
        # A shim of a version manager may lead to nothing.
        done = subprocess.run([candidate, "-c", code], capture_output=True, text=True, check=False)
        words = done.stdout.split(maxsplit=2)
        if done.returncode == 0 and words[0] == "cpython" and int(words[1]) >= OLDEST:
            versions[words[1]] = words[2].strip()
    return versions


if __name__ == "__main__":
    for version, path in sorted(found().items()):
        if int(version) != sys.version_info[1]:
            print(path)
