"""The store of code versions, and what a sender makes a version of. The worker's part is played by the tests."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spark_fast.client import changes
from spark_fast.client.changes import add_version
from spark_fast.client.diffs import diff
from spark_fast.errors import CodeRefusedError, FolderRefusedError, SparkError, StoreError
from spark_fast.project.files import is_project_file, relative
from spark_fast.project.sources import check, decode, encode, imports_of
from spark_fast.runfiles.versions import SOURCE_MAX, Store, Version, digest_of
from tests.support.child import until

pytestmark = pytest.mark.unit

OLD = time.time() - 3600


class Project:
    """A folder of sources and the store of a run that has loaded some of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "project"
        self.folder.mkdir()
        self.run = folder / "run"
        self.run.mkdir(mode=0o700)
        self.store = Store(self.run)

    def write(self, name: str, text: str) -> str:
        """An edit that is over: the file holds still."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (OLD, OLD))
        return str(path)

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def start(self, *more: str, entry: str = "train.py") -> Version:
        """What a worker does at its start; `more` is what the entry imports before it loops."""
        self.store.create(self.path(entry), [str(self.folder)], [str(self.folder)])
        self.load(entry, "__main__")
        first = self.store.make_first("worker")
        for name in more:
            self.load(name)
        return first

    def load(self, name: str, module: str | None = None) -> None:
        path = self.path(name)
        self.store.record(module or Path(name).stem, path, Path(path).read_bytes(), self.store.current_number())

    def reload(self, code: str | bytes | None = None, to: int | None = None, run: bool = True) -> Version | None:
        """What a sender does, and a worker that can."""
        version = add_version(self.store, "sender", code=code, to=to)
        if version is not None and run:
            self.store.set_current(version.number)
        return version

    def text(self, version: Version, name: str) -> str:
        return self.store.source(version.files[self.path(name)]).decode()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    project.write("train.py", "import helper\nrate = 1\n")
    project.write("helper.py", "name = 'old'\n")
    return project


def made(version: Version | None) -> Version:
    assert version is not None
    return version


# --- the store ---


def test_a_run_without_a_store_can_not_be_reloaded(project: Project) -> None:
    assert not project.store.reloadable
    assert (project.store.versions(), project.store.loaded(), project.store.current_number()) == ([], [], 0)
    project.start()
    assert project.store.reloadable
    about = project.store.about()
    assert about.entry == project.path("train.py")
    assert about.roots == about.path == (str(project.folder),)
    assert about.python == "{}.{}".format(*sys.version_info)


def test_the_first_version_is_what_has_been_loaded_so_far(project: Project) -> None:
    first = project.start()
    assert (first.number, first.note, first.sender) == (1, "start", "worker")
    assert list(first.files) == [project.path("train.py")]
    assert first.files == first.disk
    assert project.store.current() == first == project.store.version(1)
    assert project.text(first, "train.py") == "import helper\nrate = 1\n"


def test_what_was_imported_later_belongs_to_the_version_that_runs(project: Project) -> None:
    project.start("helper.py")
    current = project.store.current()
    assert set(current.files) == {project.path("train.py"), project.path("helper.py")}
    assert current.files == current.disk
    assert [(line.module, line.version) for line in project.store.loaded()] == [("__main__", 0), ("helper", 1)]
    assert set(project.store.version(1).files) == {project.path("train.py")}


def test_everything_in_the_store_is_its_owners_alone(project: Project) -> None:
    mask = os.umask(0)
    try:
        project.start("helper.py")
        project.reload("rate = 2\n")
    finally:
        os.umask(mask)
    everything = [project.run / "code", *(project.run / "code").rglob("*")]
    assert len(everything) > 8
    assert {path.stat().st_mode & 0o077 for path in everything} == {0}


def test_a_folder_that_others_can_enter_or_that_is_a_link_is_refused(project: Project, tmp_path: Path) -> None:
    project.start()
    code = project.run / "code"
    code.chmod(0o750)
    with pytest.raises(FolderRefusedError, match="mode 0750"):
        project.store.current()
    code.chmod(0o700)
    code.rename(tmp_path / "elsewhere")
    code.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FolderRefusedError, match="no link"):
        project.store.current()


@pytest.mark.parametrize("name", ["entry.json", "loaded.jsonl", "current", "versions/1.json"])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "noise"])
def test_a_file_of_the_store_that_is_none_is_a_clear_error(project: Project, name: str, kind: str) -> None:
    project.start()
    path = project.run / "code" / name
    content = path.read_bytes()
    path.unlink()
    if kind == "link":
        target = project.run / "target"
        target.write_bytes(content)
        path.symlink_to(target)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"\xff\x00\n")
    with pytest.raises(StoreError, match=str(path)):
        add_version(project.store, "sender")


def test_a_record_that_is_too_large_is_not_read(project: Project) -> None:
    project.start()
    with open(project.run / "code" / "versions" / "1.json", "r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(StoreError, match="at most"):
        project.store.current()


def test_a_source_that_was_changed_in_the_store_is_found_out(project: Project) -> None:
    first = project.start()
    digest = first.files[project.path("train.py")]
    blob = project.run / "code" / "blobs" / digest
    blob.write_bytes(b"import evil\n")
    with pytest.raises(StoreError, match="another digest"):
        project.store.source(digest)
    blob.unlink()
    with pytest.raises(StoreError, match="not there"):
        project.store.source(digest)
    with pytest.raises(StoreError, match="not there"):
        project.store.source("../entry.json")


@given(cut=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_torn_last_line_of_what_was_loaded_is_left_out(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    project = Project(tmp_path_factory.mktemp("torn"))
    for name in ("train.py", "a.py", "b.py"):
        project.write(name, f"name = {name!r}\n")
    project.start("a.py", "b.py")
    path = project.run / "code" / "loaded.jsonl"
    whole = path.read_bytes()
    kept = whole[: cut % (len(whole) + 1)]
    path.write_bytes(kept)
    modules = [line.module for line in project.store.loaded()]
    assert modules == ["__main__", "a", "b"][: kept.count(b"\n")]


def test_a_line_on_a_full_disk_is_written_whole_or_not_at_all(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.start()
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, line: write(fd, line[:10]))
    with pytest.raises(OSError, match="no room"):
        project.load("helper.py")
    monkeypatch.undo()
    project.load("helper.py")
    assert [line.module for line in project.store.loaded()] == ["__main__", "helper"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("/x/a.py"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["entry", "roots", "path", "python", "number", "made", "sender", "note", "files", "disk", "module", "digest"]


@given(
    name=st.sampled_from(["entry.json", "loaded.jsonl", "versions/1.json"]),
    fields=st.dictionaries(st.sampled_from(FIELDS), JSON, min_size=1, max_size=3),
    cut=st.none() | st.integers(0, 200),
)
@settings(max_examples=150, deadline=None)
def test_hostile_records_are_errors_of_ours_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, name: str, fields: dict[str, object], cut: int | None
) -> None:
    project = Project(tmp_path_factory.mktemp("hostile"))
    project.write("train.py", "rate = 1\n")
    project.start()
    path = project.run / "code" / name
    raw = json.dumps({**json.loads(path.read_bytes()), **fields}).encode()[:cut] + b"\n"
    path.write_bytes(raw)
    try:
        version = add_version(project.store, "sender", code="rate = 2\n")
        assert version is not None
        diff(project.store, project.store.version(1), version)
    except SparkError as error:
        assert str(error)


@pytest.mark.parametrize("raw", [b"[" * 100_000, b'{"number": 1e999}', b"9" * 5000, b"null", b"[]", b'"x"'])
def test_records_that_break_parsers_are_clear_errors(project: Project, raw: bytes) -> None:
    project.start()
    for name in ("entry.json", "loaded.jsonl", "versions/1.json"):
        path = project.run / "code" / name
        before = path.read_bytes()
        path.write_bytes(raw + b"\n")
        with pytest.raises(StoreError, match="damaged"):
            add_version(project.store, "sender")
        path.write_bytes(before)


def test_a_source_of_over_16_mib_is_refused(project: Project) -> None:
    project.start()
    with pytest.raises(CodeRefusedError, match=r"late\.py has 16777217 bytes"):
        project.store.record("late", project.path("late.py"), b"#" * (SOURCE_MAX + 1), 1)
    with pytest.raises(CodeRefusedError, match=r"train\.py has 16777217 bytes"):
        project.reload(b"#" * (SOURCE_MAX + 1))
    os.truncate(project.path("train.py"), 1 << 40)
    with pytest.raises(CodeRefusedError, match=r"train\.py has 1099511627776 bytes"):
        project.reload()


@pytest.mark.process
def test_senders_at_once_get_numbers_of_their_own(project: Project) -> None:
    project.start()
    code = """
