"""The API of the web server: every route, and every fate of what is asked through it."""

import gzip
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from spark_fast import client
from spark_fast.runfiles import run_folder
from spark_fast.ui import threads
from tests.process.test_starting import Script, there
from tests.process.test_stop_told import SWALLOWS
from tests.support.child import LOOP, Child, until
from tests.support.reloading import Edited
from tests.support.ui_support import EXPOSING, FORGETFUL, Served, served

pytestmark = pytest.mark.process


@pytest.fixture
def server(home: Path) -> Iterator[Served]:
    with served() as found:
        yield found


@pytest.fixture
def exposing(server: Served, tmp_path: Path) -> Iterator[Child]:
    with Child(tmp_path, EXPOSING) as child:
        child.run()
        yield child


def _error(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    text: str = answer.json()["error"]
    return text


# --- look ---


def test_runs_are_listed_as_the_client_has_them_with_memory_and_the_time_since_a_checkpoint(
    server: Served, tmp_path: Path
) -> None:
    with Child(tmp_path, name="first") as child:
        run = child.run("first")
        run.pause()
        found = until(lambda: [each for each in server.get("/api/runs")["runs"] if each["memory"]])
        (summary,) = found
        known = run.as_dict()
        for name in known.keys() - {"steps_per_second"}:
            assert summary[name] == known[name], name
        assert summary["memory"] > 1 << 20
        since = summary["since_checkpoint"]
        until(lambda: server.get("/api/runs")["runs"][0]["since_checkpoint"] >= since + 0.3)
    (ended,) = until(lambda: [r for r in server.get("/api/runs")["runs"] if r["status"] == "lost"])
    assert ended["memory"] is None
    assert ended["since_checkpoint"] is None


def test_a_hung_run_shows_for_how_long_it_has_passed_no_checkpoint(server: Served, tmp_path: Path) -> None:
    code = "import spark_fast as spark, time\nspark.checkpoint()\ntime.sleep(600)\n"
    with Child(tmp_path, code) as child:
        child.run()
        first = server.get("/api/runs/test")["since_checkpoint"]
        until(lambda: server.get("/api/runs/test")["since_checkpoint"] > first + 0.5)


def test_without_a_folder_of_runs_there_are_none(server: Served) -> None:
    assert server.get("/api/runs") == {"runs": [], "error": None}
    assert server.post_clean() == []


def test_one_run_is_given_in_full(server: Served, exposing: Child) -> None:
    found = server.get("/api/runs/test")
    assert found["status"] == "running"
    values = {value["name"]: value for value in found["values"]}
    lr = values["lr"]
    assert (lr["value"], lr["type"], lr["min"], lr["max"], lr["step_size"]) == (0.1, "number", 0, 1, 0.01)
    assert (lr["unit"], lr["doc"], lr["readonly"], lr["choices"]) == ("1/step", "Learning rate.", False, None)
    assert values["optimizer"]["choices"] == ["adam", "sgd"]
    assert values["card"] == values["card"] | {"value": {"layers": 12}, "type": "json"}
    assert values["fixed"]["readonly"]
    assert values["bad"]["value"] is None  # no JSON has a word for NaN
    functions = {function["name"]: function for function in found["functions"]}
    evaluate = functions["evaluate"]
    assert evaluate["doc"] == "How good it is."
    assert evaluate["signature"].startswith("(split: str = 'test'")
    assert evaluate["parameters"] == [
        {
            "name": "split",
            "kind": "positional_or_keyword",
            "required": False,
            "default": "test",
            "annotation": "str",
        },
        {"name": "batches", "kind": "keyword", "required": False, "default": 1, "annotation": "int"},
    ]
    assert (found["requests"], found["version"], found["reloadable"], found["board_error"]) == ([], None, False, None)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("GET", "/history?name=lr"),
        ("GET", "/journal"),
        ("GET", "/versions"),
        ("GET", "/versions/1"),
        ("GET", "/requests/0123456789abcdef"),
        ("POST", "/pause"),
        ("POST", "/resume"),
        ("POST", "/stop"),
        ("POST", "/reload"),
        ("POST", "/reset"),
        ("POST", "/calls/evaluate"),
    ],
)
@pytest.mark.parametrize("run", ["nobody", "..", "a b", "%2e%2e%2fetc", "x" * 200])
def test_there_is_no_such_run(server: Served, method: str, path: str, run: str) -> None:
    answer = server.api.send(server.api.build_request(method, f"/api/runs/{run.replace('..', '%2e%2e')}{path}"))
    assert answer.status_code == 404
    assert answer.json()["error"]


