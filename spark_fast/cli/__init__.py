"""The `spark-fast` command."""

__all__ = ["main"]


def main() -> None:
    """Runs the command line of this process, and exits with its status."""
    # Loaded when run: whoever only imports the package pays nothing for it.
    import sys

    from spark_fast.cli import streams

    streams.open_closed_streams()
    from spark_fast.cli import exits, fast_parse, misplaced
    from spark_fast.cli.supervisor import supervise

    order = fast_parse.read(sys.argv[1:])
    if order is not None:
        with exits.told():
            misplaced.say_misplaced(order)
            sys.exit(supervise(order))

    from spark_fast.cli import app

    app.main()
