"""The stream of changes: what a page is told without asking."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spark_fast import client
from spark_fast.runfiles import run_folder
from spark_fast.ui import polling
from tests.support.child import Child, until
from tests.support.ui_support import EXPOSING, Served, served

pytestmark = pytest.mark.process


@pytest.fixture
def server(home: Path) -> Iterator[Served]:
    with served() as found:
        yield found


def test_a_page_is_told_everything_first_and_then_only_what_changes(server: Served, tmp_path: Path) -> None:
    with Child(tmp_path, name="steps") as steps, Child(tmp_path, name="parked") as parked:
        steps.run("steps")
        parked.run("parked").pause()
        with server.stream() as stream:
            name, ident, first = stream.next()
            assert (name, first["full"], first["gone"], first["error"]) == ("runs", True, [], None)
            assert {run["id"] for run in first["runs"]} == {"steps", "parked"}
            assert ident
            seen = {run["id"]: run for run in first["runs"]}
            told = []
            for _ in range(8):
                name, _, data = stream.next()
                assert not data["full"]
                told += [(run["id"], run["step"]) for run in data["runs"]]
            steps_told = [step for run, step in told if run == "steps"]
            assert len(steps_told) >= 7
            assert steps_told == sorted(set(steps_told))
            assert steps_told[0] > seen["steps"]["step"]
            # A parked run looks around each second, which is nobody's matter; its memory may be told once.
            assert len(told) - len(steps_told) <= 1


def test_a_run_that_begins_and_one_that_is_removed_are_told(server: Served, tmp_path: Path, home: Path) -> None:
    with server.stream() as stream:
        assert stream.next()[2] == {"runs": [], "gone": [], "full": True, "error": None}
        with Child(tmp_path, name="fresh"):
            data = stream.until(lambda _, data: bool(data["runs"]))
            assert data["runs"][0]["id"] == "fresh"
        lost = stream.until(lambda _, data: any(run["status"] == "lost" for run in data["runs"]))
        assert lost["runs"][0]["id"] == "fresh"
        assert server.post_clean() == ["fresh"]
        assert stream.until(lambda _, data: bool(data["gone"]))["gone"] == ["fresh"]
    assert server.get("/api/runs")["runs"] == []


def test_a_page_that_looks_at_a_run_is_told_what_becomes_of_its_requests(server: Served, tmp_path: Path) -> None:
    with Child(tmp_path, name="test") as child:
        child.run()
        with server.stream("test") as stream:
            first = stream.until(lambda name, _: name == "run")
            assert first["full"]
            assert first["status"] == "running"
            assert first["requests"] == []
            request = server.post("/api/runs/test/pause")
            parked = stream.until(
                lambda name, data: name == "run" and any(each["fate"]["final"] for each in data.get("requests", []))
            )
            (told,) = parked["requests"]
            assert (told["id"], told["fate"]["state"]) == (request["id"], "applied")
            assert not parked["full"]
            assert "command" not in parked  # it has not changed
            server.post("/api/runs/test/resume")
            resumed = stream.until(lambda name, data: name == "run" and data.get("status") == "running")
            assert resumed["id"] == "test"


def test_values_are_told_as_they_change_and_only_those_that_do(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touched: list[client.Run] = []
    monkeypatch.setattr(client.Run, "touch", lambda run: touched.append(run))
    with Child(tmp_path, EXPOSING) as child:
        child.run()
        with server.stream("test") as stream:
            first = stream.until(lambda name, data: name == "run")
            assert {value["name"] for value in first["values"]} > {"lr", "loss", "card"}
            told = stream.until(lambda name, data: name == "run" and "values" in data)
            assert {value["name"] for value in told["values"]} <= {"loss", "bad"}
            server.api.put("/api/runs/test/values/lr", json={"value": 0.7})
            told = stream.until(
                lambda name, data: name == "run" and "lr" in [v["name"] for v in data.get("values", [])]
            )
            (lr,) = (value for value in told["values"] if value["name"] == "lr")
            assert lr["value"] == 0.7
            assert "functions" not in told
            # The run is told that somebody looks, once a second: what is on an accelerator is copied only then.
            before = len(touched)
            stream.until(lambda *_: len(touched) >= before + 2)
        until(lambda: not server.state.watchers.names)
        before = len(touched)
        server.get("/api/runs")
        assert len(touched) == before


def test_a_page_that_comes_back_is_told_everything_again(server: Served, tmp_path: Path) -> None:
    with Child(tmp_path, name="test") as child:
        child.run()
        with server.stream("test") as stream:
            stream.until(lambda name, _: name == "run")
            _, last, _ = stream.next()
        with server.stream("test", **{"last-event-id": last}) as stream:
            whole = {}
            while len(whole) < 2:
                name, _, data = stream.next()
                whole.setdefault(name, data)
            assert whole["runs"]["full"]
            assert whole["run"]["full"]
            assert whole["run"]["command"]


def test_a_run_that_vanishes_and_comes_again_is_told_as_gone_and_then_in_full(
    server: Served, tmp_path: Path, home: Path
) -> None:
    with Child(tmp_path, name="test") as child:
        child.run()
        with server.stream("test") as stream:
            stream.until(lambda name, data: name == "run" and data["full"])
            shutil.rmtree(home / "test")
            gone = stream.until(lambda name, data: name == "run" and data["gone"])
            assert gone == {"id": "test", "full": True, "gone": True}
            child.process.kill()
            with Child(tmp_path, name="test") as again:
                whole = stream.until(lambda name, data: name == "run" and not data["gone"])
                assert whole["full"]
                assert whole["ranks"][0]["pid"] == again.pid


def test_a_run_that_was_never_there_is_told_as_gone(server: Served) -> None:
    with server.stream("nobody") as stream:
        told = stream.until(lambda name, _: name == "run")
        assert told == {"id": "nobody", "full": True, "gone": True}


def test_a_fresh_worker_of_the_same_name_takes_the_place_of_the_old(server: Served, tmp_path: Path) -> None:
    with server.stream("test") as stream:
        with Child(tmp_path, name="test") as first:
            first.run()
            stream.until(lambda name, data: name == "run" and data.get("step", 0) > 0)
            until(lambda: server.get("/api/runs")["runs"])
        with Child(tmp_path, name="test") as second:
            # No folder has come or gone: the old one was emptied and taken.
            whole = stream.until(
                lambda name, data: (
                    name == "run" and data["full"] and not data["gone"] and data["ranks"][0]["pid"] == second.pid
                )
            )
            assert whole["status"] in ("idle", "running")
            listed = until(lambda: [r for r in server.get("/api/runs")["runs"] if r["ranks"][0]["pid"] == second.pid])
            assert [run["id"] for run in listed] == ["test"]


def test_two_pages_make_no_more_looks_than_one(server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    look = polling.Poller._look

    def counted(poller: polling.Poller) -> object:
        looks.append(threading.get_ident())
        return look(poller)

    monkeypatch.setattr(polling.Poller, "_look", counted)
    with Child(tmp_path, name="test") as child:
        child.run()
        with server.stream("test") as first, server.stream("test") as second:
            streams = [first, second]
            for stream in streams:
                stream.until(lambda name, data: name == "run" and data["full"])
            assert len(server.state.watchers.names) == 1
            before = len(looks)
            told: list[dict[tuple[str, str], Any]] = [{}, {}]
            for stream, events in zip(streams, told, strict=True):
                while sum(name == "runs" for name, _ in events) < 5:
                    name, ident, data = stream.next()
                    events[name, ident] = data
            # Each of the events that both got came from one look.
            both = told[0].keys() & told[1].keys()
            assert sum(name == "runs" for name, _ in both) >= 3
            assert sum(name == "run" for name, _ in both) >= 5
            assert all(told[0][event] == told[1][event] for event in both)
            assert len(looks) - before <= 7
        until(lambda: not server.state.watchers.names, "nobody looks any more")
        assert not server.state.poller.feed.watched


def test_the_server_ends_while_pages_look(tmp_path: Path) -> None:
    with Child(tmp_path, name="test") as child, served() as server:
        child.run()
        with server.stream("test") as stream:
            stream.until(lambda name, _: name == "run")
            server.end()
            with pytest.raises(EOFError):
                stream.until(lambda *_: False)


def test_folders_that_hold_nothing_usable_are_left_out_and_the_others_shown(
    server: Served, tmp_path: Path, home: Path
) -> None:
    with Child(tmp_path, name="good") as child:
        child.run("good")
        for name, content in {"empty": None, "garbage": b"\0" * 8192, "short": b"x"}.items():
            (home / name).mkdir(mode=0o700)
            if content is not None:
                (home / name / run_folder.CONTROL).write_bytes(content)
        (home / "open").mkdir(mode=0o755)
        (home / "link").symlink_to(home / "good")
        with server.stream() as stream:
            _, _, first = stream.next()
            assert [run["id"] for run in first["runs"]] == ["good"]
            for _ in range(2):  # the folders are not new any more
                stream.next()
            # One that becomes usable is shown then.
            shutil.copy(home / "good" / run_folder.ABOUT, home / "empty" / run_folder.ABOUT)
            shutil.copy(home / "good" / run_folder.CONTROL, home / "empty" / run_folder.CONTROL)
            stream.until(lambda _, data: any(run["status"] == "lost" for run in data["runs"]))


def test_a_control_file_that_is_cut_short_makes_its_run_lost_and_no_other(
    server: Served, tmp_path: Path, home: Path
) -> None:
    with Child(tmp_path, name="good") as good, Child(tmp_path, name="cut") as cut:
        good.run("good")
        cut.run("cut")
        with server.stream("cut") as stream:
            stream.until(lambda name, data: name == "run" and data["status"] == "running")
            with (home / "cut" / run_folder.CONTROL).open("r+b") as file:
                file.truncate(100)
            stream.until(lambda name, data: name == "run" and data.get("status") == "lost")
            stream.until(lambda name, data: name == "runs" and any(r["status"] == "lost" for r in data["runs"]))
            stream.until(lambda name, data: name == "runs" and any(r["status"] == "running" for r in data["runs"]))


def test_a_folder_that_is_renamed_is_told_under_its_new_name(server: Served, tmp_path: Path, home: Path) -> None:
    with Child(tmp_path, name="old") as child:
        child.run("old")
        with server.stream() as stream:
            stream.next()
            (home / "old").rename(home / "new")
            told = stream.until(lambda _, data: bool(data["gone"]))
            assert told["gone"] == ["old"]
            assert [run["id"] for run in told["runs"]] == ["new"]
            assert server.get("/api/runs/new")["id"] == "new"
            assert server.api.get("/api/runs/old").status_code == 404


def test_a_folder_that_has_just_changed_is_looked_at_again(tmp_path: Path) -> None:
    # Within a tick of the clock it may change once more, and its time would not say so.
    (tmp_path / "fresh").mkdir()
    assert polling._signature(str(tmp_path / "fresh")) is None
    before = until(lambda: polling._signature(str(tmp_path / "fresh")))
    assert polling._signature(str(tmp_path / "fresh")) == before
    (tmp_path / "fresh" / "more").mkdir()
    assert until(lambda: polling._signature(str(tmp_path / "fresh"))) != before


def test_a_folder_of_runs_that_can_not_be_trusted_is_said(server: Served, tmp_path: Path, home: Path) -> None:
    home.mkdir(mode=0o700, exist_ok=True)
    with server.stream() as stream:
        assert stream.next()[2]["error"] is None
        home.chmod(0o755)
        told = stream.until(lambda _, data: data["error"] is not None)
        assert "chmod 700" in told["error"]
        assert "chmod 700" in server.get("/api/runs")["error"]
        home.chmod(0o700)
        stream.until(lambda _, data: data["error"] is None)


def test_a_page_too_slow_for_the_events_is_told_everything_anew_and_costs_no_memory(
    server: Served, tmp_path: Path
) -> None:
    feed = server.state.poller.feed
    feed.publish('{"n":0}')
    number, _ = feed.since(None)
    for n in range(1, 100):
        feed.publish(f'{{"n":{n}}}')
    assert number is not None
    last, text = feed.since(number)
    assert text.count(b"event: runs") == 1
    assert b'"full":true' in text
    assert feed.since(last) == (last, b"")
    assert len(feed._events) < 50