def test_a_run_whose_files_are_damaged_is_an_answer_and_not_the_end(server: Served, home: Path) -> None:
    (home / "broken").mkdir(parents=True, mode=0o700)
    home.chmod(0o700)
    (home / "broken" / run_folder.CONTROL).write_bytes(b"\0" * 8192)
    assert "broken" in _error(server.api.get("/api/runs/broken"), 503)
    assert "broken" in _error(server.api.post("/api/runs/broken/pause"), 503)
    assert server.get("/api/runs")["runs"] == []


def test_a_damaged_board_is_said_and_the_rest_is_shown(server: Served, exposing: Child, home: Path) -> None:
    exposing.run().pause()  # no value changes from here on
    assert server.get("/api/runs/test")["values"]
    description = home / "test" / "exposed.json"
    whole = description.read_text()
    description.write_text("{")
    with served() as fresh:
        found = fresh.get("/api/runs/test")
        assert (found["values"], found["functions"], found["status"]) == ([], [], "paused")
        assert "damaged" in found["board_error"]
        assert "damaged" in _error(fresh.api.put("/api/runs/test/values/lr", json={"value": 0.5}), 503)
        assert 'spark_fast_steps_total{run="test"}' in fresh.api.get("/metrics").text
        with fresh.stream("test") as stream:
            assert "damaged" in stream.until(lambda name, data: name == "run")["board_error"]
            description.write_text(whole)
            told = stream.until(lambda name, data: name == "run" and data.get("board_error", "") is None)
            assert told["values"]


# --- ask ---


def test_a_pause_is_asked_for_then_applied_and_so_is_a_resume(server: Served, exposing: Child) -> None:
    run = exposing.run()
    request = server.post("/api/runs/test/pause")
    assert request["kind"] == "pause"
    fate = server.fate("test", request)
    assert fate["state"] == "applied"
    assert server.get("/api/runs/test")["status"] == "paused"
    assert fate["step"] == run.step
    assert server.fate("test", server.post("/api/runs/test/resume"))["state"] == "applied"
    exposing.steps_on(run)
    again = server.post("/api/runs/test/resume")
    assert again["fate"] == again["fate"] | {"state": "applied", "reason": "nothing to do: it was not paused"}


def test_a_pause_says_where_and_for_how_long(server: Served, exposing: Child) -> None:
    run = exposing.run()
    far = run.step + 1000
    assert server.fate("test", server.post("/api/runs/test/pause", {"at_step": far}))["step"] == far
    server.post("/api/runs/test/resume")
    server.fate("test", server.post("/api/runs/test/pause", {"resume_after": 0.2}))
    exposing.steps_on(run)


def test_an_advance_goes_so_far_and_a_later_request_takes_the_place_of_an_earlier(
    server: Served, exposing: Child
) -> None:
    run = exposing.run()
    step = server.fate("test", server.post("/api/runs/test/pause"))["step"]
    assert server.fate("test", server.post("/api/runs/test/advance", {"steps": 7}))["step"] == step + 7
    waiting = server.post("/api/runs/test/pause", {"at_step": step + 10**9})
    resume = server.post("/api/runs/test/resume")
    fate = server.fate("test", waiting)
    assert (fate["state"], fate["by"]) == ("superseded", resume["id"])
    exposing.steps_on(run)


def test_a_request_that_nobody_comes_to_is_asked_until_the_run_ends_and_then_lost(
    server: Served, tmp_path: Path
) -> None:
    code = "import spark_fast as spark, time\nspark.checkpoint()\ntime.sleep(600)\n"
    with Child(tmp_path, code) as child:
        child.run()
        request = server.post("/api/runs/test/pause")
        path = f"/api/runs/test/requests/{request['id']}"
        began = time.monotonic()
        assert server.get(path, params={"wait": 0.3})["request"]["fate"]["state"] == "asked"
        assert time.monotonic() - began >= 0.3
        child.process.kill()
        assert server.fate("test", request)["state"] == "lost"


