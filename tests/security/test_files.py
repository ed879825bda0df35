"""Files and folders that another user prepared, swapped or owns: nothing hangs, nothing leaks, nothing is believed.

Where the tests run as root, the other user is `nobody`: files are really its own, and its attacks run as its processes.
Elsewhere a file counts as another user's by the one seam that the package looks through, the result of stat().
Everything lies below the test's own folder.
"""

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spark_fast import _core, client
from spark_fast.errors import FolderRefusedError, JournalError, SegmentError, StoreError
from spark_fast.hosts import requests
from spark_fast.hosts import state_files as host_files
from spark_fast.own_process import own_command
from spark_fast.runfiles import (
    descriptors,
    homes,
    journal,
    journal_parts,
    private_files,
    safe_paths,
    supervisors,
)
from spark_fast.ui.detail import RunWatcher
from spark_fast.ui.polling import Poller
from spark_fast.ui.request_cache import RequestCache
from spark_fast.ui.threads import Threads
from tests.support.child import DEADLINE, LOOP, Child, until

pytestmark = pytest.mark.process

OTHER = 65534 if os.geteuid() != 65534 else 65533
"""The other user, which need not exist."""
ROOT = os.geteuid() == 0
PRECIOUS = "mine alone\n"


@pytest.fixture(autouse=True)
def _nothing_hangs() -> Iterator[None]:
    """Ends a call of this process that blocks: opening a named pipe does until somebody opens its other end."""

    def blocked(*_: object) -> None:
        raise AssertionError("it blocks")

    before = signal.signal(signal.SIGALRM, blocked)
    signal.alarm(int(DEADLINE))
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def give(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes a file another user's."""
    if ROOT:
        return lambda path: os.chown(path, OTHER, OTHER, follow_symlinks=False)
    given: list[tuple[int, int]] = []

    def looked_through(look: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
        def seen(*arguments: Any, **options: Any) -> os.stat_result:
            found = look(*arguments, **options)
            if (found.st_dev, found.st_ino) not in given:
                return found
            return os.stat_result((*found[:4], OTHER, *found[5:]))

        return seen

    for name in ("stat", "fstat", "lstat"):
        monkeypatch.setattr(os, name, looked_through(getattr(os, name)))

    def is_given(path: Path) -> None:
        found = path.lstat()
        given.append((found.st_dev, found.st_ino))

    return is_given


def attack(code: str) -> None:
    """Runs code as another user, where this one may; else as this user, who can do to this folder what another could
    do to one that it may write into."""
    become = f"import os; os.setgroups([]); os.setgid({OTHER}); os.setuid({OTHER})" if ROOT else ""
    subprocess.run([sys.executable, "-I", "-c", f"{become}\n{textwrap.dedent(code)}"], check=True, timeout=DEADLINE)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder that all users may write into, which another user can come to."""
    for each in (tmp_path, *tmp_path.parents):
        if each.is_relative_to("/tmp") and each != Path("/tmp") and ROOT:
            each.chmod(0o711)
    path = tmp_path / "shared"
    path.mkdir()
    path.chmod(0o777)
    return path


@pytest.fixture
def run_path(tmp_path: Path, home: Path) -> Path:
    """The folder of a run that has ended."""
    with Child(tmp_path, "import spark_fast as spark\nspark.checkpoint()\n") as child:
        assert child.ended() == 0
    return home / "test"


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            sock.bind(f"/proc/self/fd/{folder}/{path.name}")  # a path of any length
        finally:
            os.close(folder)


def _link(path: Path) -> None:
    (path.parent / "decoy").write_text(PRECIOUS)
    path.symlink_to(path.parent / "decoy")


def _hard_link(path: Path) -> None:
    (path.parent / "decoy").write_text(PRECIOUS)
    path.hardlink_to(path.parent / "decoy")


WRONG: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "link": _link,
    "second name": _hard_link,
    "folder": Path.mkdir,
    "socket": _socket,
}
wrong = pytest.mark.parametrize("make", WRONG.values(), ids=WRONG.keys())


# --- the one function ---


@wrong
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_CREAT | os.O_APPEND])
def test_what_is_not_a_file_of_ours_is_refused_by_python(
    tmp_path: Path, make: Callable[[Path], object], flags: int
) -> None:
    make(tmp_path / "file")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FolderRefusedError, match=r"found a .*; expected a file of yours with one name, and no link"):
        descriptors.open_own(tmp_path / "file", flags)
    assert len(os.listdir("/proc/self/fd")) == before


@wrong
def test_what_is_not_a_file_of_ours_is_refused_by_the_core(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "file")
    with pytest.raises(SegmentError, match="not a regular file of yours with one name"):
        _core.Segment(tmp_path / "file")


def test_a_file_of_another_user_is_refused(tmp_path: Path, give: Callable[[Path], None]) -> None:
    (tmp_path / "file").write_text("theirs")
    give(tmp_path / "file")
    with pytest.raises(FolderRefusedError, match=f"a file of uid {OTHER}"):
        descriptors.open_own(tmp_path / "file", os.O_RDONLY)
    with private_files.opened(_private(tmp_path / "mine")) as folder:
        (tmp_path / "file").rename(tmp_path / "mine" / "file")
        with pytest.raises(StoreError, match="no file of yours"):
            private_files.read_whole(folder, "file", 100, tmp_path)


def test_a_pipe_of_ours_is_opened_where_one_is_expected_and_nothing_else_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "bell")
    os.close(descriptors.open_own(tmp_path / "bell", os.O_RDWR, pipe=True))
    (tmp_path / "file").touch()
    with pytest.raises(FolderRefusedError, match="expected a named pipe of yours"):
        descriptors.open_own(tmp_path / "file", os.O_WRONLY, pipe=True)


def test_what_stands_in_the_place_of_the_bell_is_not_written_into(tmp_path: Path) -> None:
    with host_files.opened(_private(tmp_path / "run"), create=True):
        bell = tmp_path / "run" / "hosts" / "bell"
    bell.write_text(PRECIOUS)
    assert not host_files.ring(tmp_path / "run")
    assert bell.read_text() == PRECIOUS


def _private(path: Path) -> Path:
    path.mkdir(mode=0o700)
    return path


# --- the files of a run ---


@wrong
@pytest.mark.parametrize("name", ["control", "run.json"])
def test_a_run_with_a_file_that_is_not_ours_blocks_no_command(
    run_path: Path, name: str, make: Callable[[Path], object]
) -> None:
    (run_path / name).unlink()
    make(run_path / name)
    if name == "run.json" and make is _hard_link:
        (run_path / name).write_text("[]")  # in a folder that no other user may enter, it may have two names
    with pytest.raises((client.FolderRefusedError, client.SegmentError, OSError)):
        client.attach("test")
    assert client.runs() == []
    # Of a control file that can't be opened nothing can be told; a damaged run.json says nothing of the lock.
    assert client.remove_ended() == ([] if name == "control" else ["test"])
    assert (run_path / name).exists() == (name == "control")


@pytest.mark.parametrize("name", [".lock", ".supervisor-test"])
def test_a_pipe_in_the_place_of_a_lock_blocks_no_command(run_path: Path, home: Path, name: str) -> None:
    (home / name).unlink(missing_ok=True)
    os.mkfifo(home / name)
    with pytest.raises(FolderRefusedError, match="a named pipe"):
        client.remove_ended() if name == ".lock" else supervisors.has_supervisor("test")
    assert (home / name).exists()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("name", ["control", "test", "home", ".supervisor-test"])
def test_what_can_not_be_opened_is_neither_taken_for_dead_nor_removed(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, number: int, name: str
) -> None:
    with Child(tmp_path) as child:
        child.run()
        lock = descriptors.open_own(home / ".supervisor-test", os.O_RDWR | os.O_CREAT)
        assert _core.lock_file(lock, 0.0)
        with monkeypatch.context() as patch:
            real = os.open

            def refusing(path: str, *arguments: Any, **options: Any) -> int:
                if Path(path).name == name:
                    raise OSError(number, os.strerror(number), path)
                return real(path, *arguments, **options)

            patch.setattr(os, "open", refusing)
            for look in (client.remove_ended, client.runs, lambda: [client.attach("test")]):
                try:
                    found = look()
                except (OSError, client.SparkError) as error:
                    assert not isinstance(error, client.NoSuchRunError)
                    assert os.strerror(number) in str(error) or "which can't be read" in str(error)
                else:
                    assert all(isinstance(run, client.Run) and run.status == "running" for run in found)
        assert (home / ".supervisor-test").exists()
        os.close(lock)
        assert client.attach("test").status == "running"


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_the_page_shows_a_run_that_can_not_be_looked_at_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with Child(tmp_path) as child:
        child.run()
        threads = Threads()
        poller, watcher = Poller(threads), RunWatcher("test", threads, RequestCache())
        assert [*poller._look()[1]] == ["test"]
        assert watcher._look()[0] is not None
        fresh = RunWatcher("test", threads, RequestCache())

        def refusing(path: str, *_: Any, **__: Any) -> int:
            raise OSError(number, os.strerror(number), path)

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", refusing)
            _, found, error, _ = poller._look()
            assert [str(seen.summary["status"]) for seen in found.values()] == ["running"]
            assert error is not None and os.strerror(number) in error
            for look in (watcher, fresh):  # else it would tell the page that the run is gone
                look._run = None
                with pytest.raises(OSError, match=os.strerror(number)):
                    look._look()
        assert [*poller._look()[1]] == ["test"]
        assert poller._look()[2] is None


def test_ps_says_which_place_is_refused_and_lists_the_runs_of_the_other(
    tmp_path: Path, two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    from spark_fast.cli.commands.observe import ps

    first, _ = two
    first.touch()
    with Child(tmp_path, _in_two(*two)) as child:
        until((two[1] / "test").exists)
        child.run()
        ps(everything=False, as_json=True)
    printed = capsys.readouterr()
    assert '"id": "test"' in printed.out
    assert f"refused {first}: found a file" in printed.err
    first.unlink()
    ps(everything=False, as_json=True)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("limit", range(3, 10))
def test_a_training_without_descriptors_is_never_shown_as_lost(tmp_path: Path, limit: int) -> None:
    code = """
    import os, resource, time
    import spark_fast as spark
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(os.environ["LIMIT"]), 4096))
    spark.checkpoint()
    print("passed", flush=True)
    while not os.path.exists(os.environ["TEST_MAY_END"]):
        spark.checkpoint()
        time.sleep(0.001)
    """
    with Child(tmp_path, code, LIMIT=str(limit)) as child:
        until(lambda: child.out, child.err)
        found = [str(run.status) for run in client.runs()]
        assert found == ([] if "can't be controlled" in child.err else ["running"]), child.err
        assert client.remove_ended() == [] or not found
        assert child.ended() == 0, child.err


# --- the journal ---


def _attack_pipe(path: Path) -> str:
    return f"import os; os.mkfifo({str(path)!r}, 0o666)"


def _attack_file(path: Path) -> str:
    return f"import os; os.close(os.open({str(path)!r}, os.O_CREAT | os.O_RDWR, 0o666)); os.chmod({str(path)!r}, 0o666)"


def _attack_link(path: Path) -> str:
    return f"import os; os.symlink({str(path.parent.parent / 'precious')!r}, {str(path)!r})"


attacks = pytest.mark.parametrize("prepare", [_attack_pipe, _attack_file, _attack_link], ids=["pipe", "file", "link"])


@attacks
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_journal_in_a_shared_folder_neither_hangs_nor_leaks(
    tmp_path: Path, shared: Path, prepare: Callable[[Path], str], when: str
) -> None:
    path = shared / "journal.jsonl"
    precious = tmp_path / "precious"
    precious.write_text(PRECIOUS)
    if when == "before":
        attack(prepare(path))
    with Child(tmp_path, LOOP, SPARK_FAST_JOURNAL=str(path)) as child:
        run = child.run()
        if when == "after":
            assert path.is_file() and path.stat().st_size == 0  # made at the start
            attack(f"import os; os.unlink({str(path)!r})\n" + prepare(path))
        assert run.pause(timeout=10).fate.state == "applied"
        assert run.resume(timeout=10).fate.state == "applied"
        child.steps_on(run)
        if ROOT or prepare is not _attack_file:  # else it is this user's own
            assert child.err.count("no journal is kept" if when == "before" else "can't be written any more") == 1
            assert "of yours" in child.err
    assert precious.read_text() == PRECIOUS
    if stat.S_ISREG(path.stat().st_mode) and (ROOT or prepare is not _attack_file):
        assert path.read_text() in ("", PRECIOUS)


def test_a_second_name_of_another_file_is_not_written_into(tmp_path: Path, shared: Path) -> None:
    precious = tmp_path / "precious"
    precious.touch()
    (shared / "journal.jsonl").hardlink_to(precious)
    with Child(tmp_path, SPARK_FAST_JOURNAL=str(shared / "journal.jsonl")) as child:
        child.run().pause(timeout=10)
        assert child.err.count("no journal is kept") == 1
        assert "2 names" in child.err
    assert precious.read_text() == ""


def _part(path: Path, said: str, part: int = 1, before: int = 0) -> None:
    header = journal.first_line("r", ["train.py"], 1.0, None, part=part, before=before)
    path.write_bytes(header + f'{{"said": "{said}"}}\n'.encode())


def test_a_part_that_another_user_puts_before_the_owners_is_not_read(
    shared: Path, give: Callable[[Path], None]
) -> None:
    """A part holds code, which a replay runs. The oldest parts are dropped, and then their names are free."""
    path = shared / "j"
    _part(path, "mine", part=2, before=1)
    _part(shared / "j.1", "theirs")
    give(shared / "j.1")
    found = journal.read(path)
    assert [line["said"] for line in found.lines] == ["mine"] and found.dropped == 1
    path.unlink()  # as while a worker begins a new part
    with pytest.raises(JournalError, match="No such file"):
        journal.read(path)
    assert not journal.is_begun(path)


def test_a_journal_that_another_user_puts_in_the_place_of_the_newest_part_is_passed_over(
    shared: Path, give: Callable[[Path], None]
) -> None:
    """Its name is free for a moment each time that a worker begins a new part."""
    path = shared / "j"
    _part(shared / "j.1", "mine")
    _part(path, "theirs", part=2, before=1)
    give(path)
    assert [line["said"] for line in journal.read(path).lines] == ["mine"]


def test_a_journal_of_another_user_is_not_replayed(tmp_path: Path, shared: Path, give: Callable[[Path], None]) -> None:
    script = tmp_path / "train.py"
    script.write_text("print('it ran')\n")
    _part(shared / "j", "theirs")
    give(shared / "j")
    command = [sys.executable, "-m", "spark_fast", "run", "--replay", str(shared / "j"), str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "belongs to the user with the number" in done.stderr and "copy it first" in done.stderr


def test_a_journal_of_many_short_lines_or_of_too_many_bytes_is_not_read(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shared / "j"
    _part(shared / "j.1", "first")
    _part(path, "second", part=2, before=1)
    monkeypatch.setattr(journal, "_SIZE_MAX", path.stat().st_size + 10)
    with pytest.raises(JournalError, match="its parts have more than"):
        journal.read(path)
    monkeypatch.setattr(journal, "_LINES_MAX", 1)
    with pytest.raises(JournalError, match="more than 1 lines"):
        journal.read(path)


def test_parts_of_another_user_are_neither_written_over_nor_counted(shared: Path, give: Callable[[Path], None]) -> None:
    path = shared / "j"
    theirs = [shared / f"j.{number}" for number in (2, 4, 999_999_999)]
    for each in theirs:
        each.touch()
        os.truncate(each, 1 << 40)
        give(each)
    for expected in (1, 3, 5):
        _part(path, str(expected))
        assert journal_parts.put_aside(path) == expected
    assert journal_parts.newest(path) == shared / "j.5"
    assert journal_parts.drop_oldest(path, 1 << 20) == 0
    assert journal_parts.drop_oldest(path, 0) == 3
    assert sorted(shared.iterdir()) == sorted(theirs)


def test_a_worker_keeps_its_journal_below_the_limit_whatever_parts_another_user_makes(
    tmp_path: Path, shared: Path
) -> None:
    path = shared / "journal.jsonl"
    attack(f"""
        import os
        os.mkfifo({str(path) + ".1"!r})
        os.mkdir({str(path) + ".3"!r})
        for number in (2, 5):
            os.truncate(os.open({str(path) + "."!r} + str(number), os.O_CREAT | os.O_WRONLY, 0o600), 1 << 40)
    """)
    with Child(tmp_path, LOOP, SPARK_FAST_JOURNAL=str(path), SPARK_FAST_JOURNAL_LIMIT="64KiB") as child:
        run = child.run()

        def parted() -> bool:
            assert run.pause(timeout=DEADLINE).fate.state == "applied"
            assert run.resume(timeout=DEADLINE).fate.state == "applied"
            return (shared / "journal.jsonl.6").exists()

        until(parted, "the worker begins a second part")
        assert "can't be" not in child.err


def test_each_folder_that_is_made_for_the_journal_is_ours_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with Child(tmp_path, XDG_STATE_HOME=str(tmp_path / "a" / "b")) as child:
            child.run().pause(timeout=10)
    finally:
        os.umask(before)
    made = [tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "spark_fast"]
    assert [stat.S_IMODE(each.stat().st_mode) for each in made] == [0o700] * 3


# --- the folder of runs ---


def test_a_home_below_a_folder_that_others_may_change_is_refused(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _private(shared / "runs")
    monkeypatch.setenv("SPARK_FAST_HOME", str(path))
    with pytest.raises(FolderRefusedError, match=f"others can replace it: {shared} is .*; chmod \\+t {shared}, or set"):
        client.runs()
    shared.chmod(0o1777)  # as /tmp is: what is there can't be replaced
    assert client.runs() == []


def test_a_home_below_a_folder_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, give: Callable[[Path], None]
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    _private(theirs / "runs")
    give(theirs)
    monkeypatch.setenv("SPARK_FAST_HOME", str(theirs / "runs"))
    with pytest.raises(FolderRefusedError, match=f"another user owns {theirs}"):
        client.runs()


def test_a_link_on_the_way_is_followed_if_it_is_ours_and_what_it_leads_to_is_looked_at(
    tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch, give: Callable[[Path], None]
) -> None:
    (tmp_path / "real").mkdir()
    _private(tmp_path / "real" / "runs")
    (tmp_path / "link").symlink_to("real")
    monkeypatch.setenv("SPARK_FAST_HOME", str(tmp_path / "link" / "runs"))
    assert client.runs() == []
    (tmp_path / "up").symlink_to(tmp_path / "real" / ".." / "link")
    monkeypatch.setenv("SPARK_FAST_HOME", str(tmp_path / "up" / "runs"))
    assert client.runs() == []
    _private(shared / "runs")
    (tmp_path / "astray").symlink_to(shared)
    monkeypatch.setenv("SPARK_FAST_HOME", str(tmp_path / "astray" / "runs"))
    with pytest.raises(FolderRefusedError, match="others can replace it"):
        client.runs()
    give(tmp_path / "link")
    monkeypatch.setenv("SPARK_FAST_HOME", str(tmp_path / "link" / "runs"))
    with pytest.raises(FolderRefusedError, match=f"another user owns {tmp_path / 'link'}, a symbolic link"):
        client.runs()


def test_links_in_a_circle_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    monkeypatch.setenv("SPARK_FAST_HOME", str(tmp_path / "one" / "runs"))
    with pytest.raises(OSError, match="symbolic links"):
        client.runs()


@pytest.mark.parametrize("swapped", ["home", "above", "run"])
def test_a_folder_that_is_swapped_between_two_looks_is_refused(
    tmp_path: Path,
    run_path: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    give: Callable[[Path], None],
    swapped: str,
) -> None:
    """The attacker wins each race: another folder takes the place at the last moment before the opening."""
    decoy = tmp_path / "decoy"
    decoy.mkdir(mode=0o700)
    (decoy / "precious").write_text(PRECIOUS)
    above = tmp_path / "above"
    above.mkdir()
    home.rename(above / "home")
    monkeypatch.setenv("SPARK_FAST_HOME", str(above / "home"))
    target = {"home": above / "home", "above": above, "run": above / "home" / "test"}[swapped]
    assert [run.id for run in client.runs()] == ["test"]
    give(decoy)
    real = os.open

    def swapping(path: str, *arguments: Any, **options: Any) -> int:
        if Path(path).name == target.name and decoy.exists():
            target.rename(tmp_path / "away")
            decoy.rename(target)
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", swapping)
    if swapped == "run":  # it is left out; asked for, it is refused
        assert client.runs() == []
        with pytest.raises(FolderRefusedError, match=f"a folder of uid {OTHER}"):
            client.attach("test")
    else:
        with pytest.raises(FolderRefusedError, match=f"uid {OTHER}"):
            client.remove_ended()
    assert (target / "precious").read_text() == PRECIOUS


REMEDIES = {
    "/": "not for runs alone" if ROOT else "set SPARK_FAST_HOME to a folder that only you can change",
    "/tmp": "not for runs alone" if ROOT else "set SPARK_FAST_HOME to a folder that only you can change",
}


@pytest.mark.parametrize("path", REMEDIES)
def test_no_message_says_to_close_a_folder_that_others_need(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARK_FAST_HOME", path)
    with pytest.raises(FolderRefusedError) as refused:
        client.runs()
    assert "chmod" not in str(refused.value)
    assert REMEDIES[path] in str(refused.value)
    assert f"{Path.home()}/.local/state/spark-fast" in str(refused.value)


def test_the_remedy_fits_what_is_wrong(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, give: Callable[[Path], None]
) -> None:
    def refused(path: Path) -> str:
        monkeypatch.setenv("SPARK_FAST_HOME", str(path))
        with pytest.raises(FolderRefusedError) as error:
            client.runs()
        return error.value.expected

    folder = tmp_path / "runs"
    folder.mkdir()
    folder.chmod(0o755)
    assert refused(folder) == f"others could read it or ask for things: chmod 700 {folder}"
    (folder / "notes.txt").touch()
    assert "not for runs alone" in refused(folder) and "chmod" not in refused(folder)
    (tmp_path / "link").symlink_to(folder)
    assert refused(tmp_path / "link") == f"no link is followed: set SPARK_FAST_HOME to the folder itself, {folder}"
    assert "chmod" not in refused(folder / "notes.txt")
    give(folder)
    assert ("run the command as the user who owns it" in refused(folder)) == ROOT


# --- a folder of runs that another user has made first ---


def test_without_the_variable_there_are_two_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPARK_FAST_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert homes.places() == [Path(f"/tmp/spark-fast-{os.geteuid()}"), tmp_path / ".local/state/spark-fast"]
    monkeypatch.setenv("SPARK_FAST_HOME", str(tmp_path / "chosen"))
    assert homes.places() == [tmp_path / "chosen"]


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Two places, in the stead of the one in /tmp and the one in the user's home directory."""
    found = tmp_path / "first", tmp_path / "deep" / "below" / "second"
    monkeypatch.setattr(homes, "places", lambda: list(found))
    return found