import sys
from pathlib import Path
from spark_fast.runfiles.versions import Store
store = Store(Path(sys.argv[1]))
for turn in range(20):
    digest = store.put(f"{sys.argv[2]} {turn}".encode())
    print(store.add({"/x.py": digest}, {}, "pushed", sys.argv[2]).number)
"""
    senders = [
        subprocess.Popen([sys.executable, "-c", code, str(project.run), name], stdout=subprocess.PIPE, text=True)
        for name in "abc"
    ]
    numbers = [int(number) for sender in senders for number in sender.communicate(timeout=60)[0].split()]
    assert sorted(numbers) == list(range(2, 62))
    assert [version.number for version in project.store.versions()] == list(range(1, 62))
    assert {version.sender for version in project.store.versions()[1:]} == {"a", "b", "c"}


@pytest.mark.process
def test_a_sender_that_is_killed_leaves_whole_versions_only(project: Project) -> None:
    project.start()
    code = """
import sys
from pathlib import Path
from spark_fast.runfiles.versions import Store
store = Store(Path(sys.argv[1]))
print("here", flush=True)
turn = 0
while True:
    turn += 1
    digest = store.put(f"{turn}".encode() * 1000)
    store.add({f"/{n}.py": digest for n in range(500)}, {}, "pushed", "killed")
