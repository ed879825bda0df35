"""The command that makes the secret of the jobs of several hosts."""

from spark_fast.cli import exits
from spark_fast.cli.exits import Exit
from spark_fast.hosts.secret import SecretRefusedError, make_file, path_of

__all__ = ["make"]


def make() -> None:
    """Make the secret's file, unless it is there, and print its path."""
    path = path_of()
    try:
        made = make_file(path)
    except SecretRefusedError as error:
        raise exits.leave(Exit.REFUSED, f"the secret is not used: {error}") from None
    except OSError as error:
        raise exits.leave(Exit.REFUSED, f"{error.filename or path} can't be written: {error.strerror}") from None
    print(path if made else f"{path} is there already")