def _in_two(first: Path, second: Path, code: str = LOOP) -> str:
    return f"""
from pathlib import Path
from spark_fast.runfiles import homes
homes.places = lambda: [Path({str(first)!r}), Path({str(second)!r})]
{code}"""


SQUATS: dict[str, Callable[[Path, Callable[[Path], None]], object]] = {
    "folder": lambda path, give: (path.mkdir(mode=0o700), give(path)),
    "open folder": lambda path, give: (path.mkdir(), path.chmod(0o777)),
    "file": lambda path, give: path.touch(),
    "link": lambda path, give: path.symlink_to("nowhere"),
    "pipe": lambda path, give: os.mkfifo(path),
}


@pytest.mark.parametrize("kind", ["folder", "open folder", "file", "link", "pipe"] if ROOT else [*SQUATS][1:])
def test_a_run_whose_first_place_is_taken_is_kept_and_found_in_the_second(
    tmp_path: Path, two: tuple[Path, Path], give: Callable[[Path], None], kind: str
) -> None:
    first, second = two
    SQUATS[kind](first, give)
    before = os.umask(0)
    try:
        with Child(tmp_path, _in_two(*two)) as child:
            run = child.run()
            assert run.folder == second / "test"
            until(lambda: "warning" in child.err)
            assert child.err.count("warning") == 1
            assert f"refused {first}" in child.err and f"runs are kept in {second}" in child.err
            assert run.pause(timeout=10).fate.state == "applied"
            assert [each.id for each in client.runs()] == ["test"]
            assert client.remove_ended() == []
            child.process.kill()
            child.process.wait()
    finally:
        os.umask(before)
    for each in (second, second.parent, second.parent.parent):
        assert stat.S_IMODE(each.stat().st_mode) == 0o700
    assert client.remove_ended() == ["test"]


