"""The `spark-fast` command."""

__all__ = ["main"]


def main() -> None:
    """Runs the command line of this process, and exits with its status."""
    # Loaded when run: whoever only imports the package pays nothing for typer.
    from spark_fast.cli import app

    app.main()