def test_a_stop_ends_the_run_and_what_comes_after_it_is_refused(server: Served, tmp_path: Path) -> None:
    with Child(tmp_path, LOOP) as child:
        child.run()
        assert server.fate("test", server.post("/api/runs/test/stop"))["state"] == "applied"
        child.ended()
        until(lambda: server.get("/api/runs/test")["status"] == "stopped")
        for path, body in {"pause": {}, "stop": {}, "advance": {"steps": 1}, "reload": {}, "reset": {}}.items():
            answer = server.api.post(f"/api/runs/test/{path}", json=body)
            assert "has ended" in _error(answer, 409), path
        # Whoever asks again what became of one is told.
        refused = server.api.post("/api/runs/test/pause").json()["request"]
        assert server.fate("test", refused)["state"] == "refused"
        assert server.post_clean() == ["test"]
        assert server.api.get("/api/runs/test").status_code == 404


def test_a_value_is_set_at_a_checkpoint(server: Served, exposing: Child) -> None:
    answer = server.api.put("/api/runs/test/values/lr", json={"value": 0.5})
    assert answer.status_code == 202
    request = answer.json()["request"]
    assert (request["kind"], request["name"]) == ("set", "lr")
    assert server.fate("test", request)["state"] == "applied"
    values = {value["name"]: value["value"] for value in server.get("/api/runs/test")["values"]}
    assert values["lr"] == 0.5
    (listed,) = server.get("/api/runs/test")["requests"]
    assert listed["name"] == "lr"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("lr", 2, "at most 1"),
        ("lr", "x", "a number"),
        ("optimizer", "lion", "one of"),
        ("fixed", 4, "for reading only"),
        ("text", 1, "a text"),
        ("on", 1, "true or false"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_the_reason(
    server: Served, exposing: Child, name: str, value: Any, reason: str
) -> None:
    answer = server.api.put(f"/api/runs/test/values/{name}", json={"value": value})
    assert reason in _error(answer, 422)
    assert answer.json()["request"]["fate"]["state"] == "refused"


def test_a_run_that_is_starting_takes_what_it_does_not_expose_yet(server: Served, tmp_path: Path) -> None:
    with Script(tmp_path) as child:
        there()
        asked = [
            server.api.put("/api/runs/test/values/lr", json={"value": 0.5}),
            server.api.put("/api/runs/test/values", json={"values": {"lr": 0.25, "mode": "b"}}),
            server.api.post("/api/runs/test/calls/double", json={"args": [4]}),
            server.api.put("/api/runs/test/values/nothing", json={"value": 1}),
        ]
        assert [answer.status_code for answer in asked] == [202] * 4
        child.go()
        fates = [server.fate("test", answer.json()["request"])["state"] for answer in asked]
        assert fates == ["applied", "applied", "applied", "refused"]
        assert server.api.put("/api/runs/test/values/nothing", json={"value": 1}).status_code == 404


def test_several_values_are_set_by_one_request_or_none_is(server: Served, exposing: Child) -> None:
    run = exposing.run()
    before = run.values["lr"].value
    refused = server.api.put("/api/runs/test/values", json={"values": {"lr": 0.25, "fixed": 1}})
    assert _error(refused, 422) == "fixed is for reading only; none of the values is set"
    assert run.values["lr"].value == before
    request = server.api.put("/api/runs/test/values", json={"values": {"lr": 0.25, "text": "b"}}).json()["request"]
    assert (request["name"], server.fate("test", request)["state"]) == ("lr, text", "applied")
    assert [run.values[name].value for name in ("lr", "text")] == [0.25, "b"]
    assert len(run.requests) == 1


def test_a_setter_that_raises_leaves_the_value_and_its_traceback_comes_back(server: Served, exposing: Child) -> None:
    request = server.api.put("/api/runs/test/values/guarded", json={"value": 9}).json()["request"]
    fate = server.fate("test", request)
    assert fate["state"] == "failed"
    assert "no nines" in fate["reason"]
    assert "Traceback" in fate["reason"]


def test_a_function_is_called_and_its_result_and_what_it_printed_come_back(server: Served, exposing: Child) -> None:
    body = {"args": ["train"], "kwargs": {"batches": 3}, "timeout": 20}
    request = server.post("/api/runs/test/calls/evaluate", body)
    assert request["fate"]["state"] == "applied"
    assert request["name"] == "evaluate"
    assert request["result"] == {"split": "train", "batches": 3}
    assert request["output"] == "evaluating train\n"
    exposing.run().pause()
    parked = server.post("/api/runs/test/calls/evaluate", {"timeout": 20})
    assert parked["result"] == {"split": "test", "batches": 1}


def test_a_call_that_raises_fails_with_its_traceback(server: Served, exposing: Child) -> None:
    request = server.post("/api/runs/test/calls/broken")
    fate = server.fate("test", request)
    assert (fate["state"], fate["reason"].splitlines()[0]) == ("failed", "ValueError: no data")
    assert "Traceback" in fate["reason"]
    exposing.steps_on(exposing.run())


def test_a_long_result_stands_in_no_list_and_whole_in_the_request(server: Served, exposing: Child) -> None:
    request = server.post("/api/runs/test/calls/long", {"timeout": 20})
    assert len(request["result"]) == 100_000
    (listed,) = server.get("/api/runs/test")["requests"]
    assert (listed["result"], listed["cut"]) == (None, True)
    whole = server.get(f"/api/runs/test/requests/{request['id']}")["request"]
    assert (len(whole["result"]), whole["cut"]) == (100_000, False)


def test_a_call_with_other_arguments_than_the_function_takes_is_refused(server: Served, exposing: Child) -> None:
    answer = server.api.post("/api/runs/test/calls/evaluate", json={"kwargs": {"colour": "red"}})
    assert "colour" in _error(answer, 422)


@pytest.mark.parametrize("name", ["nothing", "__import__", "time.sleep", "a/b"])
def test_what_is_not_exposed_can_neither_be_set_nor_called(server: Served, exposing: Child, name: str) -> None:
    assert "no exposed value" in _error(server.api.put(f"/api/runs/test/values/{name}", json={"value": 1}), 404)
    assert "no exposed function" in _error(server.api.post(f"/api/runs/test/calls/{name}"), 404)
    assert "no exposed value" in _error(server.api.get("/api/runs/test/history", params={"name": name}), 404)


def test_a_history_covers_the_run_and_holds_no_nan(server: Served, exposing: Child) -> None:
    until(lambda: exposing.run().step > 50)
    found = server.get("/api/runs/test/history", params={"name": ["loss", "bad"]})["history"]
    assert set(found) == {"loss", "bad"}
    loss = found["loss"]
    assert {len(column) for column in loss.values()} == {len(loss["steps"])}
    assert loss["steps"] == sorted(loss["steps"])
    assert len(loss["steps"]) > 5
    assert all(low <= last <= high for low, last, high in zip(loss["low"], loss["last"], loss["high"], strict=True))
    assert set(found["bad"]["last"]) <= {None}


# --- new code ---

SCRIPT = """
import time
import spark_fast as spark
for item in spark.track(range(10**9), key="loop"):
    time.sleep(0.002)
"""


@pytest.fixture
def reloadable(server: Served, tmp_path: Path) -> Iterator[Child]:
    with Child(tmp_path, "") as script:
        path = script.script
    path.write_text(SCRIPT)
    with Child(tmp_path, "", "-m", "spark_fast", "run", str(path)) as child:
        child.script = path
        child.run()
        until(lambda: server.get("/api/runs/test")["version"] == 1)
        yield child


def test_new_code_is_brought_and_taken_back_and_its_versions_are_shown(server: Served, reloadable: Child) -> None:
    assert server.get("/api/runs/test")["reloadable"]
    request = server.post("/api/runs/test/reload", {"code": SCRIPT.replace("0.002", "0.003")})
    assert request["version"] == 2
    assert server.fate("test", request)["state"] == "applied"
    until(lambda: server.get("/api/runs/test")["version"] == 2)
    found = server.get("/api/runs/test/versions")
    assert found["current"] == 2
    assert [version["note"] for version in found["versions"]] == ["start", "pushed"]
    assert found["versions"][1]["changed"] == [reloadable.script.name]
    second = server.get("/api/runs/test/versions/2")
    (file,) = (file for file in second["files"] if file["entry"])
    assert (file["shown"], file["path"]) == (reloadable.script.name, str(reloadable.script))
    assert file["source"] == SCRIPT.replace("0.002", "0.003")
    assert "-    time.sleep(0.002)\n+    time.sleep(0.003)\n" in second["diff"]
    assert server.get("/api/runs/test/versions/1")["diff"] == ""
    back = server.post("/api/runs/test/reload", {"to": 1})
    assert server.fate("test", back)["state"] == "applied"
    assert "no version 9" in _error(server.api.get("/api/runs/test/versions/9"), 404)


def test_what_changed_on_disk_is_brought(server: Served, reloadable: Child) -> None:
    reloadable.script.write_text(SCRIPT.replace("0.002", "0.004"))
    assert server.fate("test", server.post("/api/runs/test/reload"))["state"] == "applied"
    assert server.get("/api/runs/test/versions")["versions"][-1]["note"] == "changed on disk"


def test_code_with_a_syntax_error_is_refused_and_the_run_goes_on(server: Served, reloadable: Child) -> None:
    answer = server.api.post("/api/runs/test/reload", json={"code": "for in:\n"})
    assert "line 1" in _error(answer, 422)
    assert "SyntaxError" in answer.json()["error"]
    assert server.get("/api/runs/test")["version"] == 1
    reloadable.steps_on(client.attach("test"))
    assert "no version 9" in _error(server.api.post("/api/runs/test/reload", json={"to": 9}), 422)
    assert "exclude" in _error(server.api.post("/api/runs/test/reload", json={"to": 1, "code": "1"}), 422)


def test_code_that_raises_fails_with_its_traceback(server: Served, reloadable: Child) -> None:
    fate = server.fate("test", server.post("/api/runs/test/reload", {"code": "raise ValueError('no')\n"}))
    assert fate["state"] == "failed"
    assert "ValueError: no" in fate["reason"]
    assert server.get("/api/runs/test")["version"] == 1


def test_a_reset_brings_a_fresh_process(server: Served, reloadable: Child) -> None:
    before = server.get("/api/runs/test")["ranks"][0]["pid"]
    assert server.post("/api/runs/test/reset", {"grace": 20})["kind"] == "stop"

    def fresh() -> bool:
        answer = server.api.get("/api/runs/test")
        return answer.status_code == 200 and answer.json()["ranks"][0]["pid"] not in (before, 0)

    until(fresh, "a fresh process")


def test_a_run_that_nobody_could_start_again_is_not_reset(server: Served, exposing: Child) -> None:
    assert "no supervisor" in _error(server.api.post("/api/runs/test/reset"), 409)
    assert server.get("/api/runs/test")["status"] == "running"


def test_the_journal_holds_what_was_applied(server: Served, exposing: Child) -> None:
    assert server.get("/api/runs/test/journal")["lines"] == []
    request = server.post("/api/runs/test/pause")
    server.fate("test", request)
    found = server.get("/api/runs/test/journal")
    assert found["path"].endswith(".jsonl")
    assert found["lines"][0]["run"] == "test"
    assert [line["id"] for line in found["lines"][1:]] == [request["id"]]
    assert not found["torn"]


# --- what makes no sense ---


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("pause", {"at_step": 0}),
        ("pause", {"at_step": "5"}),
        ("pause", {"at_step": 1 << 63}),
        ("pause", {"resume_after": -1}),
        ("pause", {"resume_after": 1e300}),
        ("pause", {"colour": "red"}),
        ("pause", [1]),
        ("advance", {}),
        ("advance", {"steps": 0}),
        ("advance", {"steps": 1.5}),
        ("advance", {"steps": True}),
        ("advance", None),
        ("reload", {"to": 0}),
        ("reload", {"code": 5}),
        ("reset", {"grace": -1}),
        ("resume", {"steps": 1}),
        ("calls/evaluate", {"args": {}}),
        ("calls/evaluate", {"timeout": 31}),
    ],
)
def test_what_makes_no_sense_is_refused_and_asks_for_nothing(
    server: Served, exposing: Child, path: str, body: Any
) -> None:
    assert _error(server.api.post(f"/api/runs/test/{path}", json=body), 422)
    assert server.get("/api/runs/test")["requests"] == []