"""

    def newest() -> int:
        names = os.listdir(project.run / "code" / "versions")
        return max(int(name.removesuffix(".json")) for name in names if name[0] != ".")

    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", code, str(project.run)], stdout=subprocess.PIPE) as sender:
            assert sender.stdout is not None
            sender.stdout.readline()
            before = newest()
            until(lambda before=before: newest() > before + 3)  # type: ignore[misc]
            sender.send_signal(signal.SIGKILL)
    versions = project.store.versions()
    last = newest()  # a fast sender has made more than are kept, beside the one that runs
    assert [version.number for version in versions] == [1, *range(last - len(versions) + 2, last + 1)]
    for version in versions[1:]:
        assert len(version.files) == 500
        project.store.source(version.files["/0.py"])
    assert made(project.reload("rate = 2\n")).number == last + 1


def test_a_version_that_nobody_was_asked_to_run_can_be_taken_back(project: Project) -> None:
    project.start()
    version = made(project.reload("rate = 2\n", run=False))
    project.store.discard(version)
    assert [each.number for each in project.store.versions()] == [1]


# --- what counts as the project's code ---


def test_project_files_are_those_below_a_root_that_nobody_installed(tmp_path: Path) -> None:
    root = tmp_path / "project"
    for name in ("a.py", "pkg/b.py", "notes.txt", ".venv/pyvenv.cfg", ".venv/lib/c.py", "site-packages/d.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    roots = [str(root)]

    def ours(name: str | Path) -> bool:
        return is_project_file(str(root / name), roots)

    assert ours("a.py") and ours("pkg/b.py") and ours("pkg/not/there/yet.py")
    assert not ours("notes.txt")
    assert not ours(".venv/lib/c.py")
    assert not ours("site-packages/d.py")
    assert not ours(tmp_path / "project2" / "a.py")
    assert not ours(tmp_path / "a.py")
    assert not is_project_file(str(root / "a.py"), [])


def test_neither_the_standard_library_nor_spark_fast_is_the_projects_whatever_the_roots() -> None:
    import spark_fast

    for file in (json.__file__, os.__file__, spark_fast.__file__, pytest.__file__):
        assert not is_project_file(file, ["/"]), file
    assert is_project_file(__file__, ["/"])


def test_the_standard_library_of_another_interpreter_is_not_the_projects(tmp_path: Path) -> None:
    library = tmp_path / "lib" / "python3.19"
    (library / "email").mkdir(parents=True)
    (library / "os.py").touch()
    assert not is_project_file(str(library / "email" / "parser.py"), [str(tmp_path)])
    assert is_project_file(str(tmp_path / "python3_models" / "a.py"), [str(tmp_path)])


def test_links_are_the_projects_unless_they_lead_to_what_is_installed(tmp_path: Path) -> None:
    root, shared, site = tmp_path / "project", tmp_path / "shared", tmp_path / "site-packages"
    for folder in (root, shared, site):
        folder.mkdir()
    (root / "shared").symlink_to(shared)
    (root / "vendored").symlink_to(site)
    (tmp_path / "name").symlink_to(root)
    assert is_project_file(str(root / "shared" / "a.py"), [str(root)])
    assert not is_project_file(str(root / "vendored" / "a.py"), [str(root)])
    # A root that was given by another name than its files have.
    assert is_project_file(str(root / "a.py"), [str(tmp_path / "name")])
    assert is_project_file(str(tmp_path / "name" / "a.py"), [str(root)])


def test_a_project_inside_a_virtual_environment_is_one(tmp_path: Path) -> None:
    (tmp_path / "pyvenv.cfg").touch()
    assert is_project_file(str(tmp_path / "train.py"), [str(tmp_path)])
    assert is_project_file(str(tmp_path / "src" / "train.py"), [str(tmp_path / "src")])


def test_paths_are_shown_from_the_innermost_root_on() -> None:
    assert relative("/a/b/c.py", ["/a", "/a/b", "/x"]) == "c.py"
    assert relative("/q/c.py", ["/a"]) == "/q/c.py"
    assert relative("/ab/c.py", ["/a"]) == "/ab/c.py"


# --- what changed on disk ---


def test_nothing_changed_makes_no_version(project: Project) -> None:
    project.start("helper.py")
    assert project.reload() is None
    os.utime(project.path("helper.py"))
    assert project.reload() is None
    assert len(project.store.versions()) == 1


def test_what_changed_on_disk_is_taken_with_all_that_did_not(project: Project) -> None:
    project.start("helper.py")
    project.write("helper.py", "name = 'new'\n")
    version = made(project.reload())
    assert (version.number, version.note, version.sender) == (2, "changed on disk", "sender")
    assert project.text(version, "helper.py") == "name = 'new'\n"
    assert project.text(version, "train.py") == "import helper\nrate = 1\n"
    assert version.disk == version.files
    assert project.reload() is None


def test_a_version_that_never_ran_is_tried_again(project: Project) -> None:
    project.start()
    project.write("train.py", "1 / 0\n")
    assert made(project.reload(run=False)).number == 2
    again = made(project.reload())
    assert (again.number, project.text(again, "train.py")) == (3, "1 / 0\n")


def test_a_file_that_is_gone_keeps_its_source_and_the_version_says_so(project: Project) -> None:
    project.start("helper.py")
    os.unlink(project.path("helper.py"))
    project.write("train.py", "rate = 2\n")
    version = made(project.reload())
    assert version.note == "changed on disk; gone from disk, and as it was: helper.py"
    assert project.text(version, "helper.py") == "name = 'old'\n"
    project.write("train.py", "rate = 3\n")
    assert made(project.reload()).note == "changed on disk"
    project.write("helper.py", "name = 'back'\n")
    assert project.text(made(project.reload()), "helper.py") == "name = 'back'\n"


def test_an_empty_entry_is_refused_and_another_empty_file_is_not(project: Project) -> None:
    project.start("helper.py")
    project.write("helper.py", "")
    assert project.text(made(project.reload()), "helper.py") == ""
    project.write("train.py", " \n\t\n")
    with pytest.raises(CodeRefusedError, match=r"train\.py is empty"):
        project.reload()
    with pytest.raises(CodeRefusedError, match=r"train\.py is empty"):
        project.reload("\n")


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop"])
def test_a_file_that_can_not_be_read_is_refused_by_name(project: Project, kind: str) -> None:
    project.start()
    path = Path(project.path("train.py"))
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path)
    with pytest.raises(CodeRefusedError, match=r"train\.py can't be read"):
        project.reload()


class Editor:
    """Plays an editor that is in the middle of saving: each time the sender waits, the next thing happens."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self.steps = list(steps)
        self.waits = 0

    def sleep(self, seconds: float) -> None:
        self.waits += 1
        if self.steps:
            self.steps.pop(0)()


