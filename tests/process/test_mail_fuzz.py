"""Mail, descriptions and boards that nobody in his right mind has written: workers go on, readers say what is wrong."""

import json
import os
import random
import shutil
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spark_fast import client
from spark_fast.client import FolderRefusedError, SegmentError, StoreError
from spark_fast.client.send import ask
from spark_fast.request import Kind
from spark_fast.runfiles import journal, mailbox
from tests.support.child import Child, outcome, until

pytestmark = pytest.mark.process

EXAMPLES = int(os.environ.get("SF_TEST_FUZZ", "150"))

TRAINING = """
import time
import spark_fast as spark

calls = 0

def count(*args, **kwargs):
    global calls
    calls += 1
    return calls

def secret(*args, **kwargs):
    print("SECRET", flush=True)

def secret_setter(value):
    print("SECRET", flush=True)

state = spark.expose(
    count=count, lr=spark.value(0.1, min=0, max=1), epochs=3, debug=False, name="first", card={"a": [1]}, loss=0.0,
    best=spark.value(1.0, readonly=True, on_set=secret_setter),
)
while True:
    spark.checkpoint()
    state.loss += 0.5
    time.sleep(0.0005)
"""

NAMES = ["count", "lr", "epochs", "card", "best", "secret", "state", "__import__", "count.__call__", "\ud800", "", None]

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([*NAMES, "name", "value", "args", "kwargs"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
letters = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(NAMES) | json_values,
        "value": json_values,
        "args": st.lists(json_values, max_size=3) | json_values,
        "kwargs": st.dictionaries(st.text(max_size=8), json_values, max_size=3) | json_values,
    },
)


def as_raw(content: object) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass")


raw_mail = (
    st.binary(max_size=300)
    | letters.map(as_raw)
    | json_values.map(as_raw)
    | st.tuples(letters.map(as_raw), st.integers(0, 300)).map(lambda pair: pair[0][: pair[1]])
    | st.tuples(letters.map(as_raw), st.sampled_from(["utf-16", "utf-32", "utf-8-sig"])).map(
        lambda pair: pair[0].decode("utf-8", "surrogatepass").encode(pair[1], "surrogatepass")
    )
)