@pytest.mark.parametrize(
    ("raw", "status"),
    [(b"{", 422), (b'{"steps": 1', 422), (b'{"steps": NaN}', 422), (b"\xff", 400), (b"[" * 100_000, 400)],
)
def test_a_body_that_is_no_json_is_refused(server: Served, exposing: Child, raw: bytes, status: int) -> None:
    answer = server.api.post("/api/runs/test/advance", content=raw, headers={"content-type": "application/json"})
    assert _error(answer, status)
    assert exposing.run().requests == []


HOLDING = """
import signal
from spark_fast import _core, client
_core.arm_point("append:locked", signal.SIGSTOP)
client.attach("kept").pause(wait=False)
"""


def test_a_run_whose_log_is_kept_locked_holds_up_no_other_and_says_so(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client.send, "_TURN", 600.0)
    with Child(tmp_path, name="kept") as one, Child(tmp_path, name="free") as other:
        one.run("kept")
        other.run("free")
        # A sender that is suspended in its turn.
        with Child(tmp_path, HOLDING, name=None) as holder:
            until(lambda: psutil.Process(holder.pid).status() == psutil.STATUS_STOPPED, "a suspended sender")
            answers: list[httpx.Response] = []
            senders = [
                threading.Thread(target=lambda: answers.append(server.api.post("/api/runs/kept/resume")))
                for _ in range(threads._ASKS_OF_RUN)
            ]
            for sender in senders:
                sender.start()
            until(lambda: server.state.threads.asked("kept") == threads._ASKS_OF_RUN)
            answer = server.api.post("/api/runs/kept/pause")
            assert "too many" in _error(answer, 503)
            assert answer.headers["retry-after"]
            assert server.fate("free", server.post("/api/runs/free/pause"))["state"] == "applied"
            assert server.get("/api/runs/kept")["status"] == "running"
            assert not answers, "the senders still wait"
        # The holder is dead, and its turn over.
        for sender in senders:
            sender.join()
        assert [answer.status_code for answer in answers] == [202] * len(senders)
        assert server.fate("kept", server.post("/api/runs/kept/pause"))["state"] == "applied"