@pytest.fixture
def editor(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Editor]:
    def begin(*steps: Callable[[], object]) -> Editor:
        editor = Editor(*steps)
        monkeypatch.setattr("spark_fast.client.changes.time.sleep", editor.sleep)
        monkeypatch.setattr(changes, "_STILL", 5.0)  # so that a slow machine makes no difference
        return editor

    return begin


def test_an_editor_that_empties_a_file_before_it_writes_it_is_waited_for(
    project: Project, editor: Callable[..., Editor]
) -> None:
    project.start()
    path = Path(project.path("train.py"))
    path.write_text("")
    edits = editor(lambda: path.write_text("rate ="), lambda: project.write("train.py", "rate = 2\n"))
    assert project.text(made(project.reload()), "train.py") == "rate = 2\n"
    assert edits.waits == 2


def test_an_empty_file_is_waited_for_longer_but_not_one_that_has_long_been_empty(
    project: Project, editor: Callable[..., Editor]
) -> None:
    project.start("helper.py")
    just_now = time.time() - 20
    Path(project.path("helper.py")).write_text("")
    os.utime(project.path("helper.py"), (just_now, just_now))
    editor(lambda: project.write("helper.py", "name = 'new'\n"))
    assert project.text(made(project.reload()), "helper.py") == "name = 'new'\n"
    project.write("helper.py", "")
    edits = editor()
    assert project.text(made(project.reload()), "helper.py") == ""
    assert edits.waits == 0


