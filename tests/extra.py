"""Prints what an extra of the package needs: `python -m tests.extra demo`.

`pip install --editable '.[demo]'` would compile the package once more.
"""

import sys
import tomllib
from pathlib import Path

if __name__ == "__main__":
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    print("\n".join(project["optional-dependencies"][sys.argv[1]]))
