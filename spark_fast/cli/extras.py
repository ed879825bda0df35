"""The packages of the extras, which a plain installation lacks, and how to install them."""

import shlex
import sys
from importlib.util import find_spec

from spark_fast.cli.exits import say

__all__ = ["EXTRAS", "missing"]

EXTRAS = {
    "watch": {"watchfiles": "watchfiles>=0.24"},
    "ui": {"fastapi": "fastapi>=0.115", "uvicorn": "uvicorn>=0.34", "plotly": "plotly>=6"},
    "demo": {"numpy": "numpy>=1.24", "sklearn": "scikit-learn>=1.3"},
}
"""The extras of pyproject.toml: for each module that is imported, the package that brings it."""


def missing(extra: str, what: str) -> bool:
    """Return whether a package of an extra is missing. If so, print which, and the command that installs it.

    The command names the packages, not the extra: it works wherever this project was installed from, and in whatever
    folder it is run.

    what: the part of the command line that needs them, for the message.
    """
    lacking = [package for module, package in EXTRAS[extra].items() if find_spec(module) is None]
    if lacking:
        command = shlex.join([sys.executable, "-m", "pip", "install", *lacking])
        say(f"{what} needs {' and '.join(package.split('>')[0] for package in lacking)}: {command}")
    return bool(lacking)