def test_a_sender_that_waits_too_long_for_a_log_that_is_kept_locked_is_told_so(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client.send, "_TURN", 0.2)
    with Child(tmp_path, name="kept") as one:
        one.run("kept")
        with Child(tmp_path, HOLDING, name=None) as holder:
            until(lambda: psutil.Process(holder.pid).status() == psutil.STATUS_STOPPED, "a suspended sender")
            assert "another sender" in _error(server.api.post("/api/runs/kept/resume"), 503)


# --- the rest ---


def test_metrics_are_what_prometheus_reads(server: Served, exposing: Child) -> None:
    until(lambda: 'name="lr"' in server.api.get("/metrics").text)
    answer = server.api.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = answer.text.splitlines()
    assert answer.text.endswith("\n")
    samples = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert samples['spark_fast_run_status{run="test",status="running"}'] == "1"
    assert int(samples['spark_fast_steps_total{run="test"}']) > 0
    assert float(samples['spark_fast_value{run="test",name="lr"}']) == 0.1
    assert samples['spark_fast_value{run="test",name="bad"}'] == "NaN"
    assert samples['spark_fast_value{run="test",name="on"}'] == "1.0"
    odd = 'spark_fast_value{run="test",name="odd \\"name\\" \\\\"}'
    assert samples[odd] == "1.0"
    for name in {line.split("{")[0] for line in samples}:
        assert f"# TYPE {name} " in answer.text
    parsed = {family.name: family for family in text_string_to_metric_families(answer.text)}
    values = {sample.labels["name"]: sample.value for sample in parsed["spark_fast_value"].samples}
    assert values['odd "name" \\'] == 1.0
    assert all(family.documentation and family.type in ("counter", "gauge") for family in parsed.values())