def test_runs_of_both_places_are_found_and_no_name_lives_in_two(tmp_path: Path, two: tuple[Path, Path]) -> None:
    first, second = two
    first.touch()
    with Child(tmp_path, _in_two(*two)) as child:
        child.run()
        first.unlink()
        with Child(tmp_path, _in_two(*two), name="other") as other, Child(tmp_path, _in_two(*two)) as same:
            assert other.run("other").folder == first / "other"
            again = same.run("test-2")
            assert again.folder == first / "test-2"
            until(lambda: "a living run is called 'test'" in same.err)
            assert client.attach("test").folder == second / "test"
            assert {run.id for run in client.runs(ended=False)} == {"test", "test-2", "other"}


def test_where_no_place_can_be_used_the_first_refusal_is_told(tmp_path: Path, two: tuple[Path, Path]) -> None:
    first, second = two
    assert client.runs() == []
    first.touch()
    assert client.runs() == []  # a worker makes the second place when it needs it
    second.parent.mkdir(parents=True)
    second.touch()
    with pytest.raises(FolderRefusedError, match=f"refused {first}"):
        client.runs()
    with Child(tmp_path, _in_two(*two, "import spark_fast as spark\nspark.checkpoint()\n")) as child:
        assert child.ended() == 0
        assert f"can't be controlled from outside: refused {first}" in child.err