def test_an_editor_that_moves_a_file_away_before_it_writes_it_is_waited_for(
    project: Project, editor: Callable[..., Editor]
) -> None:
    project.start("helper.py")
    os.rename(project.path("helper.py"), project.path("helper.py~"))
    editor(lambda: None, lambda: project.write("helper.py", "name = 'new'\n"))
    version = made(project.reload())
    assert (project.text(version, "helper.py"), version.note) == ("name = 'new'\n", "changed on disk")


def test_a_file_that_never_holds_still_is_waited_for_only_so_long(
    project: Project, editor: Callable[..., Editor]
) -> None:
    project.start()
    path = Path(project.path("train.py"))
    path.write_text("rate = 2\n")
    edits = editor(*[lambda: path.write_text("rate = 2\n")] * 100)
    assert project.text(made(project.reload()), "train.py") == "rate = 2\n"
    assert edits.waits == 9


def test_nothing_is_waited_for_where_files_hold_still(project: Project, editor: Callable[..., Editor]) -> None:
    project.write("empty.py", "")
    project.start("helper.py", "empty.py")
    edits = editor()
    project.write("helper.py", "name = 'new'\n")
    os.utime(project.path("empty.py"))
    assert project.reload() is not None
    ahead = time.time() + 3600
    project.write("helper.py", "name = 'newer'\n")
    os.utime(project.path("helper.py"), (ahead, ahead))
    assert project.reload() is not None
    assert edits.waits == 0


def test_a_sender_that_asks_again_reads_only_what_may_have_changed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.start("helper.py")
    read: list[str] = []
    real = changes._read

    def noted(path: str) -> tuple[bytes | None, str, bool]:
        read.append(Path(path).name)
        return real(path)

    monkeypatch.setattr(changes, "_read", noted)

    def nothing_is_read() -> bool:
        # Once what was written is some time ago, the files' times tell.
        read.clear()
        assert project.reload() is None
        return not read

    until(nothing_is_read)
    # Of the same size and with the time that it had: only the system knows.
    project.write("helper.py", "name = 'odd'\n")
    assert project.text(made(project.reload()), "helper.py") == "name = 'odd'\n"
    assert set(read) == {"helper.py"}


