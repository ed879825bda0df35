"""The `spark-fast` command."""

__all__ = ["main"]


def main() -> None:
    """Run the command line of this process, and exit with its status."""
    # Imported here, so that an import of the package costs nothing for the command line, and each command loads no more
    # than it needs.
    import sys

    from spark_fast.cli import streams

    streams.open_closed_streams()
    from spark_fast.cli import exits, fast_parse

    order = fast_parse.read(sys.argv[1:])
    if order is not None:
        from spark_fast.cli import misplaced
        from spark_fast.cli.supervisor import supervise

        with exits.reporting_errors():
            misplaced.say_misplaced(order)
            sys.exit(supervise(order))

    from spark_fast.cli import app

    app.main()
