"""`spark-fast ui`: serves the web page until it is ended."""

import tempfile
import webbrowser
from importlib.util import find_spec
from pathlib import Path

from spark_fast.cli.exits import Exit, leave, say

__all__ = ["ui"]


def ui(
    host: str, port: int | None, *, insecure: bool, certificate: Path | None, key: Path | None, browser: bool
) -> None:
    """Raises typer.Exit with a status of `Exit` if it can't be served, OSError if it can't listen there."""
    missing = [name for name in ("fastapi", "uvicorn", "plotly") if find_spec(name) is None]
    if missing:
        raise leave(Exit.REFUSED, f"the page needs {' and '.join(missing)}: pip install 'spark-fast[ui]'")
    from spark_fast.ui.serving import Options, is_loopback, serve

    if (certificate is None) != (key is None):
        raise leave(Exit.USAGE, "--tls-cert and --tls-key go together")
    if certificate is None and not insecure and not is_loopback(host):
        raise leave(
            Exit.USAGE,
            f"others can reach {host}, and could read the token on its way: give --tls-cert and --tls-key, or "
            "--insecure; or leave --host out and forward the port by SSH",
        )
    with tempfile.TemporaryDirectory(prefix="spark-fast-") as folder:

        def started(address: str) -> None:
            print(f"{address}\nCtrl-C ends the server; no run is touched.", flush=True)
            if browser:
                _open(address, Path(folder))

        try:
            serve(Options(host, port, certificate, key), started)
        except KeyboardInterrupt:
            return


def _open(address: str, folder: Path) -> None:
    # By way of a file: a browser's command line, which would hold the token, is for all to see.
    file = folder / "open.html"
    file.write_text(
        f'<!doctype html><title>spark-fast</title><meta http-equiv="refresh" content="0;url={address}">',
        encoding="utf-8",
    )
    if not webbrowser.open(file.as_uri()):
        say("there is no browser to open: open the address above")