# --- imports ---


def test_what_changed_files_import_anew_is_taken_too_and_what_that_imports(project: Project) -> None:
    project.write("pkg/__init__.py", "")
    project.write("pkg/sub/__init__.py", "from .. import base\n")
    project.write("pkg/sub/leaf.py", "from . import twin\nfrom ..base import thing\n")
    project.write("pkg/sub/twin.py", "")
    project.write("pkg/base.py", "thing = 1\n")
    project.write("space/inner.py", "import late\n")
    project.write("late.py", "import os, json, train\n")
    project.write("unused.py", "")
    project.start("helper.py")
    project.write("train.py", "def later():\n    import pkg.sub.leaf\n    from space import inner\n")
    version = made(project.reload())
    names = {relative(path, [str(project.folder)]) for path in version.files}
    assert names == {
        "train.py",
        "helper.py",
        "pkg/__init__.py",
        "pkg/sub/__init__.py",
        "pkg/sub/leaf.py",
        "pkg/sub/twin.py",
        "pkg/base.py",
        "space/inner.py",
        "late.py",
    }
    assert version.disk == version.files


def test_imports_are_looked_up_where_the_worker_would_first(project: Project, tmp_path: Path) -> None:
    project.write("lib/tool.py", "where = 'lib'\n")
    project.write("tool.py", "where = 'top'\n")
    store = project.store
    store.create(project.path("train.py"), [str(project.folder)], [project.path("lib"), str(project.folder)])
    project.load("train.py", "__main__")
    store.make_first()
    project.write("train.py", "import tool\n")
    assert set(made(project.reload()).files) == {project.path("train.py"), project.path("lib/tool.py")}


