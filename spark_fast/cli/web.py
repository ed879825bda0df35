"""`spark-fast ui`: serves the web page until a signal ends it."""

import os
import shutil
import signal
import sys
import tempfile
import threading
import webbrowser
from contextlib import nullcontext
from pathlib import Path

import typer

from spark_fast.cli import extras
from spark_fast.cli.exits import Exit, leave, say

__all__ = ["ui"]


def ui(
    host: str,
    port: int | None,
    *,
    insecure: bool,
    certificate: Path | None,
    key: Path | None,
    browser: bool,
    keep_token: bool = False,
    beside: bool = False,
) -> None:
    """Serve the web page until a signal ends this process.

    beside: whether another process has started this one; it then ends with its standard input.

    Raises typer.Exit with a status of `Exit` if it can't be served, OSError if it can't listen there, StoreError or
    FolderRefusedError if the kept token can't be used.
    """
    if extras.missing("ui", "the page"):
        raise typer.Exit(int(Exit.REFUSED))
    # Here, since these need the packages of the extra, or import modules that do.
    from spark_fast.ui import kept_token
    from spark_fast.ui.addresses import is_loopback, resolve
    from spark_fast.ui.security import Keys
    from spark_fast.ui.serving import Options, serve

    if (certificate is None) != (key is None):
        raise leave(Exit.USAGE, "--tls-cert and --tls-key go together")
    addresses = resolve(host)
    if certificate is None and not insecure and not is_loopback(addresses):
        raise leave(
            Exit.USAGE,
            f"others can reach {host}, and could read the token on its way: give --tls-cert and --tls-key, or "
            "--insecure; or leave --host out and forward the port by SSH",
        )
    keys = Keys(kept_token.read_or_make() if keep_token else None)
    with tempfile.TemporaryDirectory(prefix="spark-fast-") if browser else nullcontext() as folder:

        def started(address: str) -> None:
            if beside:
                print(f"spark-fast: the page that shows and steers your runs: {address}", flush=True)
            else:
                kept = (
                    f"\nThe token is kept in {kept_token.path()}; remove that file for a new one." if keep_token else ""
                )
                print(f"{address}{kept}\nCtrl-C ends the server; no run is touched.", flush=True)
            if folder is not None:
                _open(address, Path(folder))

        def end(number: int, _frame: object) -> None:
            # The server's own handler has ended the server, and raises the signal again for this one.
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

        signal.signal(signal.SIGTERM, end)

        if beside:
            threading.Thread(target=_end_with_input, daemon=True).start()
        try:
            serve(Options(host, port, certificate, key), addresses, keys, started)
        except KeyboardInterrupt:
            return


def _end_with_input() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _open(address: str, folder: Path) -> None:
    # The address goes through a file: other users can read the command line of a browser, and so the token.
    file = folder / "open.html"
    file.write_text(
        f'<!doctype html><title>spark-fast</title><meta http-equiv="refresh" content="0;url={address}">',
        encoding="utf-8",
    )
    if not webbrowser.open(file.as_uri()):
        say("there is no browser to open: open the address above")
