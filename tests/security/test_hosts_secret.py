"""Where the secret of a job comes from, and which are not used."""

import os
import stat
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from spark_fast import hosts, launchers
from spark_fast.hosts import state_files
from spark_fast.hosts.secret import (
    NONE,
    REMEDY,
    SIGNED,
    TRUSTED,
    SecretRefusedError,
    allowed,
    find,
    key_id,
    make_file,
    path_of,
    protection_of,
    read_key,
    refusal,
    remove_key,
    write_key,
)
from spark_fast.request import Kind

pytestmark = pytest.mark.unit

SECRET = "0123456789abcdef" * 4


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(SECRET + "\n")
    path.chmod(0o600)
    return path


def test_the_environment_counts_before_the_file(file: Path) -> None:
    environ = {"SPARK_FAST_SECRET_FILE": str(file)}
    assert find(environ) == SECRET.encode()
    assert find(environ | {"SPARK_FAST_SECRET": "x" * 16}) == b"x" * 16


def test_the_file_stands_where_the_user_keeps_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert path_of({}) == tmp_path / ".config/spark-fast/secret"
    assert path_of({"XDG_CONFIG_HOME": "/c"}) == Path("/c/spark-fast/secret")
    assert path_of({"XDG_CONFIG_HOME": "/c", "SPARK_FAST_SECRET_FILE": "/s"}) == Path("/s")
    assert find({}) is None
    assert make_file(path_of({}))
    assert len(find({}) or b"") == 64


def test_a_new_secret_is_for_its_owner_alone_and_replaces_none(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "secret"
    before = os.umask(0)
    try:
        assert make_file(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {stat.S_IMODE(each.stat().st_mode) for each in (path.parent, path.parent.parent)} == {0o700}
    text = path.read_text()
    assert not make_file(path) and path.read_text() == text
    other = tmp_path / "other"
    assert make_file(other) and other.read_text() != text


def linked(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))
    file.symlink_to(file.with_name("elsewhere"))


def named_twice(file: Path) -> None:
    os.link(file, file.with_name("other"))


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir(0o700)


UNSAFE: dict[str, tuple[Callable[[Path], object], str]] = {
    "others may read it": (lambda file: file.chmod(0o604), "has mode 0604"),
    "the group may write it": (lambda file: file.chmod(0o620), "has mode 0620"),
    "a link": (linked, "found a symbolic link"),
    "two names": (named_twice, "mode 0600 and 2 names"),
    "a pipe": (pipe, "found a named pipe"),
    "a folder": (folder, "found a folder"),
    "short": (lambda file: file.write_text("short"), "holds 5 bytes: a secret has 16"),
    "empty": (lambda file: file.write_text(""), "holds 0 bytes"),
    "long": (lambda file: file.write_text("x" * 5000), "a secret has 16 to 4096"),
    "gone": (lambda file: file.unlink(), "which is not there"),
}


@pytest.mark.parametrize("unsafe", UNSAFE)
def test_a_file_that_others_could_have_read_or_written_is_not_used(file: Path, unsafe: str) -> None:
    spoil, reason = UNSAFE[unsafe]
    spoil(file)
    environ = {"SPARK_FAST_SECRET_FILE": str(file)}
    with pytest.raises(SecretRefusedError, match=reason):
        find(environ)
    protection = protection_of("tcp://a:1/x", 2, environ)
    assert (protection.kind, protection.key) == (NONE, b"") and reason in protection.unused
    assert reason in refusal(Kind.SET, protection.unused)


def test_a_file_of_another_user_is_not_used(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: file.stat().st_uid + 1)
    with pytest.raises(SecretRefusedError, match="found a file of uid"):
        find({"SPARK_FAST_SECRET_FILE": str(file)})


def test_a_short_secret_of_the_environment_is_not_used() -> None:
    with pytest.raises(SecretRefusedError, match="SPARK_FAST_SECRET holds 5 bytes"):
        find({"SPARK_FAST_SECRET": "short"})


def test_without_a_secret_only_what_runs_no_code_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    def kind(**environ: str) -> str:
        return protection_of("tcp://a:1/x", 2, environ).kind

    trust = {"SPARK_FAST_TRUST_NETWORK": "1"}
    secret = {"SPARK_FAST_SECRET": SECRET}
    assert (kind(), kind(**trust), kind(**secret), kind(**secret, **trust)) == (NONE, TRUSTED, SIGNED, SIGNED)
    assert kind(SPARK_FAST_TRUST_NETWORK="0") == NONE
    safe = {Kind.PAUSE, Kind.RESUME, Kind.ADVANCE, Kind.STOP}
    assert {each for each in Kind if allowed(each, NONE)} == safe
    assert all(allowed(each, protection) for each in Kind for protection in (SIGNED, TRUSTED))
    assert not allowed(99, NONE) and not allowed(Kind.RELOAD, "anything else")
    assert refusal(Kind.CALL).startswith("a call over several hosts is refused") and REMEDY in refusal(Kind.CALL)


def test_the_run_folder_keeps_the_key_of_this_start_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    one = protection_of("tcp://a:1/x", 2, {"SPARK_FAST_SECRET": SECRET}).key
    two = protection_of("tcp://a:1/x.1", 2, {"SPARK_FAST_SECRET": SECRET}).key
    assert one != two and key_id(one) != key_id(two) != key_id(b"") == ""
    with state_files.opened(tmp_path, create=True) as fd:
        assert read_key(fd, key_id(one), tmp_path) is None
        write_key(fd, one)
        assert stat.S_IMODE((tmp_path / "hosts" / "key").stat().st_mode) == 0o600
        assert read_key(fd, key_id(one), tmp_path) == one
        assert read_key(fd, key_id(two), tmp_path) is None
        (tmp_path / "hosts" / "key").write_text("x" * 64)
        assert read_key(fd, key_id(one), tmp_path) is None
        remove_key(fd)
        remove_key(fd)
        assert read_key(fd, key_id(one), tmp_path) is None
    assert SECRET not in key_id(one) and one.hex()[:16] != key_id(one)


def test_a_start_of_the_job_goes_into_no_session_of_a_start_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)  # no store is known, so that no relay starts
    monkeypatch.delenv("SPARK_FAST_STORE", raising=False)
    tmp_path.chmod(0o700)
    with state_files.opened(tmp_path, create=True) as fd:
        state_files.write_object(fd, state_files.SESSION, {"session": "a" * 32, "key": "b"})
    hosts.start(tmp_path, launchers.RankInfo("test", 0, 2, 0, 1, "job"))
    assert not (tmp_path / "hosts" / state_files.SESSION).exists()


def test_a_run_that_an_older_version_has_begun_counts_as_unprotected(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    place = state_files.HostPlace("tcp://a:1/x", "node", "here", 0, 1, 2, 0, 5.0, "python", "", SIGNED, "id")
    state_files.write_place(tmp_path, place)
    assert state_files.read_place(tmp_path) == place
    new = ("protection", "key_id", "unused")
    old = {name: value for name, value in asdict(place).items() if name not in new}
    for found, protection in ((old, NONE), (old | {"protection": 1}, None)):
        with state_files.opened(tmp_path) as fd:
            state_files.write_object(fd, state_files.PLACE, found)
        read = state_files.read_place(tmp_path)
        assert (None if read is None else read.protection) == protection