class Post:
    """Leaves whatever it is told to as mail, and asks for it to be delivered."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.run = child.run()
        self.folder = self.run.folder / "mail"
        self.folder.mkdir(mode=0o700, exist_ok=True)

    def sends(self, kind: Kind, leave: Callable[[Path], object]) -> client.Fate:
        ident = int.from_bytes(os.urandom(7), "big")
        leave(self.folder / f"{mailbox.mail_name(ident)}.json")
        request = ask(self.run._connection, kind, False, None, mail=mailbox.mail_name(ident), ident=ident)
        fate = request.wait(30)
        assert fate.state in ("applied", "refused", "failed"), fate
        assert fate.step is not None
        assert "Traceback" not in request.output
        return fate

    def over(self) -> None:
        """The run goes on, can be asked for what makes sense, and has a journal that can be read."""
        self.child.steps_on(self.run)
        assert self.run.set("lr", 0.5, timeout=30).fate.state == "applied"
        assert self.run.call("count", spark_timeout=30) >= 1
        assert self.run.values["best"].value == 1.0
        path = journal.of_folder(self.run.folder)
        assert path is not None
        assert not journal.read(path).torn
        assert "SECRET" not in self.child.out
        assert "Traceback" not in self.child.err


def test_whatever_is_in_the_mail_the_loop_goes_on_and_the_request_has_a_fate(tmp_path: Path) -> None:
    with Child(tmp_path, TRAINING) as child:
        post = Post(child)

        @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(st.sampled_from([Kind.SET, Kind.CALL]), raw_mail)
        def fuzz(kind: Kind, raw: bytes) -> None:
            fate = post.sends(kind, lambda path: path.write_bytes(raw))
            if fate.state == "applied":
                name = json.loads(raw)["name"]
                assert name == "count" if kind == Kind.CALL else name in ("lr", "epochs", "card")

        fuzz()
        post.over()


def test_mail_of_any_depth_is_taken_or_refused(tmp_path: Path) -> None:
    with Child(tmp_path, TRAINING) as child:
        post = Post(child)
        for depth in [98, 99, *range(100, 1010, 3 if EXAMPLES < 1000 else 1), 100_000]:
            nested = b"[" * depth + b"]" * depth
            for kind, content in (
                (Kind.SET, b'{"name": "card", "value": %s}' % nested),
                (Kind.CALL, b'{"name": "count", "args": %s}' % nested),
            ):
                fate = post.sends(kind, lambda path: path.write_bytes(content))  # noqa: B023
                assert fate.state == "applied" if depth < 100 else fate.state == "refused", (depth, kind)
        post.over()
        nested_list: list[Any] = []
        for _ in range(200):
            nested_list = [nested_list]
        assert "nested more than 100 deep" in outcome(post.run.set, "card", nested_list).fate.reason


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        os.chdir(path.parent)
        made.bind(path.name)


def filled_folder(path: Path) -> None:
    path.mkdir()
    (path / "more").write_text("{}")


@pytest.mark.parametrize(
    ("leave", "why"),
    [
        (lambda path: path.symlink_to("/etc/passwd"), "found a symbolic link"),
        (lambda path: path.symlink_to(path.name), "found a symbolic link"),
        (lambda path: path.symlink_to(path.parent / "valid"), "found a symbolic link"),
        (os.mkfifo, "found a named pipe"),
        (Path.mkdir, "it is no file of yours"),
        (filled_folder, "it is no file of yours"),
        (unix_socket, "found a socket"),
        (lambda path: None, "it is not there"),
        (lambda path: path.write_bytes(b""), "it is damaged"),
        (lambda path: path.write_bytes(b" " * (mailbox.MAIL_MAX + 1)), "at most 1048576 are read"),
        (lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_RDWR, 0o600), 1 << 40), "at most 1048576 are read"),
        (lambda path: path.write_bytes(b'{"name": "lr", "value": ' + b"9" * 10_000 + b"}"), "it is damaged"),
        (lambda path: path.write_bytes(b'{"name": "lr", "value": ' + b"9" * 4000 + b"}"), "finite number"),
        (lambda path: path.write_bytes(b'{"name": "lr", "value": 1e999}'), "finite number"),
        (lambda path: path.write_bytes(b'{"name": "lr", "value": NaN}'), "finite number"),
        (lambda path: path.write_bytes(b'{"name": "' + b"x" * 1_000_000 + b'", "value": 1}'), "no exposed value"),
        (lambda path: path.parent.chmod(0o755), "mode 0700"),
    ],
)
def test_what_is_no_mail_is_refused_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leave: Callable[[Path], object], why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with Child(tmp_path, TRAINING) as child:
        post = Post(child)
        (post.folder / "valid").write_bytes(b'{"name": "lr", "value": 0.7}')
        fate = post.sends(Kind.SET, leave)
        assert fate.state == "refused"
        assert why in fate.reason
        assert post.run.values["lr"].value == 0.1
        post.folder.chmod(0o700)
        post.over()


def test_a_folder_of_mail_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    with Child(tmp_path, TRAINING) as child:
        post = Post(child)
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir(mode=0o700)
        post.folder.rmdir()
        post.folder.symlink_to(elsewhere)
        fate = post.sends(Kind.SET, lambda path: path.write_bytes(b'{"name": "lr", "value": 0.7}'))
        assert fate.state == "refused"
        assert len(list(elsewhere.iterdir())) == 1  # nothing was removed there
        post.folder.unlink()
        post.folder.mkdir(mode=0o700)
        post.over()


def test_a_reply_that_can_not_be_written_is_a_failure_and_no_success(tmp_path: Path) -> None:
    with Child(tmp_path, TRAINING) as child:
        run = child.run()
        (run.folder / "replies").write_text("a file")
        request = outcome(run.request_call, "count", timeout=30)
        assert request.fate.state == "failed"
        assert request.result is None
        assert run.set("lr", 0.25, timeout=30).fate.state == "applied"
        child.steps_on(run)


# --- readers ---


def reads(*, steps: bool = True) -> None:
    """Reads all that a page shows. Only what is documented may be raised."""
    run = client.attach("test")
    for look in (
        lambda: run.values,
        lambda: run.functions,
        lambda: run.history("loss"),
        lambda: run.history("name"),
        lambda: outcome(run.set, "nothing at all", 1),
        run.board_version,
        run.touch,
    ):
        try:
            look()
        except (StoreError, FolderRefusedError, SegmentError, LookupError):
            continue


def swap(path: Path, raw: bytes) -> None:
    """Takes a file's place: the worker keeps the one that it has mapped."""
    making = path.with_name("making")
    making.write_bytes(raw)
    making.chmod(0o600)
    making.replace(path)