def test_no_folder_is_walked(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.start("helper.py")
    project.write("train.py", "import helper, other.deep\n")

    def walk(*_: object, **__: object) -> None:
        raise AssertionError("a folder was listed")

    monkeypatch.setattr(os, "scandir", walk)
    monkeypatch.setattr(os, "walk", walk)
    listed = os.listdir
    monkeypatch.setattr(os, "listdir", lambda fd: listed(fd) if isinstance(fd, int) else walk())
    assert project.reload() is not None


def test_imports_are_found_wherever_they_stand() -> None:
    source = b"""
import a.b, c
try:
    import d
except ImportError:
    from e import *
def f():
    from . import g
    class H:
        async def i(self):
            with self, self.x: from ..j.k import l as m
match a:
    case 1: import n
if c: import o
class P: import q
"""
    found = {(".".join(each.names), each.level) for each in imports_of(source)}
    assert found == {
        ("a.b", 0), ("c", 0), ("d", 0), ("e", 0), ("g", 1), ("j.k.l", 2), ("n", 0), ("o", 0), ("q", 0)
    }  # fmt: skip
    assert {".".join(each.names) for each in imports_of(source) if each.sure} == {"a.b", "c", "q"}
    assert imports_of(b"import a\nno python") == []


# --- what does not compile ---


@pytest.mark.process
def test_a_syntax_error_is_told_as_python_tells_it(project: Project) -> None:
    project.start()
    path = project.write("train.py", "import helper\ndef f(:\n    pass\n")
    with pytest.raises(CodeRefusedError) as caught:
        project.reload()
    shown = subprocess.run([sys.executable, path], capture_output=True, text=True, check=False).stderr
    assert caught.value.reason == f"train.py, line 2: SyntaxError: invalid syntax\n{shown}".rstrip("\n")
    assert f'File "{path}", line 2' in shown and "^" in shown
    assert len(project.store.versions()) == 1


@pytest.mark.process
@pytest.mark.parametrize(
    "code", ["x = 1\nreturn x\n", "x = (\n", "x = 'a\n", "f'{a b}'\n", "if x:\ny\n", "nonlocal x\n", "a = 0777\n"]
)
def test_the_marked_line_is_the_one_that_was_sent_not_the_one_on_disk(project: Project, code: str) -> None:
    project.start()
    project.write("train.py", "on_disk = 1\n" * 3)
    sent = project.write("sent.py", code)
    with pytest.raises(CodeRefusedError) as caught:
        project.reload(code)
    shown = subprocess.run([sys.executable, sent], capture_output=True, text=True, check=False).stderr
    assert caught.value.reason.split("\n", 1)[1] == shown.replace("sent.py", "train.py").rstrip("\n")


def test_text_that_can_not_be_encoded_as_it_says_itself_is_refused(project: Project) -> None:
    project.start()
    for code in ("# coding: ascii\nname = 'é'\n", "name = '\ud800'\n"):
        with pytest.raises(CodeRefusedError, match=r"encode|decode"):
            project.reload(code)


@pytest.mark.parametrize("code", [b"x = 1\0\n", b"x = '\xff'\n", b"# coding: no-such\n", b"(" * 1000])
def test_bytes_that_are_no_source_are_refused_with_the_file(project: Project, code: bytes) -> None:
    project.start()
    with pytest.raises(CodeRefusedError, match=r"train\.py"):
        project.reload(code)


def test_each_file_that_does_not_compile_is_told(project: Project) -> None:
    project.start("helper.py")
    project.write("train.py", "x = (\n")
    project.write("helper.py", "y = )\n")
    with pytest.raises(CodeRefusedError, match=r"(?s)(train.*helper|helper.*train)"):
        project.reload()


def test_a_new_import_that_does_not_compile_is_refused_only_if_it_surely_runs(project: Project) -> None:
    project.write("old.py", "print 'hello'\n")
    project.start()
    project.write("train.py", "try:\n    import old\nexcept SyntaxError:\n    pass\n")
    assert project.reload() is not None
    project.write("other.py", "print 'hello'\n")
    project.write("train.py", "import other\n")
    with pytest.raises(CodeRefusedError, match=r"other\.py"):
        project.reload()


def test_another_python_than_the_workers_does_not_judge_its_code(project: Project) -> None:
    project.start()
    path = project.run / "code" / "entry.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "python": "3.99"}))
    assert project.text(made(project.reload("a syntax of 3.99\n")), "train.py") == "a syntax of 3.99\n"


def test_warnings_of_the_compiler_are_no_errors_and_are_not_printed(capfd: pytest.CaptureFixture[str]) -> None:
    assert check({"/x.py": rb"'\d'; 1 is 1" + b"\n"}) == []
    assert capfd.readouterr().err == ""


# --- code that is given, and going back ---


def test_pushed_code_takes_the_place_of_the_entry_and_no_file_is_written(project: Project) -> None:
    project.start("helper.py")
    project.write("helper.py", "name = 'edited'\n")
    version = made(project.reload("import helper\nrate = 5\n"))
    assert version.note == "pushed"
    assert project.text(version, "train.py") == "import helper\nrate = 5\n"
    assert Path(project.path("train.py")).read_text() == "import helper\nrate = 1\n"
    # What was edited on disk is no part of it, and still counts as changed; what was pushed stays.
    assert project.text(version, "helper.py") == "name = 'old'\n"
    after = made(project.reload())
    assert project.text(after, "helper.py") == "name = 'edited'\n"
    assert project.text(after, "train.py") == "import helper\nrate = 5\n"
    project.write("train.py", "rate = 6\n")
    assert project.text(made(project.reload()), "train.py") == "rate = 6\n"


def test_pushed_code_brings_the_files_that_it_imports(project: Project) -> None:
    project.start()
    version = made(project.reload("import helper\n"))
    assert project.text(version, "helper.py") == "name = 'old'\n"
    project.write("helper.py", "name = 'new'\n")
    assert project.text(made(project.reload()), "helper.py") == "name = 'new'\n"


def test_code_without_an_entry_to_take_its_place_is_refused(project: Project) -> None:
    project.store.create(None, [str(project.folder)], [str(project.folder)])
    project.load("helper.py")
    project.store.make_first()
    with pytest.raises(CodeRefusedError, match="no entry file"):
        project.reload("rate = 2\n")
    project.write("helper.py", "name = 'new'\n")
    assert project.reload() is not None


def test_going_back_brings_the_files_of_that_version(project: Project) -> None:
    project.start("helper.py")
    project.write("helper.py", "name = 'two'\n")
    project.reload()
    project.write("train.py", "rate = 3\n")
    project.reload()
    back = made(project.reload(to=1))
    assert (back.number, back.note) == (4, "back to 1")
    assert project.text(back, "helper.py") == "name = 'old'\n"
    assert project.text(back, "train.py") == "import helper\nrate = 1\n"
    # What is on disk was taken before, so it does not count as changed.
    assert project.reload() is None
    forth = made(project.reload(to=3))
    assert project.text(forth, "train.py") == "rate = 3\n"
    assert project.reload(to=5) is None
    with pytest.raises(CodeRefusedError, match="there is no version 77"):
        project.reload(to=77)


def test_an_edit_that_was_never_taken_still_counts_after_going_back(project: Project) -> None:
    project.start()
    project.reload("rate = 2\n")
    project.write("train.py", "rate = 3\n")
    project.reload(to=1)
    assert project.text(made(project.reload()), "train.py") == "rate = 3\n"


@given(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=40))
def test_text_that_is_encoded_is_decoded_to_the_same(text: str) -> None:
    assert decode(encode(f"# {text!r}\n")) == f"# {text!r}\n"
    assert decode(encode("# -*- coding: latin-1 -*-\ns = 'é'\n")) == "# -*- coding: latin-1 -*-\ns = 'é'\n"
    assert encode("# coding: latin-1\né\n") == b"# coding: latin-1\n\xe9\n"


