import difflib
import sys
import tempfile
from pathlib import Path

from tests.traces.traces import NAMES, expected, take, write


def main() -> int:
    """Compares all traces with the expected ones, or writes them; the names that are given, or all."""
    names = [each for each in sys.argv[1:] if each != "--write"] or NAMES
    differ = 0
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(names):
            trace = take(name, Path(folder) / str(number))
            if "--write" in sys.argv:
                write(name, trace)
            elif trace != expected(name):
                differ += 1
                print(f"--- {name}")
                print("\n".join(difflib.unified_diff(expected(name).split("\n"), trace.split("\n"), lineterm="", n=2)))
    print(f"{len(names)} traces, {differ} differ")
    return differ > 0


if __name__ == "__main__":
    sys.exit(main())
