"""The checks of the kill-and-fault campaign find what they are for, and a short campaign on real jobs finds nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.campaign import __main__ as command
from tests.campaign import checks
from tests.campaign.senders import Answer, answers_of
from tests.campaign.tally import BEGIN, END, Finding, Tally, write

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]


def answer(kind: str = "set", number: int = 7, state: str = "applied", step: int | None = 3, **more: Any) -> Answer:
    return Answer("api", kind, number, asked=0.0, state=state, step=step, id=f"{number:016x}", answered=1.0, **more)


def lines(*values: float, first: int = 1, calls: dict[int, list[int]] | None = None) -> list[dict[str, Any]]:
    found = enumerate(values)
    return [{"step": first + at, "item": at, "lr": lr, "calls": (calls or {}).get(first + at, [])} for at, lr in found]


OLD = 0.1


def test_hangs_and_crashes_of_senders_are_found() -> None:
    assert checks.crashes([answer(), answer(state="refused"), answer(state="error")]) == []
    assert len(checks.crashes([answer(state="hang"), answer(state="crash")])) == 2


@pytest.mark.parametrize("by_step", [False, True])
def test_lost_and_repeated_items_are_found(by_step: bool) -> None:
    told = lines(OLD, OLD, OLD)
    assert checks.items({0: told}, by_step=by_step) == []
    assert checks.items({0: [told[0], told[2]]}, by_step=by_step)
    assert checks.items({0: [*told, told[2] | {"step": 4}]}, by_step=by_step)
    again = checks.items({0: [*told, told[2]]}, by_step=by_step)
    assert bool(again) is not by_step, "a step that a rank comes to again counts once"


def test_ranks_that_differ_at_a_step_or_in_their_stop_are_found() -> None:
    told = lines(OLD, OLD, 7.0)
    assert checks.agreement({0: told, 1: told[:2]}) == []
    assert checks.agreement({0: told, 1: lines(OLD, 7.0, 7.0)})
    assert checks.agreement({0: [*told, {"stopped": 4}], 1: [*told, {"stopped": 4}]}) == []
    assert checks.agreement({0: [*told, {"stopped": 4}], 1: [*told, {"stopped": 5}]})


@pytest.mark.parametrize("state", ["refused", "failed", "void", "superseded"])
def test_values_that_are_in_force_too_early_too_late_or_never_should_be_are_found(state: str) -> None:
    right, early, late = lines(OLD, OLD, 7.0), lines(OLD, 7.0, 7.0), lines(OLD, OLD, OLD)
    assert checks.answered({0: right}, [answer()]) == []
    assert checks.answered({0: early}, [answer()])
    assert checks.answered({0: late}, [answer()])
    assert checks.answered({0: right}, [answer(state="unknown", step=None)]) == []
    assert checks.answered({0: right}, [answer(state=state)])
    both = [answer(), answer(number=8)]
    assert checks.answered({0: lines(OLD, OLD, 8.0)}, both) == [], "of two at one step either may be the last"


def test_calls_that_are_missing_doubled_or_should_not_be_made_are_found() -> None:
    once, twice, never = (lines(OLD, OLD, OLD, OLD, calls=calls) for calls in ({3: [7]}, {3: [7, 7]}, {}))
    call = answer("call all")
    assert checks.calls_of({0: once, 1: once}, [call], [0, 1]) == []
    assert checks.calls_of({0: once, 1: twice}, [call], [0, 1])
    assert checks.calls_of({0: once, 1: never}, [call], [0, 1])
    assert checks.calls_of({0: once, 1: never}, [call], [0]) == [], "a rank that was killed need not have told"
    assert checks.calls_of({0: once}, [answer("call all", state="refused")], [0])
    assert checks.calls_of({0: once, 1: never}, [answer("call one")], [0, 1]) == []


HEADER = {"journal": 1, "run": "job", "command": [], "directory": "/", "started": 0.0, "version": "0", "python": "3"}


def test_applied_requests_that_the_journal_lacks_or_has_at_another_step_are_found(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"

    def written(*steps: int, kind: str = "set") -> Path:
        rest = {"sender": "", "arg": 0, "duration": 0.0, "mail": ""}
        found = [rest | {"rank": 0, "step": step, "time": 0.0, "kind": kind, "id": f"{7:016x}"} for step in steps]
        path.write_text("".join(json.dumps(line) + "\n" for line in [HEADER | {"entry": None}, *found]))
        return path

    assert checks.journaled(written(3), [answer()]) == []
    for steps in ((), (4,), (3, 3)):
        assert checks.journaled(written(*steps), [answer()]), steps
    assert (
        checks.journaled(written(), [answer(state="refused"), answer(reason="nothing to do: it was not paused")]) == []
    )
    assert checks.journaled(written(), [answer()], until=0.5) == []
    assert checks.journaled(written(2), [answer("advance")]) == []
    assert checks.journaled(written(4), [answer("advance")])
    assert checks.journaled(None, [answer()])
    assert checks.journaled(written(4), [answer()], slack=1) == []


def test_growth_of_descriptors_and_memory_is_found() -> None:
    assert checks.growth({1: [(10, 1 << 26)] * 12}) == []
    assert checks.growth({1: [(10 + 2 * at, 1 << 26) for at in range(12)]})
    assert checks.growth({1: [(10, (1 + at) << 26) for at in range(12)]})


def test_hosts_that_differ_are_found() -> None:
    outs = {0: [["set", "3", "7.0"], ["stopped", "9"]], 1: [["set", "3", "7.0"], ["stopped", "9"]]}
    assert checks.values_of(outs, [answer()]) == []
    assert checks.values_of(outs | {1: [["set", "4", "7.0"], ["stopped", "9"]]}, [answer()])
    assert checks.values_of(outs | {1: [["set", "3", "7.0"], ["stopped", "8"]]}, [answer()])
    assert checks.values_of(outs, [answer(state="void")])
    assert checks.values_of(outs, [])


def test_what_a_killed_sender_asked_has_an_unknown_fate(tmp_path: Path) -> None:
    asked = {"channel": "api", "kind": "set", "number": 1, "asked": 0.5}
    told = [{"n": 1, **asked}, {"n": 1, "state": "applied", "step": 3, "id": "a", "answered": 1.0}, {"n": 2, **asked}]
    torn = "".join(json.dumps(line) + "\n" for line in told) + '{"n": 2, "state": "app'
    (tmp_path / "sender1.jsonl").write_text(torn)
    assert [(each.state, each.step) for each in answers_of(tmp_path)] == [("applied", 3), ("unknown", None)]


def test_the_figures_are_written_between_the_marks(tmp_path: Path) -> None:
    tally = Tally(seed=4, seconds=7200.0)
    tally.counts.update({"request: api": 1200, "request: page": 34, "kill: ranks": 5, "jobs": 2, "job: ddp": 2})
    tally.findings.append(Finding("job 3 (ddp), seed 4", "it hangs\nand more", "/nowhere"))
    path = tmp_path / "page.md"
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write(path, tally)
    text = path.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "Seed 4, 2.00 hours" in text
    assert "| requests by channel | 1,234 | api: 1,200, page: 34 |" in text
    assert "| findings | 1 | |" in text
    assert "- job 3 (ddp), seed 4: it hangs\n" in text
    path.write_text("no marks")
    with pytest.raises(ValueError, match="lacks the marks"):
        write(path, tally)


def test_the_report_has_the_marks() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text()
    assert text.index(BEGIN) < text.index(END)


def test_an_error_of_a_client_is_counted_by_its_type() -> None:
    assert answer(state="error", reason="StoreError: it is gone").short == "error (StoreError)"
    assert answer(state="error", reason="409 b'...'").short == "error (409)"
    assert answer().short == "applied"


def test_a_job_that_breaks_off_is_a_finding_and_keeps_its_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def breaks(*_: object, **__: object) -> list[str]:
        raise RuntimeError("as asked")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(command, "_live", breaks)
    tally = command.campaign(seed=2, seconds=60, only=5)
    [finding] = tally.findings
    assert "RuntimeError: as asked" in finding.what
    assert finding.job.startswith("job 5 ")
    assert Path(finding.folder).is_dir()
    assert tally.counts["jobs"] == 1


def test_unknown_jobs_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--jobs", "single,nosuch"])
    assert "there are no jobs nosuch" in capsys.readouterr().err


@pytest.mark.process
@pytest.mark.tier("all")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["single", "several", "hosts", "inputs"])
def test_a_short_campaign_finds_nothing(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tally = command.campaign(seed=1, seconds=0.1, kinds=[kind], each=3.0)
    assert tally.findings == []
    assert tally.counts["jobs"] == 1
    assert tally.sum("check: ") > 0
    assert tally.sum("request: ") + tally.sum("input: ") > 0
