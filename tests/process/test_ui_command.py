"""`spark-fast ui`: what it prints, where it listens, and how it ends."""

import ipaddress
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import trustme

from spark_fast.ui import addresses
from tests.support.child import DEADLINE, LOOP, Child, until

pytestmark = pytest.mark.process

COMMAND = [sys.executable, "-m", "spark_fast", "ui"]


@contextmanager
def _running(*options: str, **env: str) -> "Iterator[tuple[subprocess.Popen[str], str]]":
    """The command, and the address that it prints."""
    process = subprocess.Popen(
        [*COMMAND, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | env
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, process.communicate()
        yield process, address
    finally:
        process.kill()
        process.communicate()


def _ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    _, err = process.communicate(timeout=DEADLINE)
    return process.returncode, err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, -signal.SIGTERM)])
def test_it_prints_an_address_that_shows_the_runs_and_ends_by_a_signal(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    with Child(tmp_path, LOOP) as child, _running("--port", "0") as (process, address):
        run = child.run()
        assert address.startswith("http://127.0.0.1:")
        base, token = address.split("/#token=")
        with httpx.Client(headers={"authorization": f"Bearer {token}"}) as browser:
            assert browser.get(base).status_code == 200
            runs = browser.get(f"{base}/api/runs").json()["runs"]
        assert [each["id"] for each in runs] == ["test"]
        process.send_signal(number)
        assert _ended(process) == (status, "")
        child.steps_on(run)


def test_it_ends_though_a_page_looks(tmp_path: Path) -> None:
    with _running("--port", "0") as (process, address):
        base, token = address.split("/#token=")
        with httpx.stream("GET", f"{base}/api/stream", headers={"authorization": f"Bearer {token}"}) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGINT)
            assert _ended(process) == (0, "")


def test_without_a_port_it_takes_the_first_that_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(addresses, "PORT", taken.getsockname()[1])
        where = addresses.resolve("127.0.0.1")
        (found,) = addresses.listen(where, None)
        with found:
            assert found.getsockname()[1] != taken.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            addresses.listen(where, addresses.PORT)


def test_a_port_that_is_taken_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = subprocess.run(
            [*COMMAND, "--port", str(taken.getsockname()[1])], capture_output=True, text=True, check=False, timeout=60
        )
    assert done.returncode == 1
    assert "in use" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_it_listens_for_others_only_with_tls_or_when_told_to(host: str) -> None:
    done = subprocess.run(
        [*COMMAND, "--host", host, "--port", "0"], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "--insecure" in done.stderr
    assert "SSH" in done.stderr
    with _running("--host", host, "--port", "0", "--insecure") as (_, address):
        # A number: the machine's name could lead to an address that is another's.
        host = httpx.URL(address).host
        assert not ipaddress.ip_address(host).is_unspecified
        assert httpx.get(address).status_code == 200


def test_a_name_is_printed_as_the_number_that_is_listened_on() -> None:
    with _running("--host", "localhost", "--port", "0") as (_, address):
        base, token = address.split("/#token=")
        assert ipaddress.ip_address(httpx.URL(base).host).is_loopback
        for host in {str(each.where[0]) for each in addresses.resolve("localhost")}:
            # All that the name leads to is this server.
            url = httpx.URL(base).copy_with(host=host).join("/api/runs")
            assert httpx.get(url, headers={"authorization": f"Bearer {token}"}).status_code == 200


def test_a_kept_token_is_that_of_the_next_server_and_else_it_is_another(tmp_path: Path) -> None:
    tokens = []
    for options in (["--keep-token"], [], ["--keep-token"], []):
        with _running("--port", "0", *options, XDG_STATE_HOME=str(tmp_path)) as (process, address):
            base, token = address.split("/#token=")
            assert httpx.get(f"{base}/api/runs", headers={"authorization": f"Bearer {token}"}).status_code == 200
            assert process.stdout is not None
            if options:
                assert str(tmp_path / "spark_fast" / "ui-token") in process.stdout.readline()
            tokens.append(token)
    assert tokens[0] == tokens[2]
    assert len(set(tokens)) == 3


def test_a_kept_token_that_others_may_know_serves_nothing(tmp_path: Path) -> None:
    kept = tmp_path / "spark_fast" / "ui-token"
    kept.parent.mkdir(mode=0o700)
    kept.write_text("x" * 43)
    kept.chmod(0o644)
    done = subprocess.run(
        [*COMMAND, "--port", "0", "--keep-token"],
        env=os.environ | {"XDG_STATE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert str(kept) in done.stderr
    assert done.stderr.count("\n") == 1


def test_with_a_certificate_all_is_encrypted_and_the_address_has_its_name(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    certificate.private_key_pem.write_to_path(key)
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(chain, append=True)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    options = ["--host", "localhost", "--port", "0", "--tls-cert", str(chain), "--tls-key", str(key)]
    with _running(*options) as (_, address):
        assert address.startswith("https://localhost:")
        own, token = address.split("/#token=")
        with httpx.Client(verify=trusting, headers={"authorization": f"Bearer {token}"}) as browser:
            assert browser.get(own).status_code == 200
            assert browser.get(f"{own}/api/runs", headers={"origin": own}).status_code == 200
            plain = own.replace("https", "http")
            assert browser.get(f"{own}/api/runs", headers={"origin": plain}).status_code == 403


def test_half_of_a_certificate_is_none(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, "--tls-cert", "x.pem"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    missing = subprocess.run(
        [*COMMAND, "--tls-cert", "x.pem", "--tls-key", "y.pem"], capture_output=True, text=True, check=False, timeout=60
    )
    assert missing.returncode == 1
    assert missing.stderr.count("\n") == 1, missing.stderr


def test_what_it_needs_and_is_not_there_is_said_with_the_command(tmp_path: Path) -> None:
    code = """
import importlib.util, sys
found = importlib.util.find_spec
def find_spec(name, package=None):
    return None if name == "uvicorn" else found(name, package)
importlib.util.find_spec = find_spec
sys.argv = ["spark-fast", "ui"]
from spark_fast.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"spark-fast: the page needs uvicorn: {sys.executable} -m pip install 'uvicorn>=0.34'\n"


def test_no_other_command_loads_a_web_server(home: Path) -> None:
    code = """
import sys
sys.argv = ["spark-fast", "ps"]
from spark_fast.cli import main
try:
    main()
finally:
    print({"fastapi", "uvicorn", "starlette", "plotly", "asyncio"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.splitlines()[-1] == "set()"


def test_the_browser_is_handed_a_file_and_no_token(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    browser = tmp_path / "browser"
    browser.write_text(
        "#!/bin/sh\n"
        'file="${1#file://}"\n'
        f'cp "$file" {seen}.page\n'
        f'stat -c %a "$(dirname "$file")" > {seen}.mode\n'
        f'echo "$1" > {seen}.new\n'
        f"mv {seen}.new {seen}\n"
    )
    browser.chmod(0o755)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with _running("--port", "0", "--open", BROWSER=str(browser), TMPDIR=str(scratch)) as (process, address):
        until(seen.exists, "the browser")
        token = address.partition("#token=")[2]
        assert token
        assert token not in seen.read_text()
        assert f"url={address}" in Path(f"{seen}.page").read_text()
        assert Path(f"{seen}.mode").read_text() == "700\n"
        process.send_signal(signal.SIGTERM)
        assert _ended(process) == (-signal.SIGTERM, "")
        assert list(scratch.iterdir()) == []  # it leaves nothing behind