# --- what differs ---


def test_a_diff_is_unified_with_paths_relative_to_the_roots(project: Project) -> None:
    project.start("helper.py")
    project.write("train.py", "import helper\nimport fresh\nrate = 1")
    project.write("fresh.py", "x = '\x0c'\n")
    version = made(project.reload())
    assert diff(project.store, project.store.version(1), version).split("\n") == [
        "--- /dev/null\tversion 1",
        "+++ fresh.py\tversion 2",
        "@@ -0,0 +1 @@",
        "+x = '\x0c'",
        "--- train.py\tversion 1",
        "+++ train.py\tversion 2",
        "@@ -1,2 +1,3 @@",
        " import helper",
        "-rate = 1",
        "+import fresh",
        "+rate = 1",
        "\\ No newline at end of file",
        "",
    ]
    assert project.store.changed(project.store.version(1), version) == [
        project.path("fresh.py"),
        project.path("train.py"),
    ]
    assert project.store.changed(None, version) == sorted(version.files)


@pytest.mark.process
@pytest.mark.tier("all")
def test_a_diff_applies_with_patch(project: Project, tmp_path: Path) -> None:
    old = "".join(f"line_{number} = {number}\n" for number in range(200))
    project.write("train.py", old)
    project.start()
    new = old.replace("line_7 = 7", "line_7 = 'x\\r'\r").replace("line_150 = 150\n", "") + "end = 1"
    project.write("train.py", new)
    version = made(project.reload())
    (tmp_path / "train.py").write_bytes(old.encode())
    text = diff(project.store, project.store.version(1), version)
    done = subprocess.run(
        ["patch", "--binary", "-p0"], input=text.encode(), cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "train.py").read_bytes() == Path(project.path("train.py")).read_bytes()


def test_threads_may_load_at_once(project: Project) -> None:
    project.start()

    def load(number: int) -> None:
        for turn in range(20):
            project.store.record(f"m{number}", f"/x/m{number}_{turn}.py", b"x" * turn, 1)

    threads = [threading.Thread(target=load, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    loaded = project.store.loaded()
    assert len(loaded) == 81
    assert {line.digest for line in loaded[1:]} == {digest_of(b"x" * turn) for turn in range(20)}