def mutated(found: Any, chosen: random.Random, value: object) -> Any:
    """The same with one part of it removed or replaced."""
    if isinstance(found, (dict, list)) and found and chosen.random() < 0.9:
        keys = list(found) if isinstance(found, dict) else list(range(len(found)))
        key = chosen.choice(keys)
        copy = found.copy()
        if chosen.random() < 0.1:
            del copy[key]
        else:
            copy[key] = mutated(copy[key], chosen, value)
        return copy
    return value


odd_values = json_values | st.sampled_from([-1, 255, 256, 300, 1 << 31, 1 << 32, 1 << 40, 1 << 64, 10**400, 1.5, True])


def test_a_description_that_makes_no_sense_is_said_and_nothing_else(tmp_path: Path) -> None:
    with Child(tmp_path, TRAINING) as child:
        run = child.run()
        file = run.folder / "exposed.json"
        good = file.read_bytes()

        @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(st.randoms(use_true_random=False), odd_values, st.binary(max_size=50))
        def fuzz(chosen: random.Random, value: object, raw: bytes) -> None:
            if chosen.random() < 0.8:
                swap(file, as_raw(mutated(json.loads(good), chosen, value)))
            else:
                at = chosen.randrange(len(good))
                swap(file, good[:at] + raw + good[at + len(raw) :])
            reads()

        fuzz()
        swap(file, good)
        assert client.attach("test").values["lr"].value == 0.1
        child.steps_on(run)


def test_a_board_that_makes_no_sense_is_said_and_nothing_else(tmp_path: Path) -> None:
    with Child(tmp_path, TRAINING) as child:
        run = child.run()
        child.steps_on(run, 30)
        file = run.folder / "board"
        good = file.read_bytes()
        numbers = st.sampled_from([0, 1, 2, 5, 255, 1025, 1 << 20, 1 << 28, (1 << 31) - 1, (1 << 32) - 1])

        @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(
            st.lists(st.tuples(st.integers(0, 40_000), numbers), max_size=3),
            st.none() | st.integers(0, 200_000),
            st.sampled_from([0, 8]),
        )
        def fuzz(changes: list[tuple[int, int]], size: int | None, unit: int) -> None:
            raw = bytearray(good)
            for at, number in changes:
                # Half of them in what is in use: the header and the first cells.
                at = (at if at % 2 else (4096 if at % 4 else 0) + at % 1100) // 4 * 4
                struct.pack_into("<I", raw, at, number)
            swap(file, bytes(raw) if size is None else bytes(raw[:size]))
            reads()

        fuzz()
        for place in (Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.touch()):
            file.unlink()
            place(file)
            reads()
            if file.is_dir():
                file.rmdir()
                file.touch()
        file.unlink()
        reads()
        shutil.rmtree(run.folder / "mail", ignore_errors=True)
        child.steps_on(run)
        assert run.call("count", spark_timeout=30) == 1


@pytest.mark.parametrize("digits", [400, 5000])
def test_a_number_of_many_digits_is_refused(tmp_path: Path, digits: int) -> None:
    with Child(tmp_path, TRAINING) as child:
        fate = outcome(child.run().set, "lr", -(10**digits)).fate
        assert fate.state == "refused"
        assert "finite number" in fate.reason


def test_a_disk_that_is_full_costs_the_display_and_the_answers_and_not_the_training(tmp_path: Path) -> None:
    code = """
    import resource, time
    import spark_fast as spark
    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    def empty():
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    def big():
        return "x" * 2000
    def small():
        return 1
    def more():
        spark.expose(later=0.0, text="later")
        return 1
    state = spark.expose(fill=fill, empty=empty, big=big, small=small, more=more, lr=0.5, note="", seen=0)
    while True:
        spark.checkpoint()
        state.seen = len(state.note)
        time.sleep(0.001)
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        run.call("fill", spark_timeout=30)
        assert run.call("small", spark_timeout=30) == 1
        assert outcome(run.request_call, "big", timeout=30).fate.state == "failed"
        assert run.set("lr", 0.25, timeout=30).fate.state == "applied"
        assert run.values["lr"].value == 0.25
        assert run.set("note", "y" * 5000, timeout=30).fate.state == "applied"
        until(lambda: run.values["seen"].value == 5000)
        assert run.call("more", spark_timeout=30) == 1
        child.steps_on(run)
        run.call("empty", spark_timeout=30)
        assert len(run.call("big", spark_timeout=30)) == 2000
        assert run.set("note", "z" * 6000, timeout=30).fate.state == "applied"
        assert run.values["note"].value == "z" * 6000
        assert run.call("more", spark_timeout=30) == 1
        assert run.values["later"].value == 0.0
        run.pause(timeout=30)
        run.resume(timeout=30)
        child.steps_on(run)
        assert "Traceback" not in child.err