def test_the_description_is_served_and_names_every_route(server: Served) -> None:
    found = server.get("/api/openapi.json")
    assert found["security"]
    assert set(found["paths"]) == {
        "/api/runs",
        "/api/runs/{run}",
        "/api/runs/{run}/history",
        "/api/runs/{run}/pause",
        "/api/runs/{run}/resume",
        "/api/runs/{run}/stop",
        "/api/runs/{run}/advance",
        "/api/runs/{run}/reload",
        "/api/runs/{run}/reset",
        "/api/runs/{run}/values",
        "/api/runs/{run}/values/{name}",
        "/api/runs/{run}/calls/{name}",
        "/api/runs/{run}/requests/{ident}",
        "/api/runs/{run}/journal",
        "/api/runs/{run}/versions",
        "/api/runs/{run}/versions/{number}",
        "/api/clean",
        "/api/stream",
        "/metrics",
    }
    assert server.api.get("/docs").status_code == 404


def test_the_page_and_the_plotting_library_come_from_this_machine(server: Served) -> None:
    page = server.api.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    plots = server.api.get("/static/plotly.min.js", headers={"accept-encoding": "gzip"})
    assert plots.headers["content-encoding"] == "gzip"
    assert plots.headers["content-type"] == "text/javascript; charset=utf-8"
    assert b"plotly.js" in plots.content[:200]
    tag = plots.headers["etag"]
    again = server.api.get("/static/plotly.min.js", headers={"if-none-match": tag})
    assert (again.status_code, again.content) == (304, b"")
    with server.api.stream("GET", "/static/plotly.min.js", headers={"accept-encoding": "identity"}) as answer:
        plain = b"".join(answer.iter_raw())
    assert "content-encoding" not in answer.headers
    assert plain == plots.content
    with server.api.stream("GET", "/static/plotly.min.js", headers={"accept-encoding": "gzip"}) as answer:
        assert gzip.decompress(b"".join(answer.iter_raw())) == plain