# --- code of the working directory ---


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: its files have the names of modules that we import, and say so when they are."""
    path = tmp_path / "trap"
    path.mkdir()
    for name in ("spark_fast", "typer", "typing", "json", "subprocess", "rich", "torch"):
        (path / f"{name}.py").write_text(
            f"open({str(tmp_path / 'sprung')!r}, 'a').write({name!r})\nraise SystemExit(9)\n"
        )
    monkeypatch.chdir(path)
    return path


def test_use_runs_nothing_of_the_working_directory_and_the_script_finds_what_is_beside_it(
    tmp_path: Path, trap: Path
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "beside.py").write_text("number = 7\n")
    (project / "train.py").write_text(
        "import beside\nimport spark_fast as spark\ndef number(): return beside.number\nspark.expose(number=number)\n"
        + LOOP
    )
    used = client.use(str(project / "train.py"), name="test")
    try:
        assert used.number() == 7
    finally:
        used.controller.stop(timeout=10)
    assert not (tmp_path / "sprung").exists()


def test_a_user_who_asks_for_a_safe_path_gets_it_also_from_use(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from spark_fast.own_process import asks_for_safe_path, own_command; print(asks_for_safe_path())"
    added = own_command()[2:4]

    def asked(*flags: str, **env: str) -> bool:
        done = subprocess.run(
            [sys.executable, *flags, "-c", code], env=os.environ | env, capture_output=True, text=True, check=True
        )
        return done.stdout.strip() == "True"

    assert added[0] == "-X"
    assert not asked()
    assert asked("-P")
    assert asked(PYTHONSAFEPATH="1")
    assert not asked("-P", *added)


def test_a_relay_imports_nothing_of_its_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = _private(tmp_path / "run")
    monkeypatch.setenv("PYTHONPATH", f":{tmp_path / 'libraries'}:")
    place = host_files.HostPlace("tcp://127.0.0.1:1/x", "n", "host", 0, 1, 2, 0, 1.0, sys.executable, "")
    host_files.write_place(run, place)
    started: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: started.append(command))
    requests.ring(run)
    [command] = started
    assert command[command.index(sys.executable) + 1] == "-P"
    assert requests._absolute_python_path() == [str(tmp_path / "libraries")]


def test_folders_are_made_for_their_owner_alone_whatever_the_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        safe_paths.make_folders(tmp_path / "a" / "b" / "c")
        os.close(safe_paths.open_private(tmp_path / "d" / "e" / "f", make=True, make_parents=True))
    finally:
        os.umask(before)
    made = [tmp_path / name for name in ("a", "a/b", "a/b/c", "d", "d/e", "d/e/f")]
    assert [stat.S_IMODE(each.stat().st_mode) for each in made] == [0o700] * 6
