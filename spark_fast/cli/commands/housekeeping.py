"""Commands for what lies on disk: `secret` and `gc`."""

from spark_fast.cli.commands.parameters import AsJson
from spark_fast.runfiles.json_text import to_json

__all__ = ["gc", "secret"]


def secret() -> None:
    """Make the secret that the hosts of your jobs share, unless it is there, and print its file.

    With it, a job of several hosts obeys you alone. Run this once, where all hosts see the same home folder.
    """
    from spark_fast.cli import secrets

    secrets.make()


def gc(as_json: AsJson = False) -> None:
    """Remove what ended and dead runs left behind. Live runs are not touched."""
    from spark_fast import client

    removed = client.remove_ended()
    if as_json:
        print(to_json(removed, indent=2))
    elif removed:
        print(f"removed {len(removed)} ended run{'' if len(removed) == 1 else 's'}: {', '.join(removed)}")
    else:
        print("nothing to remove")
