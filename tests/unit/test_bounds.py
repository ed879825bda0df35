"""What a run keeps in its folder has a bound, however long it lives and whatever is asked of it."""

import os
from pathlib import Path

import pytest

from spark_fast.errors import StoreError
from spark_fast.hosts import relay
from spark_fast.runfiles import mailbox, versions
from spark_fast.runfiles.mailbox import Reply
from spark_fast.runfiles.versions import Store
from tests.support.child import Child, outcome
from tests.support.reloading import Edited

pytestmark = pytest.mark.unit


@pytest.fixture
def store(tmp_path: Path) -> Store:
    os.chmod(tmp_path, 0o700)
    found = Store(tmp_path)
    found.create(str(tmp_path / "train.py"), [str(tmp_path)], [str(tmp_path)])
    return found


def count(folder: Path) -> int:
    return len(list(folder.iterdir()))


# --- code ---


def test_the_newest_versions_are_kept_and_the_one_that_runs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "VERSIONS_MAX", 8)
    monkeypatch.setattr(versions, "_PASSED_BY", 2)
    monkeypatch.setattr(versions, "_UNUSED", -1.0)
    path = str(store.folder / "train.py")
    imported = store.record("other", str(store.folder / "other.py"), b"other = 1\n", 1)
    for number in range(1, 61):
        digest = store.put(b"number = %d\n" % number)
        assert store.add({path: digest}, {}, "pushed", "a test").number == number
        if number == 5:
            store.set_current(5)
        assert len(store.versions()) <= 8 + 2 + 1
        assert count(store.blobs) <= 8 + 2 + 1 + 1
    assert store.versions()[0].number == 5
    for version in store.versions():
        assert store.source(version.files[path]) == b"number = %d\n" % version.number
    assert store.source(imported) == b"other = 1\n"
    gone = store.versions()[1].number - 1
    with pytest.raises(StoreError, match=f"there is no version {gone}: the newest 8 are kept"):
        store.version(gone)
    with pytest.raises(StoreError, match=r"there is no version 61$"):
        store.version(61)


def test_a_source_that_was_put_a_moment_ago_waits_for_its_version(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "VERSIONS_MAX", 4)
    monkeypatch.setattr(versions, "_PASSED_BY", 0)
    path = str(store.folder / "train.py")
    old = store.put(b"put long ago")
    os.utime(store.blobs / old, (1.0, 1.0))
    again = store.put(b"put again")
    os.utime(store.blobs / again, (1.0, 1.0))
    assert store.put(b"put again") == again
    young = store.put(b"put just now")
    for number in range(10):
        store.add({path: store.put(b"number = %d\n" % number)}, {}, "pushed", "a test")
    assert not (store.blobs / old).exists()
    assert store.source(again) == b"put again"
    assert store.source(young) == b"put just now"


def test_what_was_imported_once_is_recorded_once_also_after_a_restart(store: Store) -> None:
    path = str(store.folder / "other.py")
    for _ in range(50):
        store.record("other", path, b"one\n", 1)
    again = Store(store.folder)
    for _ in range(50):
        again.record("other", path, b"one\n", 1)
    assert len(store.loaded()) == 1
    again.record("other", path, b"two\n", 1)
    again.record("other", path, b"one\n", 1)
    assert [store.source(line.digest) for line in store.loaded()] == [b"one\n", b"two\n", b"one\n"]


def test_scripts_for_spawned_processes_are_kept_for_the_latest_states_of_the_code(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "SPAWNED_MAX", 5)
    first = Path(store.keep_script(b"# first"))
    for number in range(20):
        path = Path(store.keep_script(b"# %d" % number))
        os.utime(path, (number + 1.0, number + 1.0))
        assert path.exists()
        store.keep_script(b"# first")
    assert first.exists()
    assert count(first.parent) == 5


@pytest.mark.process
def test_a_run_goes_on_and_back_where_old_versions_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "VERSIONS_MAX", 3)
    monkeypatch.setattr(versions, "_PASSED_BY", 0)
    monkeypatch.setattr(versions, "_UNUSED", -1.0)
    code = """
    import time
    import spark_fast as spark
    NUMBER = 0
    state = spark.expose(number=0)
    for _ in spark.track(range(10**9), key="item"):
        state.number = NUMBER
        time.sleep(0.001)
    """
    with Edited(tmp_path, code) as training:
        run = training.run()
        for number in range(1, 9):
            training.edit(f"NUMBER = {number - 1}", f"NUMBER = {number}")
            assert training.reloaded().version == number + 1
        assert [version.number for version in run.versions] == [7, 8, 9]
        assert run.reload(to=7).fate.state == "applied"
        assert "there is no version 2: the newest 3 are kept" in outcome(run.reload, to=2).fate.reason


# --- replies ---


def test_answers_of_former_ranks_and_other_hosts_are_removed_but_for_those_of_calls_that_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.chmod(tmp_path, 0o700)
    monkeypatch.setattr(mailbox, "REPLIES_MAX", 8)
    for ident in range(1, 21):
        for rank in (None, 0, 3):
            mailbox.write_reply(tmp_path, ident, Reply("begun" if ident == 2 else "done"), rank)
        for path in (tmp_path / "replies").glob(f"{ident:016x}*"):
            os.utime(path, (ident, ident))
    mailbox.prune_replies(tmp_path)
    assert count(tmp_path / "replies") == (8 + 1) * 3
    left = {int(path.name[:16], 16) for path in (tmp_path / "replies").iterdir()}
    assert left == {2, *range(13, 21)}


@pytest.mark.process
def test_answers_to_reloads_are_pruned_too(tmp_path: Path) -> None:
    code = """
    import time
    import spark_fast as spark
    from spark_fast.worker import replies
    replies._KEPT = 4
    NUMBER = 0
    while True:
        spark.checkpoint()
        time.sleep(0.001)
    """
    with Edited(tmp_path, code) as training:
        run = training.run()
        for number in range(1, 13):
            request = outcome(run.reload, training.source().replace("NUMBER = 0", f"NUMBER = {number}"))
            assert request.fate.state == "refused"
            assert "start" in request.fate.reason
        assert count(run.folder / "replies") == 4


@pytest.mark.process
def test_answers_that_a_process_before_has_left_are_removed_by_the_next(tmp_path: Path) -> None:
    code = """
    import time
    import spark_fast as spark
    from spark_fast.runfiles import mailbox
    from spark_fast.worker import process, session
    mailbox.REPLIES_MAX = 4
    process.attach()
    for ident in range(1, 21):
        mailbox.write_reply(session.folder(), ident, mailbox.Reply("done"))
    state = spark.expose(f=len)
    while True:
        spark.checkpoint()
        time.sleep(0.001)
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        assert run.call("f", [1, 2]) == 2
        assert count(run.folder / "replies") <= 4 + 1


# --- hosts ---


def test_the_log_of_a_relay_begins_anew_when_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "LOG_MAX", 1000)
    path = tmp_path / "relay.log"
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number in range(200):
        relay._note(f"the store is gone, {number}", log)
        assert path.stat().st_size < 1000 + 100
    os.close(log)
    assert path.read_text().splitlines()[-1].endswith("the store is gone, 199")