@pytest.mark.parametrize("name", ["nothing.js", "%2e%2e%2fserver.py", "..%2fserver.py", "server.py", ".", "index"])
def test_nothing_else_is_served(server: Served, name: str) -> None:
    assert server.api.get(f"/static/{name}").status_code == 404


def test_many_may_ask_for_one_run_at_a_time(server: Served, exposing: Child) -> None:
    run = exposing.run()
    statuses: list[int] = []

    def ask() -> None:
        with server.stranger(authorization=f"Bearer {server.keys.token}") as client_of_one:
            for _ in range(30):
                statuses.append(client_of_one.get("/api/runs/test").status_code)

    askers = [threading.Thread(target=ask) for _ in range(8)]
    for asker in askers:
        asker.start()
    while any(asker.is_alive() for asker in askers):
        run.pause(timeout=20)  # between its speeds there is none
        run.resume(timeout=20)
    assert statuses == [200] * 240


# --- what went otherwise than asked ---


def test_a_reload_that_would_start_over_says_that_it_can(server: Served, tmp_path: Path) -> None:
    with Edited(tmp_path, FORGETFUL) as training:
        training.says(40)
        training.edit('"old"', '"new"')
        for body in ({}, {"code": training.source().replace('"new"', '"newer"')}):
            asked = server.api.post("/api/runs/test/reload", json=body).json()["request"]
            assert server.fate("test", asked)["state"] == "refused"
            told = server.get(f"/api/runs/test/requests/{asked['id']}")["request"]
            assert told["can_start_over"] is True
        unreadable = server.api.post("/api/runs/test/reload", json={"code": "def"})
        assert unreadable.status_code == 422
        assert unreadable.json()["request"]["can_start_over"] is False
        again = server.post("/api/runs/test/reload", {"restart": True})
        assert server.fate("test", again)["state"] == "applied"
        until(lambda: ["new", 0, 1] in training.said, training.err)


def test_a_swallowed_stop_is_told(server: Served, tmp_path: Path) -> None:
    with Child(tmp_path, SWALLOWS) as child:
        run = child.run()
        assert server.get("/api/runs/test")["swallowed_stop"] is None
        server.post("/api/runs/test/stop")
        told = until(lambda: next((each["swallowed_stop"] for each in server.get("/api/runs")["runs"]), None))
        assert told == run.stop_step == server.get("/api/runs/test")["swallowed_stop"]
