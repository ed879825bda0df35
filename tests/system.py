"""Install the system packages that `make test-all` needs, or print the command that does: `python3 -m tests.system`."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable

__all__ = ["CHROMIUM", "commands_for", "install", "missing"]

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")

PACKAGES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("c++", "g++"): ("g++",),  # torch.compile
    ("clang",): ("clang",),  # a second compiler reads the C core
    ("git",): ("git",),
    ("ip",): ("iproute2",),  # networks between hosts
    ("patch",): ("patch",),
    ("spin",): ("spin",),  # the models of the protocols
    CHROMIUM: ("chromium",),
}
"""Debian's packages, by the commands of which one has to be there."""


def missing(which: Callable[[str], str | None] = shutil.which) -> list[str]:
    """Return the packages of which this machine has no command."""
    return [name for words, names in PACKAGES.items() if not any(map(which, words)) for name in names]


def commands_for(packages: list[str]) -> list[list[str]]:
    """Return the commands that install these packages."""
    return [["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]]


def install(packages: list[str], *, root: bool, apt: bool) -> str:
    """Install the packages where this user may; return the reason why the tests can't all run, or an empty text.

    A command that fails raises subprocess.CalledProcessError.
    """
    commands = commands_for(packages) if packages else []
    if commands and not apt:
        return f"install these first, by the names that your system has for them: {', '.join(packages)}"
    if not root:
        line = " && ".join(f"sudo {shlex.join(command)}" for command in commands)
        first = f"run `{line}`, then `sudo make test-all`" if line else "run `sudo make test-all`"
        return f"{first}: the tests of networks between hosts need root"
    for command in commands:
        subprocess.run(command, check=True, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})
    return ""


if __name__ == "__main__":
    sys.exit(install(missing(), root=os.geteuid() == 0, apt=shutil.which("apt-get") is not None) or None)
